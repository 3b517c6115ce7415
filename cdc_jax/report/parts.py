"""What is shown of a family beside its tables: plots, galleries, words."""

import dataclasses
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from cdc_jax.report.cells import Cell, scores
from cdc_jax.report.curves import (
    Plot,
    ablation_curves,
    difference_plots,
    epoch_curves,
    few_shot_curves,
    read_curve,
)
from cdc_jax.report.drawing import Style, styles
from cdc_jax.report.families import Family
from cdc_jax.report.gallery import gallery_figures, read_gallery
from cdc_jax.report.markup import element
from cdc_jax.report.measures import primary
from cdc_jax.report.table import Table, with_shots
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
      galleries: of the same, as HTML.
    """

    family: Family
    reference: str | None
    tables: Sequence[Table]
    general: Sequence[Plot]
    plots: Sequence[tuple[str, Sequence[Plot]]]
    galleries: Sequence[ET.Element]

    @property
    def title(self) -> str:
        """Heading of the part."""
        one = self.family.datasets[0] if len(self.family.datasets) == 1 else ""
        if self.family.intervenes:
            return one.replace("world ", "The world, ") or self.family.heading
        return f"{self.family.heading}{one and f', {one}'}"


def check(cells: Sequence[Cell]) -> None:
    """Reads what only drawings need, so that a broken file is told before they are made.

    Raises:
      ValueError: a broken file; it is named.
    """
    for cell in cells:
        read_curve(cell)
        interpretation(cell)
        read_gallery(cell)
        scores(cell.folder, cell.splits)


def part(family: Family, name: str, reference: str | None, tables: Sequence[Table]) -> Part:
    """Draws the plots of a family.

    Args:
      family: its cells.
      name: unique in a report; begins the names of its plots.
      reference: title of a row of it, or None.
      tables: of the family.
    """
    shown, shown_reference = family.main(reference)
    zero_shot = [row for row, cells in shown.rows.items() if cells[0].role == "zero-shot"]
    order = sorted(shown.rows, key=lambda row: row != shown_reference)  # the reference first
    looks = styles(order, shown_reference, next(iter(zero_shot), None))
    general = [
        plot
        for table in tables
        if table.name == "differences" and table.shots == family.shots[-1]
        for plot in difference_plots(table, primary(family).title, f"{name}-difference")
    ]
    general += few_shot_curves(shown, looks, name)
    plots, galleries = [], []
    for d, dataset in enumerate(family.datasets):
        shots = max(cell.shots for cell in family.cells() if cell.dataset == dataset)
        cells = {
            row: own
            for row, found in with_shots(shown, shots).items()
            if (own := [cell for cell in found if cell.dataset == dataset])
        }
        where = [dataset] if len(family.datasets) > 1 else []
        where += [f"{shots} shot{'s' * (shots > 1)}"] if len(family.shots) > 1 else []
        key = f"{name}-{d}"
        drawn = ablation_curves(family, dataset, shots, key) + _plots(cells, looks, key)
        plots.append((", ".join(where), drawn))
        galleries += _gallery(cells, shown_reference, where)
    return Part(shown, shown_reference, tables, general, plots, galleries)


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


def _gallery(
    cells: Mapping[str, Sequence[Cell]], reference: str | None, where: Sequence[str]
) -> list[ET.Element]:
    """Of the reference, or else the last row that has one, with the words of its templates."""
    order = [row for row in cells if row == reference]
    order += [row for row in reversed(list(cells)) if row != reference]
    for row in order:
        for cell in cells[row]:
            found = gallery_figures(cell, ", ".join([row, *where]))
            words = _words(cell, row)
            if found or words is not None:
                return [*found, *([words] if words is not None else [])]
    return []


def _words(cell: Cell, row: str) -> ET.Element | None:
    """The words nearest to each learned vector."""
    content = interpretation(cell)
    if content is None or not content["words"]:
        return None
    lines = [
        element(
            "tr",
            element("th", f"t{m}", scope="row"),
            *(
                element(
                    "td",
                    ", ".join(
                        f"{near['word'].removesuffix('</w>')} {near['distance']:.2f}"
                        for near in nearest[:3]
                    ),
                    class_="text words",
                )
                for nearest in vectors
            ),
        )
        for m, vectors in enumerate(content["words"], 1)
    ]
    most = max(map(len, content["words"]))
    head = [
        element("th", "template", scope="col"),
        *(element("th", f"vector {v}", scope="col", class_="text") for v in range(1, most + 1)),
    ]
    grid = element("table", element("thead", element("tr", *head)), element("tbody", *lines))
    title = f"Words nearest to the learned vectors: {row}"
    return element(
        "figure",
        element("h3", title),
        element("div", grid, class_="scroll", tabindex="0", role="region", aria_label=title),
        element(
            "figcaption",
            f"For each learned vector the nearest word embeddings and their distances (seed "
            f"{cell.seed}). Near words are no proof of meaning: distances of this size are common.",
        ),
        class_="table",
    )
