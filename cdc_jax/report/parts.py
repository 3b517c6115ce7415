"""What is shown of a family: its tables, plots and galleries, and what it is called."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from cdc_jax.report.cells import Cell, scores
from cdc_jax.report.curves import (
    ablation_curves,
    difference_plots,
    epoch_curves,
    few_shot_curves,
    read_curve,
)
from cdc_jax.report.drawing import Plot, Style, styles
from cdc_jax.report.families import Family
from cdc_jax.report.figures import primary
from cdc_jax.report.gallery import galleries, read_gallery
from cdc_jax.report.table import Table, number
from cdc_jax.report.tables import capitalized, plural
from cdc_jax.report.templates import interpretation, template_accuracy, template_maps
from cdc_jax.report.trust import histograms, read_scores, reliability, risk_coverage

_PANELS = 8  # methods that get a panel of their own in small multiples, the reference first


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
    galleries: Sequence[Any]

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
    """Reads what only drawings need, so that a broken file is told before they are made.

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
    general = [
        plot
        for table in tables
        if table.name == "differences" and table.shots == family.shots[-1]
        for plot in difference_plots(table, primary(family).title, f"{name}-difference")
    ]
    general += few_shot_curves(main, looks, name)
    plots, shelves = [], []
    for d, dataset in enumerate(family.datasets):
        shots = max(cell.task.shots for cell in family.cells() if cell.task.dataset == dataset)
        cells = main.at(shots, dataset)
        where = [dataset] if len(family.datasets) > 1 else []
        where += [plural(shots)] if len(family.shots) > 1 else []
        key = f"{name}-{d}"
        drawn = ablation_curves(family, dataset, shots, key) + _plots(cells, looks, key)
        plots.append((", ".join(where), drawn))
        order = sorted(reversed(list(cells)), key=lambda row: row != main_reference)
        shelves += galleries(cells, order, "".join(f", {place}" for place in where))
    return Part(main, main_reference, tables, general, plots, shelves)


def _plots(
    cells: Mapping[str, Sequence[Cell]], looks: Mapping[str, Style], name: str
) -> list[Plot]:
    scored = read_scores(cells)
    few = {row: scored[row] for row in list(looks)[:_PANELS] if row in scored}
    return [
        *epoch_curves(cells, looks, name),
        *risk_coverage(scored, looks, name),
        *reliability(few, looks, name),
        *histograms(few, name),
        *template_accuracy(cells, looks, name),
        *template_maps(cells, name),
    ]
