"""The papers' tables: accuracy by method, dataset and shots."""

from collections.abc import Sequence

from cdc_jax.report import comparisons, published
from cdc_jax.report.families import Family
from cdc_jax.report.measures import calibration, measures, primary, source_split
from cdc_jax.report.table import (
    Column,
    Row,
    Table,
    Value,
    assemble,
    capitalized,
    columns_of,
    entry,
    measured,
    scopes,
    with_shots,
)

_INTERVENTIONS = (
    "Accuracy in percent on base and new classes. iid: the training correlation; int: "
    "do(task-irrelevant factors); rev: correlation permuted; style: unseen styles. H is the "
    "harmonic mean of base and new, iid, and H_int the same under do(). The others are means over "
    "base_int and new_int."
)
_CAPTIONS = {
    "base_new": "Accuracy in percent on base and new classes, and their harmonic mean H. H of the "
    "average is computed from the averaged base and new.",
    "few_shot": "Accuracy in percent over all classes.",
    "transfer": "Accuracy in percent on other datasets, or in other domains, than what was learned "
    "on. The average is over these targets. Of the world, they are under do(task-irrelevant "
    "factors), and the source is where the correlation holds.",
}
_EXTRAS = ("ece", "auroc", "novelty")
"""Measures of `calibration` that tables under interventions show as well."""


def family_tables(family: Family, reference: str | None) -> list[Table]:
    """All tables of a family; those without data are left out.

    Args:
      family: its cells.
      reference: title of the row that the others are compared with, or None.
    """
    shown, shown_reference = family.main(reference)
    tables: list[Table | None] = [shots_table(shown, shown_reference)]
    for shots in family.shots:
        said_by_shots = family.protocol == "few_shot" and tables[0] is not None
        tables += [
            None if said_by_shots else main_table(shown, shots, shown_reference),
            matrix_table(shown, shots, shown_reference),
            comparisons.difference_table(shown, shots, shown_reference),
            *comparisons.room_tables(shown, shots),
            comparisons.calibration_table(shown, shots, shown_reference),
            comparisons.template_table(shown, shots),
            *comparisons.ablation_tables(family, shots, reference),
        ]
    return [table for table in tables if table is not None]


def main_table(family: Family, shots: int, reference: str | None) -> Table:
    """Methods by measures, for the average of the datasets and for each of them."""
    columns = measures(family)
    if family.intervenes:
        columns += [measure for measure in calibration(family) if measure.key in _EXTRAS]
    groups = []
    for title, datasets in scopes(family, shots):
        rows = measured(family, datasets, shots, columns, reference)
        if family.protocol == "base_new":
            one = datasets[0] if len(datasets) == 1 else None
            found = published.base_new(family, one, shots)
            rows += [_published(row, (row.base, row.new, row.h), len(columns)) for row in found]
        if family.protocol == "transfer" and source_split(family.cells()[0]):
            found = published.source(family, shots)
            rows += [_published(row, (row.base,), len(columns)) for row in found]
        groups.append((title, rows))
    caption = _INTERVENTIONS if family.intervenes else _CAPTIONS[family.protocol]
    return assemble(family, shots, "accuracy", "accuracy", caption, columns_of(columns), groups)


def matrix_table(family: Family, shots: int, reference: str | None) -> Table | None:
    """Methods by datasets and their average, of the primary measure: H_int, H or accuracy."""
    first, *each = scopes(family, shots)
    if not each or family.protocol == "transfer":
        return None
    measure = primary(family)
    rows = [
        Row(title, tuple(entry(cells, datasets, measure) for _, datasets in [*each, first]), mark)
        for title, cells in with_shots(family, shots).items()
        for mark in ["reference" if title == reference else ""]
    ]
    title = f"{measure.title} by dataset"
    columns = [Column(name, measure.digits) for name in (*(name for name, _ in each), "average")]
    caption = (
        f"{capitalized(measure.title)} in percent. A method without an average lacks a dataset."
    )
    return assemble(family, shots, "datasets", title, caption, columns, [("", rows)])


def shots_table(family: Family, reference: str | None) -> Table | None:
    """Methods by numbers of shots, for the average of the datasets and for each of them."""
    if len(family.shots) == 1 or family.protocol == "transfer":
        return None
    measure = primary(family)
    groups = []
    for title, datasets in scopes(family):
        rows = []
        for row, cells in family.rows.items():
            values = tuple(
                entry([cell for cell in cells if cell.shots == shots], datasets, measure)
                for shots in family.shots
            )
            if any(values):
                rows.append(Row(row, values, "reference" if row == reference else ""))
        groups.append((title, rows))
    columns = [Column(f"{n} shot{'s' if n > 1 else ''}", measure.digits) for n in family.shots]
    title = f"{measure.title} by shots"
    caption = f"{capitalized(measure.title)} in percent by the number of training images a class."
    return assemble(family, None, "shots", title, caption, columns, groups)


def _published(row: published.Published, known: Sequence[float | None], width: int) -> Row:
    nan = float("nan")
    values = [None if mean is None else Value(mean, nan, nan, nan, 0) for mean in known]
    cells = (*values, *[None] * (width - len(values)))
    return Row(f"{row.title}, published", cells, "published", row.source)
