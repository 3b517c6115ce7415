"""The most and least certain images of a cell, and the words near its learned vectors."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from cdc_jax.report.cells import Cell

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


def gallery(cell: Cell, row: str, title: str) -> Gallery | None:
    """The gallery of a row's cell; None without images and words."""
    images: dict[str, list[dict[str, Any]]] = {"most certain": [], "least certain": []}
    for entry in cell.gallery:
        if entry["end"] in images and entry["split"] in cell.headline:
            image, size = _image(cell.gallery_path(entry["file"]))
            images[entry["end"]].append(entry | {"image": image, "size": size})
    near = (cell.interpretation or {"words": []})["words"]
    return (
        Gallery(row, title, cell.task.seed, images, near) if near or any(images.values()) else None
    )


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
