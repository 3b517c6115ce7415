"""What a table is, and the values in it.

Every value is a mean over seeds with its standard deviation, 95 % t-interval and number. In the
row of an average over datasets, a seed counts where all datasets have it, and a measure is
computed from the averaged accuracies: H from the averaged base and new, as in the published tables.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from cdc_jax import metrics
from cdc_jax.report.cells import Cell
from cdc_jax.report.families import Family, dataset_order
from cdc_jax.report.measures import Measure, average


@dataclasses.dataclass(frozen=True)
class Value:
    """Mean, sample standard deviation and 95 % t-interval of n values; NaN where n is 1."""

    mean: float
    sd: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True)
class Row:
    """A row; `mark` is "reference", "published", "room" or nothing, `source` where published."""

    title: str
    cells: tuple[Value | str | None, ...]
    mark: str = ""
    source: str = ""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column's title, digits after the point, and whether less is better, None for no order.

    `text` is set for columns of words, `about` is what captions say of it.
    """

    title: str
    digits: int = 1
    falling: bool | None = False
    text: bool = False
    about: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      name: of its kind.
      shots: of its runs, None for several.
      title: what is in it.
      where: the protocol and task.
      caption: what its figures are.
      head: title of the rows' column.
      columns: of the values.
      groups: (title, rows), in order; one group without a title needs none.
      group_head: what groups are.
      notes: printed below it.
      signed: values are differences.
    """

    name: str
    shots: int | None
    title: str
    where: str
    caption: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    head: str = "method"
    group_head: str = "dataset"
    notes: tuple[str, ...] = ()
    signed: bool = False


def over_seeds(values: Iterable[float]) -> Value | None:
    """The value of a table cell, from one number a seed; NaN doesn't count."""
    x = np.array([value for value in values if not np.isnan(value)], np.float64)
    if not x.size:
        return None
    mean, low, high, n = metrics.mean_interval(x)
    return Value(mean, float(x.std(ddof=1)) if n > 1 else float("nan"), low, high, n)


def entry(cells: Sequence[Cell], datasets: Sequence[str], measure: Measure) -> Value | None:
    """A row's value: over seeds, of one dataset or of the average over several.

    Args:
      cells: of one row and one number of shots.
      datasets: None of them may lack.
      measure: what.
    """
    seeds = {cell.seed for cell in cells}
    by_seed = [
        own
        for seed in sorted(seeds)
        if len(own := [c for c in cells if c.seed == seed and c.dataset in datasets])
        == len(datasets)
        and not np.isnan(measure.of(average(own)))
    ]
    value = over_seeds(measure.of(average(own)) for own in by_seed)
    if value is None or len(datasets) == 1:
        return value
    of_average = measure.of(average([cell for own in by_seed for cell in own]))
    return dataclasses.replace(value, mean=of_average)


def first_column(table: Table, title: str) -> dict[str, Value]:
    """Row -> value in the column of that title, in the first group; what has none is left out."""
    index = [i for i, column in enumerate(table.columns) if column.title == title]
    cells = {row.title: row.cells[i] for row in table.groups[0][1] for i in index}
    return {row: cell for row, cell in cells.items() if isinstance(cell, Value)}


Groups = Sequence[tuple[str, Sequence[Row]]]


def measured(
    family: Family,
    datasets: Sequence[str],
    shots: int,
    columns: Sequence[Measure],
    reference: str | None = None,
) -> list[Row]:
    """A row for every method that has cells of these datasets and shots."""
    rows = []
    for title, cells in with_shots(family, shots).items():
        values = tuple(entry(cells, datasets, measure) for measure in columns)
        if any(values):
            rows.append(Row(title, values, "reference" if title == reference else ""))
    return rows


def with_shots(family: Family, shots: int) -> dict[str, list[Cell]]:
    """The rows that have cells of that many shots, and those cells."""
    found = {
        title: [cell for cell in cells if cell.shots == shots]
        for title, cells in family.rows.items()
    }
    return {title: cells for title, cells in found.items() if cells}


def scopes(
    family: Family, shots: int | None = None, together: str = "Average"
) -> list[tuple[str, tuple[str, ...]]]:
    """The groups of a table: the average of all datasets if there are several, and each."""
    datasets = tuple(
        sorted(
            {cell.dataset for cell in family.cells() if shots in (None, cell.shots)},
            key=dataset_order,
        )
    )
    if len(datasets) == 1:
        return [("", datasets)]
    first = (f"{together} of {len(datasets)} datasets", datasets)
    return [first, *((dataset, (dataset,)) for dataset in datasets)]


def capitalized(text: str) -> str:
    """The text as a heading or a sentence."""
    return text[:1].upper() + text[1:]


def columns_of(chosen: Sequence[Measure]) -> list[Column]:
    """The columns of measures."""
    return [Column(m.title, m.digits, m.falling, about=m.about) for m in chosen]


def assemble(
    family: Family,
    shots: int | None,
    name: str,
    title: str,
    caption: str,
    columns: Sequence[Column],
    groups: Groups,
) -> Table:
    """A table of a family, without its empty columns and groups, with its tasks' notes."""
    cells = [cell for cell in family.cells() if shots in (None, cell.shots)]
    datasets = {cell.dataset for cell in cells}
    where = [family.heading, *(datasets if len(datasets) == 1 else ()), family.title]
    where += [f"{shots} shot{'s' if shots > 1 else ''}"] if shots else []
    kept = [
        i
        for i in range(len(columns))
        if any(row.cells[i] is not None for _, rows in groups for row in rows)
    ]
    said = [f"{columns[i].title}: {columns[i].about}" for i in kept if columns[i].about]
    return Table(
        name=name,
        shots=shots,
        title=capitalized(f"{title}, {where[-1]}" if shots and len(family.shots) > 1 else title),
        where=", ".join(part for part in where if part),
        caption=" ".join([caption, *([f"{'; '.join(said)}."] if said else [])]),
        columns=tuple(columns[i] for i in kept),
        groups=tuple(
            (
                group,
                tuple(
                    dataclasses.replace(row, cells=tuple(row.cells[i] for i in kept))
                    for row in rows
                ),
            )
            for group, rows in groups
            if rows
        ),
        notes=tuple(sorted({f"{cell.dataset}: {cell.note}" for cell in cells if cell.note})),
    )
