"""The most and least certain images of a cell, and the words near its learned vectors."""

import base64
import dataclasses
import io
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
    """What the page shows of a cell.

    Attributes:
      row: title of its row.
      title: the row, with dataset and shots if the report has several.
      seed: of the cell.
      images: "most certain" or "least certain" -> entries, each with its `image` and `size`.
      words: for every template and vector the nearest words.
    """

    row: str
    title: str
    seed: int
    images: Mapping[str, Sequence[Mapping[str, Any]]]
    words: Sequence[Sequence[Sequence[Mapping[str, Any]]]]


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


def gallery(cell: Cell, row: str, where: str) -> Gallery | None:
    """The gallery of a row's cell; None without images and words."""
    images: dict[str, list[dict[str, Any]]] = {"most certain": [], "least certain": []}
    for entry in read_gallery(cell):
        if entry["end"] in images:
            image, size = _image(_path(cell.folder, entry["file"]))
            images[entry["end"]].append(entry | {"image": image, "size": size})
    near = (interpretation(cell) or {"words": []})["words"]
    shown = near or any(images.values())
    return Gallery(row, row + where, cell.task.seed, images, near) if shown else None


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
