"""The tables of a family: accuracies by method, dataset and shots, calibration, templates."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from cdc_jax.report import published
from cdc_jax.report.families import Family
from cdc_jax.report.figures import (
    Cells,
    Runs,
    calibration,
    headline,
    measures,
    over_seeds,
    primary,
    source_split,
)
from cdc_jax.report.table import Column, Row, Table
from cdc_jax.report.words import capitalized, words

Groups: TypeAlias = Sequence[tuple[str, Sequence[Row]]]


def rows_of(cells: Mapping[str, Cells], reference: str | None) -> list[Row]:
    """Rows of values, the reference marked."""
    return [Row(row, own, "reference" if row == reference else "") for row, own in cells.items()]


def assemble(
    family: Family, shots: int | None, name: str, title: str, caption: str,
    columns: Sequence[Column], groups: Groups, **more: Any,
) -> Table:  # fmt: skip
    """A table of a family, without its empty columns and groups, with its tasks' notes."""
    cells = [cell for cell in family.cells() if shots in (None, cell.task.shots)]
    datasets = {cell.task.dataset for cell in cells}
    where = [family.heading, *(datasets if len(datasets) == 1 else ()), family.title]
    where += [plural(shots)] if shots else []
    rows = [row for _, own in groups for row in own]
    kept = [c for c in range(len(columns)) if any(row.cells[c] is not None for row in rows)]
    abouts = [f"{columns[c].title}: {columns[c].about}" for c in kept if columns[c].about]

    def narrow(row: Row) -> Row:
        return dataclasses.replace(row, cells=tuple(row.cells[c] for c in kept))

    return Table(
        name=name,
        shots=shots,
        title=capitalized(f"{title}, {where[-1]}" if shots and len(family.shots) > 1 else title),
        where=", ".join(filter(None, where)),
        caption=f"{caption} {'; '.join(abouts)}." if abouts else caption,
        columns=tuple(columns[c] for c in kept),
        groups=tuple((group, tuple(map(narrow, rows))) for group, rows in groups if rows),
        notes=tuple(sorted({f"{cell.task.dataset}: {cell.note}" for cell in cells if cell.note})),
        **more,
    )


def accuracy(runs: Runs) -> Table:
    """Methods by measures, for the average of the datasets and for each of them."""
    family, columns = runs.family, measures(runs.family)
    if family.intervenes:
        columns += calibration(family, "ece", "auroc", "novelty")
    compared = family.protocol != "transfer" or source_split(family.cells()[0])
    groups = []
    for title, datasets in family.scopes(runs.shots):
        rows = rows_of(runs.values(datasets, columns), runs.reference)
        if compared:
            rows += published.rows(family, datasets, runs.shots, len(columns))
        groups.append((title, rows))
    caption = words("tables", "interventions" if family.intervenes else family.protocol)
    return assemble(family, runs.shots, "accuracy", "accuracy", caption, columns, groups)


def by_dataset(runs: Runs) -> Table | None:
    """Methods by datasets and their average, of the primary measure: H_int, H or accuracy."""
    family, measure = runs.family, primary(runs.family)
    average, *each = family.scopes(runs.shots)
    if not each or family.protocol == "transfer":
        return None
    names, scopes = zip(*each, ("average", average[1]), strict=True)
    values = [runs.values(datasets, [measure]) for datasets in scopes]
    rows = rows_of(_across(family.at(runs.shots), values), runs.reference)
    columns = [Column(name, measure.digits) for name in names]
    title = f"{measure.title} by dataset"
    caption = words("tables", "datasets", measure=capitalized(measure.title))
    return assemble(family, runs.shots, "datasets", title, caption, columns, [("", rows)])


def by_shots(family: Family, reference: str | None) -> Table | None:
    """Methods by numbers of shots, for the average of the datasets and for each of them."""
    if len(family.shots) == 1 or family.protocol == "transfer":
        return None
    measure = primary(family)
    parts = [Runs(family, shots, reference) for shots in family.shots]
    groups = []
    for title, datasets in family.scopes():
        values = [runs.values(datasets, [measure]) for runs in parts]
        rows = [row for row in family.rows if any(row in cells for cells in values)]
        groups.append((title, rows_of(_across(rows, values), reference)))
    columns = [Column(plural(shots), measure.digits) for shots in family.shots]
    caption = words("tables", "shots", measure=capitalized(measure.title))
    return assemble(family, None, "shots", f"{measure.title} by shots", caption, columns, groups)


def _across(rows: Iterable[str], columns: Sequence[Mapping[str, Cells]]) -> dict[str, Cells]:
    """Row -> its only value in every column."""
    return {row: tuple(cells.get(row, (None,))[0] for cells in columns) for row in rows}


def calibrated(runs: Runs) -> Table:
    """How far the predictions' probabilities and uncertainties can be trusted."""
    columns = calibration(runs.family)
    groups = [
        (title, rows_of(runs.values(datasets, columns), runs.reference))
        for title, datasets in runs.family.scopes(runs.shots)
    ]
    splits = ", ".join(headline(runs.family.cells()[:1]))
    caption = words("tables", "calibration", splits=splits)
    title = "calibration and uncertainty"
    return assemble(runs.family, runs.shots, "calibration", title, caption, columns, groups)


def templates(runs: Runs) -> Table | None:
    """Each template's accuracy alone beside the fused one's, of the methods with several."""
    groups = []
    for dataset in runs.family.datasets:
        rows = []
        for row, cells in runs.family.at(runs.shots, dataset).items():
            for split in headline(cells[:1]):
                alone = [cell.splits[split]["template_accuracy"] for cell in cells]
                if min(map(len, alone)) > 1:
                    fused = [cell.splits[split]["accuracy"] for cell in cells]
                    means = map(over_seeds, [fused, *zip(*alone, strict=True)])
                    rows.append(Row(row, (split, *means)))
        groups.append((dataset if len(runs.family.datasets) > 1 else "", rows))
    width = max((len(row.cells) for _, rows in groups for row in rows), default=0)
    if not width:
        return None
    padded = [
        (group, [Row(row.title, (*row.cells, *[None] * (width - len(row.cells)))) for row in rows])
        for group, rows in groups
    ]
    columns = [Column("split", text=True), Column("fused", falling=None)]
    columns += [Column(f"t{m}", falling=None) for m in range(1, width - 1)]
    caption = words("tables", "templates")
    title = "templates alone and fused"
    return assemble(runs.family, runs.shots, "templates", title, caption, columns, padded)


def plural(shots: int) -> str:
    """A number of shots for people."""
    return f"{shots} shot{'s' * (shots > 1)}"
