"""The page: one HTML file with every table, plot and gallery, that needs no network.

A part of it shows a family: `page.html` is the template of all parts. A plot of one task is a
function in `_TASK_PLOTS`: it draws the rows of a family on that task, or nothing.
"""

import base64
import dataclasses
import io
import itertools
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import markupsafe
import PIL.Image

from cdc_jax.report import curves, maps, trust
from cdc_jax.report.cells import Cell
from cdc_jax.report.drawing import Plot, Style, styles, stylesheet
from cdc_jax.report.families import Family, plural
from cdc_jax.report.figures import primary
from cdc_jax.report.formats import environment
from cdc_jax.report.table import Table, joined, number
from cdc_jax.report.words import words

_TASK_PLOTS: Sequence[Callable[[list[Plot], Family, Mapping[str, Style], str], None]] = (
    curves.epoch_curves, trust.reliability, trust.guaranteed_risk, trust.risk_coverage,
    maps.confusion_maps, trust.uncertainties, curves.template_accuracy, maps.template_maps,
)  # fmt: skip
_NAMED = 8  # rows in a sentence, at most
_SMALL = 96  # pixels; below that, pixels are shown as squares


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The images of a cell and the words near its learned vectors.

    `images` has the entries at each end of a gallery (a key of its captions). The title is the
    row's, with dataset and shots if there are several.
    """

    row: str
    title: str
    seed: int
    images: Mapping[str, Sequence[Mapping[str, Any]]]
    words: Sequence[Sequence[Sequence[Mapping[str, Any]]]]


@dataclasses.dataclass(frozen=True)
class Part:
    """A family, without what only ablations show, and what is shown of it.

    `general` are plots of all its tasks together, `plots` (task, plots) at the most shots.
    """

    family: Family
    tables: Sequence[Table]
    general: Sequence[Plot]
    plots: Sequence[tuple[str, Sequence[Plot]]]
    galleries: Sequence[Gallery]

    @property
    def title(self) -> str:
        """Heading of the part."""
        one = self.family.datasets[0] if len(self.family.datasets) == 1 else ""
        if self.family.intervenes:
            return one.replace("world ", "The world, ") or self.family.heading
        return joined(self.family.heading, one, by=", ")

    @property
    def full_title(self) -> str:
        """The heading with what distinguishes the family from the others."""
        return joined(self.title, self.family.title, by=", ")

    @property
    def lead(self) -> str:
        """What the paired differences say, in a sentence; nothing where there are none."""
        table = next((t for t in reversed(self.tables) if t.name == "differences"), None)
        if table is None:
            alone = len(self.family.rows) < 2
            return "" if alone else f"{self.full_title}: no run of the method to compare with."
        measure = primary(self.family).title
        rows: dict[str, dict[str, float]] = {sign: {} for sign in words("verdicts")}
        for row, value in table.values(measure).items():
            rows[str(value.sign)][row.removeprefix("− ")] = value.mean
        texts = [f"{words('verdicts', sign)} {_named(own)}" for sign, own in rows.items() if own]
        measure = measure.replace("average", "average accuracy")
        lead = f"{self.full_title}: in {measure}, {self.family.reference} is {'; '.join(texts)}."
        return lead if texts else ""


def _named(points: Mapping[str, float]) -> str:
    """Rows with their points; of many rows, how many there are and the range."""
    if len(points) > _NAMED:
        least, most = (number(f(points.values()), 1, signed=True) for f in (min, max))
        return words("many_rows", count=len(points), least=least, most=most)
    return ", ".join(f"{row} ({number(x, 1, signed=True)})" for row, x in points.items())


def part(family: Family, tables: Sequence[Table]) -> Part:
    """Draws the plots of a family, which has these tables."""
    main, by_name = family.main(), {(table.name, table.shots): table for table in tables}
    rows = sorted(main.rows, key=lambda row: row != main.reference)  # the reference first
    zero_shot = [row for row, cells in main.rows.items() if cells[0].row.role == "zero-shot"]
    looks = styles(rows, main.reference, *zero_shot[:1])
    general: list[Plot] = []
    if table := by_name.get(("differences", family.shots[-1])):
        curves.difference_plot(general, main, family.name, table)
    if table := by_name.get(("shots", None)):
        curves.few_shot_curves(general, main, looks, family.name, table)
    plots, galleries = [], list[Gallery]()
    for d, dataset in enumerate(family.datasets):
        shots = family.at(dataset=dataset).shots[-1]
        here, name = main.at(dataset=dataset, shots=shots), f"{family.name}-{d}"
        drawn: list[Plot] = []
        curves.ablation_curves(drawn, family.at(dataset=dataset, shots=shots), name)
        for draw in _TASK_PLOTS if here.rows else ():
            draw(drawn, here, looks, name)
        several = (len(family.datasets) > 1, len(family.shots) > 1)
        place = ", ".join(itertools.compress((dataset, plural(shots)), several))
        plots.append((place, drawn))
        order = sorted(reversed(list(here.rows)), key=lambda row: row != main.reference)
        each = (_gallery(cell, row, place) for row in order for cell in here.rows[row])
        galleries += itertools.islice(filter(None, each), 1)
    return Part(main, tables, general, plots, galleries)


def page(parts: Sequence[Part], cells: Sequence[Cell], missing: Sequence[str]) -> str:
    """The page as text; names in it are only ever text."""
    templates = environment()
    templates.filters["svg"] = _svg
    css = resources.files("cdc_jax.report").joinpath("page.css").read_text("utf-8")
    return templates.get_template("page.html").render(
        methods={cell.row.row for cell in cells},
        tasks={cell.task.dataset for cell in cells},
        css=markupsafe.Markup(stylesheet() + css),
        leads=list(filter(None, (part.lead for part in parts))),
        parts=parts,
        cells=cells,
        missing=missing,
    )


def _gallery(cell: Cell, row: str, place: str) -> Gallery | None:
    """The gallery of a row's cell; None without images and words."""
    images: dict[str, list[dict[str, Any]]] = {end: [] for end in words("galleries", "ends")}
    for entry in cell.gallery:
        if entry["end"] in images and entry["split"] in cell.headline:
            image, size = _image(entry["path"])
            images[entry["end"]].append(entry | {"image": image, "size": size})
    near = (cell.interpretation or {"words": []})["words"]
    if not near and not any(images.values()):
        return None
    return Gallery(row, joined(row, place, by=", "), cell.task.seed, images, near)


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


def _svg(drawing: ET.Element) -> markupsafe.Markup:
    return markupsafe.Markup(ET.tostring(drawing, encoding="unicode", method="html"))
