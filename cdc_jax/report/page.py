"""The page: one HTML file with every table, plot and gallery, that needs no network.

A part of it shows a family: `page.html` is the template of all parts.
"""

import dataclasses
import itertools
import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from importlib import resources

import jinja2
import markupsafe

from cdc_jax.report.cells import Cell, scores
from cdc_jax.report.curves import (
    ablation_curves,
    difference_plots,
    epoch_curves,
    few_shot_curves,
    read_curve,
)
from cdc_jax.report.drawing import Plot, styles, stylesheet
from cdc_jax.report.families import Family
from cdc_jax.report.figures import primary
from cdc_jax.report.gallery import Gallery, gallery, read_gallery
from cdc_jax.report.table import Table, joined, number, shown
from cdc_jax.report.tables import plural
from cdc_jax.report.templates import interpretation, template_accuracy, template_maps
from cdc_jax.report.trust import trust_plots
from cdc_jax.report.words import capitalized, words


@dataclasses.dataclass(frozen=True)
class Part:
    """A family with what is shown of it.

    Attributes:
      family: its cells, without what only ablations show.
      reference: title of the row that others are compared with, or None.
      tables: in order.
      general: plots of all its tasks together.
      plots: (dataset, plots) at its most shots, in order.
      galleries: of the same.
    """

    family: Family
    reference: str | None
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
        return f"{self.family.heading}{one and f', {one}'}"

    @property
    def full_title(self) -> str:
        """The heading with what distinguishes the family from the others."""
        return ", ".join(filter(None, [self.title, self.family.title]))

    @property
    def about(self) -> str:
        """Datasets, shots and seeds."""
        family = self.family
        seeds = sorted({cell.task.seed for cell in family.cells()})
        shots = " and ".join(", ".join(map(str, family.shots)).rsplit(", ", 1))
        texts = [
            f"{len(family.datasets)} datasets" if len(family.datasets) > 1 else "",
            f"{shots} {'shots' if family.shots != (1,) else 'shot'}",
            f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
            family.title,
        ]
        return capitalized(", ".join(filter(None, texts))) + "."

    @property
    def lead(self) -> str:
        """What the paired differences say, in a sentence; nothing where there are none."""
        table = next((t for t in reversed(self.tables) if t.name == "differences"), None)
        if table is None:
            alone = len(self.family.rows) < 2
            return "" if alone else f"{self.full_title}: no run of the method to compare with."
        measure = primary(self.family).title
        verdicts: dict[str, list[str]] = {verdict: [] for verdict in _VERDICTS.values()}
        for row, value in table.values(measure).items():
            side = None if math.isnan(value.low) else (value.low > 0) - (value.high < 0)
            points = number(value.mean, 1, signed=True)
            verdicts[_VERDICTS[side]].append(f"{row.removeprefix('− ')} ({points})")
        texts = [f"{verdict} {', '.join(rows)}" for verdict, rows in verdicts.items() if rows]
        measure = measure.replace("average", "average accuracy")
        lead = f"{self.full_title}: in {measure}, {self.reference} is {'; '.join(texts)}."
        return lead if texts else ""


_VERDICTS = {
    1: "ahead of",
    -1: "behind",
    0: "not separated from",
    None: "compared, on one pair of runs and so without an interval, with",
}


def check(cells: Sequence[Cell]) -> None:
    """Reads what only drawings need, so that a broken file stops the report before any is drawn.

    Raises:
      ValueError: a broken file; it is named.
    """
    for cell in cells:
        for read in (read_curve, interpretation, read_gallery, scores):
            read(cell)


def part(family: Family, name: str, reference: str | None, tables: Sequence[Table]) -> Part:
    """Draws the plots of a family.

    Args:
      family: its cells.
      name: unique in a report; begins the names of its plots.
      reference: title of a row of it, or None.
      tables: of the family.
    """
    main, main_reference = family.main(reference)
    zero_shot = [row for row, cells in main.rows.items() if cells[0].row.role == "zero-shot"]
    first = sorted(main.rows, key=lambda row: row != main_reference)  # the reference first
    looks = styles(first, main_reference, next(iter(zero_shot), None))
    by_name = {(table.name, table.shots): table for table in tables}
    general: list[Plot] = []
    if table := by_name.get(("differences", family.shots[-1])):
        general += difference_plots(table, primary(family).title, f"{name}-difference")
    if table := by_name.get(("shots", None)):
        general += few_shot_curves(main, table, looks, name)
    plots, shelves = [], []
    for d, dataset in enumerate(family.datasets):
        shots = max(cell.task.shots for cell in family.cells() if cell.task.dataset == dataset)
        cells = main.at(shots, dataset)
        where = [dataset] if len(family.datasets) > 1 else []
        where += [plural(shots)] if len(family.shots) > 1 else []
        key = f"{name}-{d}"
        table = by_name.get(("templates", shots))
        alone = dict(table.groups).get(dataset if len(family.datasets) > 1 else "") if table else ()
        drawn = [
            *ablation_curves(family, dataset, shots, key),
            *epoch_curves(cells, looks, key),
            *trust_plots(cells, looks, key),
            *template_accuracy(alone or (), looks, key),
            *template_maps(cells, key),
        ]
        plots.append((", ".join(where), drawn))
        order = sorted(reversed(list(cells)), key=lambda row: row != main_reference)
        suffix = "".join(f", {place}" for place in where)
        each = (gallery(cell, row, suffix) for row in order for cell in cells[row])
        shelves += list(itertools.islice(filter(None, each), 1))
    return Part(main, main_reference, tables, general, plots, shelves)


def page(parts: Sequence[Part], cells: Sequence[Cell], missing: Sequence[str]) -> str:
    """The page as text; names in it are only ever text."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.globals |= {"shown": shown, "joined": joined, "words": words}
    environment.filters["svg"] = _svg
    folder = resources.files("cdc_jax.report")
    html, css = (folder.joinpath(name).read_text("utf-8") for name in ("page.html", "page.css"))
    methods, tasks = {cell.row.row for cell in cells}, {cell.task.dataset for cell in cells}
    return environment.from_string(html).render(
        title=f"{_many(len(methods), 'method')} on {_many(len(tasks), 'task')}",
        css=markupsafe.Markup(stylesheet() + css),
        leads=list(filter(None, (part.lead for part in parts))),
        parts=parts,
        cells=cells,
        missing=missing,
    )


def _svg(drawing: ET.Element) -> markupsafe.Markup:
    return markupsafe.Markup(ET.tostring(drawing, encoding="unicode", method="html"))


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
