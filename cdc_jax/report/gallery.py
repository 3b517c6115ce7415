"""The most and least certain images of a cell, with what each template thought of them."""

import base64
import io
import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import PIL.Image

from cdc_jax.report.cells import Cell, read_json_list
from cdc_jax.report.markup import element
from cdc_jax.report.measures import headline
from cdc_jax.report.table import capitalized

_KEYS = ("split", "end", "file", "label", "predicted", "probability", "uncertainty")
_SHARE = (str, int | float)  # class, probability
_OPINION = (*_SHARE, int | float)  # class, probability, uncertainty
_SMALL = 96  # pixels; below that, pixels are shown as squares


def read_gallery(cell: Cell) -> list[dict[str, Any]]:
    """The entries of a cell's `gallery.json` of its headline splits; empty where it has none.

    Raises:
      ValueError: an entry lacks something, or its image isn't in the cell; the file is named.
    """
    path = cell.folder / "gallery.json"
    if not path.exists():
        return []
    entries = read_json_list(path)
    for entry in entries:
        missing = [key for key in _KEYS if key not in entry]
        if missing:
            raise ValueError(f"{path}: an image lacks {', '.join(missing)}; run that cell again")
        for key, kinds in (("probability", _SHARE), ("templates", _OPINION)):
            for found in entry.get(key) or ():
                if not isinstance(found, list) or not _are(found, kinds):
                    raise ValueError(f"{path}: {key} holds {found!r}; run that cell again")
        _image(cell.folder, entry["file"])
    shown = headline([cell])
    return [entry for entry in entries if entry["split"] in shown]


def _are(values: list[Any], kinds: tuple[Any, ...]) -> bool:
    return len(values) == len(kinds) and all(map(isinstance, values, kinds))


def _image(folder: Path, name: str) -> Path:
    """The image's path; what an entry names stays within its cell."""
    for path in (folder / name, folder / "gallery" / name):
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            return path
    raise ValueError(f"{folder / 'gallery.json'}: no image {name!r} in that folder")


def gallery_figures(cell: Cell, title: str) -> list[ET.Element]:
    """The gallery of a cell: the images that it is most certain of, and the least."""
    figures = []
    entries = read_gallery(cell)
    for end in ("most certain", "least certain"):
        if chosen := [entry for entry in entries if entry["end"] == end]:
            said = capitalized(end)
            figures.append(
                element(
                    "figure",
                    element("h3", f"{said}: {title}"),
                    element("ol", *(_card(cell, entry) for entry in chosen), class_="gallery"),
                    element(
                        "figcaption",
                        f"Test images of which {title} (seed {cell.seed}) is {end}: "
                        "the three likeliest classes, the uncertainty u or its logarithm, and "
                        "below them each template's own choice with its probability and "
                        "uncertainty.",
                    ),
                )
            )
    return figures


def _card(cell: Cell, entry: dict[str, Any]) -> ET.Element:
    right = entry["label"] == entry["predicted"]
    verdict = "right" if right else "wrong"
    said = [element("strong", str(entry["predicted"]))]
    if not right:
        said.append(element("span", f"is {entry['label']}", class_="truth"))
    facts = [_uncertainty(entry["uncertainty"])]
    if entry.get("conflict", math.nan) >= 0:
        facts.append(f"conflict {entry['conflict']:.2g}")
    opinions = [
        element(
            "tr",
            element("th", f"t{m}", scope="row"),
            element("td", str(name)),
            element("td", f"{probability:.2f}"),
            element("td", _uncertainty(uncertainty)),
        )
        for m, (name, probability, uncertainty) in enumerate(entry.get("templates") or [], 1)
    ]
    return element(
        "li",
        _picture(_image(cell.folder, entry["file"]), str(entry["label"])),
        element(
            "div",
            element("p", element("i", verdict, class_="badge"), *said, class_="verdict"),
            element("ul", *(_bar(str(k), p) for k, p in entry["probability"]), class_="bars"),
            element("p", f"{entry['split']} · {' · '.join(facts)}", class_="facts"),
        ),
        element("table", element("tbody", *opinions), class_="opinions") if opinions else None,
        class_=verdict,
    )


def _uncertainty(value: float) -> str:
    """A vacuity may be so small that heads report its logarithm."""
    return f"log u {value:.1f}" if value < 0 else f"u {value:.2g}"


def _bar(name: str, probability: float) -> ET.Element:
    width = f"width:{100 * min(max(probability, 0.0), 1.0):.1f}%"
    return element(
        "li",
        element("span", name),
        element("span", f"{probability:.2f}", class_="p"),
        element("i", element("i", style=width)),
    )


def _picture(path: Path, label: str) -> ET.Element:
    data = path.read_bytes()
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            kind, width = image.get_format_mimetype(), min(image.size)
    except PIL.UnidentifiedImageError:
        raise ValueError(f"{path}: not an image; run that cell again") from None
    return element(
        "img",
        src=f"data:{kind};base64,{base64.b64encode(data).decode()}",
        alt=label,
        class_="small" if width < _SMALL else "large",
        loading="lazy",
    )
