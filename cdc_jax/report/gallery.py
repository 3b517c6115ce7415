"""The most and least certain images of a cell, and the words near its learned vectors."""

import base64
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from cdc_jax import schema
from cdc_jax.report.cells import Cell, read_json
from cdc_jax.report.figures import headline
from cdc_jax.report.templates import interpretation

_KEYS = ("split", "end", "file", "label", "predicted", "probability", "uncertainty")
_SHARE = (str, int | float)  # class, probability
_OPINION = (*_SHARE, int | float)  # class, probability, uncertainty
_SMALL = 96  # pixels; below that, pixels are shown as squares


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images of a cell as the page shows them: cards of texts and a data URI."""

    title: str
    caption: str
    cards: Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Words:
    """The words nearest to each learned vector: a line a template, a text a vector."""

    title: str
    caption: str
    lines: Sequence[Sequence[str]]

    @property
    def width(self) -> int:
        """Vectors of the longest template."""
        return max(map(len, self.lines))


def read_gallery(cell: Cell) -> list[dict[str, Any]]:
    """The entries of a cell's `gallery.json` of its headline splits; empty where it has none.

    Raises:
      ValueError: an entry lacks something, or its image isn't in the cell; the file is named.
    """
    path = cell.folder / "gallery.json"
    if not path.exists():
        return []
    entries = read_json(path, schema.list_of(schema.table(schema.anything())))
    for entry in entries:
        if missing := [key for key in _KEYS if key not in entry]:
            raise ValueError(f"{path}: an image lacks {', '.join(missing)}; run that cell again")
        for key, kinds in (("probability", _SHARE), ("templates", _OPINION)):
            for item in entry.get(key) or ():
                fits = isinstance(item, list) and len(item) == len(kinds)
                if not fits or not all(map(isinstance, item, kinds)):
                    raise ValueError(f"{path}: {key} holds {item!r}; run that cell again")
        _path(cell.folder, entry["file"])
    return [entry for entry in entries if entry["split"] in headline([cell])]


def _path(folder: Path, name: str) -> Path:
    """The path of an image; an entry can't name one outside of its cell."""
    for path in (folder / name, folder / "gallery" / name):
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            return path
    raise ValueError(f"{folder / 'gallery.json'}: no image {name!r} in that folder")


def galleries(cells: Mapping[str, Sequence[Cell]], order: Sequence[str], where: str) -> list[Any]:
    """A gallery and the words of the first cell that has any.

    Args:
      cells: row -> its cells.
      order: of the rows.
      where: dataset and shots, if the report has several.
    """
    for row in order:
        for cell in cells[row]:
            shelves = [*_galleries(cell, row + where), *_words(cell, row)]
            if shelves:
                return shelves
    return []


def _galleries(cell: Cell, title: str) -> list[Gallery]:
    shelves = []
    entries = read_gallery(cell)
    for end in ("most certain", "least certain"):
        caption = (
            f"Test images of which {title} (seed {cell.task.seed}) is {end}: the three likeliest "
            "classes, the uncertainty u or its logarithm, and below them each template's own "
            "choice with its probability and uncertainty."
        )
        if chosen := [_card(cell, entry) for entry in entries if entry["end"] == end]:
            shelves.append(Gallery(f"{end.capitalize()}: {title}", caption, chosen))
    return shelves


def _card(cell: Cell, entry: Mapping[str, Any]) -> dict[str, Any]:
    image, size = _image(_path(cell.folder, entry["file"]))
    facts = [_uncertainty(entry["uncertainty"])]
    if entry.get("conflict", math.nan) >= 0:
        facts.append(f"conflict {entry['conflict']:.2g}")
    opinions = [(name, p, _uncertainty(u)) for name, p, u in entry.get("templates") or ()]
    verdict = "right" if entry["label"] == entry["predicted"] else "wrong"
    return {
        **entry, "verdict": verdict, "image": image, "size": size, "facts": facts,
        "opinions": opinions,
    }  # fmt: skip


def _uncertainty(value: float) -> str:
    """A vacuity may be so small that heads report its logarithm."""
    return f"log u {value:.1f}" if value < 0 else f"u {value:.2g}"


def _image(path: Path) -> tuple[str, str]:
    """A data URI, and whether the image is small or large."""
    data = path.read_bytes()
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            size = "small" if min(image.size) < _SMALL else "large"
            kind = image.get_format_mimetype()
    except PIL.UnidentifiedImageError:
        raise ValueError(f"{path}: not an image; run that cell again") from None
    return f"data:{kind};base64,{base64.b64encode(data).decode()}", size


def _words(cell: Cell, row: str) -> list[Words]:
    content = interpretation(cell)
    if content is None or not content["words"]:
        return []
    lines = [
        [
            ", ".join(f"{n['word'].removesuffix('</w>')} {n['distance']:.2f}" for n in nearest[:3])
            for nearest in vectors
        ]
        for vectors in content["words"]
    ]
    caption = (
        f"For each learned vector the nearest word embeddings and their distances (seed "
        f"{cell.task.seed}). Near words are no proof of meaning: distances of this size are common."
    )
    return [Words(f"Words nearest to the learned vectors: {row}", caption, lines)]
