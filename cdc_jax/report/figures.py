"""The long table of figures, the measures of a family, and their values over seeds.

Every value is a mean over seeds with its standard deviation, 95 % t-interval and number. In the
row of an average over datasets, a seed counts where all datasets have it, and a measure is
computed from the averaged accuracies: H from the averaged base and new, as in the published tables.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cdc_jax import metrics
from cdc_jax.records import INTERVENTION
from cdc_jax.report.cells import Cell
from cdc_jax.report.families import Family
from cdc_jax.report.table import Column, Value
from cdc_jax.report.words import words

_RUN = ["row", "dataset", "seed"]


def long_table(rows: Mapping[str, Sequence[Cell]]) -> pd.DataFrame:
    """One line a figure of a run's split: row, dataset, seed, split, figure, value."""
    lines = [
        (row, cell.task.dataset, cell.task.seed, split, figure, value)
        for row, cells in rows.items()
        for cell in cells
        for split, figures in cell.splits.items()
        for figure, value in figures.items()
        if isinstance(value, int | float)
    ]
    return pd.DataFrame(lines, columns=[*_RUN, "split", "figure", "value"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure(Column):
    """A column of a figure: its mean over some splits, or the harmonic mean over two.

    Its intervals end at the `bounds`, the least and the greatest possible value.
    """

    splits: Sequence[str]
    figure: str = "accuracy"
    harmonic: bool = False
    bounds: Sequence[float] = (0.0, 100.0)

    def of(self, figures: pd.DataFrame) -> pd.Series:
        """A value a line of figures; NaN where a split lacks the figure."""
        missing = np.full(len(figures), np.nan)
        values = [figures.get((split, self.figure), missing) for split in self.splits]
        if self.harmonic:
            return pd.Series(metrics.harmonic_mean(*values), figures.index)
        return sum(values, pd.Series(0.0, figures.index)) / (len(values) or np.nan)


def measures(family: Family) -> list[Measure]:
    """The accuracies of a family, and H: the columns of its tables."""
    if family.protocol == "few_shot":
        return [Measure("accuracy", 2, splits=["test"])]
    if family.protocol == "transfer":
        accuracies = [Measure(split, 2, splits=[split]) for split in family.headline]
        if source := source_split(family):
            accuracies.insert(0, Measure(f"{family.datasets[0]} (source)", 2, splits=[source]))
        return [*accuracies, Measure("average", 2, splits=family.headline)]
    conditions = [condition for group, condition in family.splits if group == "base"]
    alone = conditions == [""]
    digits = 2 if alone else 1
    accuracies = [
        Measure(f"{half} {condition}".strip(), digits, splits=[family.splits[half, condition]])
        for half in ("base", "new")
        for condition in conditions
        if (half, condition) in family.splits
    ]
    means = [
        Measure(title, digits, harmonic=True, splits=[
            family.splits.get((half, condition), "") for half in ("base", "new")
        ])
        for condition, title in ((INTERVENTION, "H_int"), ("iid", "H"), ("", "H"))
        if condition in conditions
    ]  # fmt: skip
    return accuracies + means if alone else means + accuracies


def primary(family: Family) -> Measure:
    """The one measure that stands for all: H_int under interventions, H, accuracy, the average."""
    columns = measures(family)
    return columns[0] if family.intervenes else columns[-1]


def calibration(family: Family, *figures: str) -> list[Measure]:
    """Figures of the predictions' trustworthiness (all or some), over the headline splits."""
    new = [split for (group, _), split in family.splits.items() if group == "new"]
    over = {"novelty": [split for split in family.headline if split in new]}
    return [
        Measure(**column, figure=figure, splits=over.get(figure, family.headline))
        for figure, column in words("calibration").items()
        if figure in figures or not figures
    ]


def guarantees(split: str) -> list[Measure]:
    """How far guarantees hold on a split, and how uncertainties find errors and new classes."""
    return [
        Measure(**({"falling": None} | column), figure=figure, splits=[split])
        for figure, column in words("guarantees").items()
    ]


def source_split(family: Family) -> str | None:
    """The split of a transfer that is of the dataset trained on, if it was tested."""
    own = [(group, condition) for group in ("all", "base") for condition in ("", "iid")]
    return next((family.splits[key] for key in own if key in family.splits), None)


@functools.lru_cache(maxsize=1)  # all tables of a family are made in turn
def runs(family: Family) -> pd.DataFrame:
    """A line a run (row, dataset, seed) in the order of the cells, a column a split's figure."""
    long = long_table(family.rows)
    wide = long.pivot(index=_RUN, columns=["split", "figure"], values="value")
    return wide.loc[pd.MultiIndex.from_frame(long[_RUN].drop_duplicates())]


def shared(figures: pd.DataFrame, rows: Sequence[str]) -> pd.DataFrame:
    """The runs of some rows on the datasets and seeds that all of these rows have."""
    own = figures[figures.index.isin(rows, level="row")]
    return own[own.groupby(["dataset", "seed"]).transform("size") == len(rows)]


def averages(
    figures: pd.DataFrame, datasets: Sequence[str], columns: Sequence[Measure]
) -> dict[str, list[Value | None]]:
    """Row -> a value a measure: over the seeds of one dataset, or of the average over several."""
    # A sum is NaN unless every dataset has the figure: a seed that lacks one doesn't count.
    sums = _on(figures, datasets).groupby(["row", "seed"], sort=False).sum(min_count=len(datasets))
    by_seed = sums / len(datasets)
    seeds = _measured(by_seed, columns)
    cells = _over_seeds(seeds, [measure.bounds for measure in columns])
    for c in [c for c, measure in enumerate(columns) if measure.harmonic and len(datasets) > 1]:
        means = columns[c].of(by_seed[seeds[c].notna()].groupby("row").mean())
        for row, own in cells.items():
            if value := own[c]:
                own[c] = dataclasses.replace(value, mean=float(means[row]))
    return cells


def differences(
    figures: pd.DataFrame, datasets: Sequence[str], columns: Sequence[Measure], reference: str
) -> dict[str, list[Value | None]]:
    """Row -> the reference minus it, a value a measure over the pairs of dataset and seed."""
    values = _measured(_on(figures, datasets), columns)
    if reference not in values.index.unique("row"):
        return {}
    others = values.drop(reference, level="row")
    own = values.xs(reference, level="row").reindex(others.index.droplevel("row"))
    bounds = [(low - high, high - low) for low, high in (measure.bounds for measure in columns)]
    return _over_seeds(own.to_numpy() - others, bounds)


def over_seeds(
    values: Sequence[float] | np.ndarray | pd.Series, bounds: Sequence[float] = (0.0, 100.0)
) -> Value | None:
    """The value of a table's cell, from one number a seed; NaN doesn't count.

    Args:
      values: the numbers.
      bounds: the least and the greatest possible number, where an interval ends.
    """
    x = np.asarray(values, np.float64)
    x = x[~np.isnan(x)]
    if not x.size:
        return None
    mean, low, high, n = metrics.mean_interval(x, bounds=bounds)
    return Value(mean, float(x.std(ddof=1)) if n > 1 else np.nan, low, high, n)


def _on(figures: pd.DataFrame, datasets: Sequence[str]) -> pd.DataFrame:
    return figures[figures.index.isin(datasets, level="dataset")]


def _measured(figures: pd.DataFrame, columns: Sequence[Measure]) -> pd.DataFrame:
    return pd.DataFrame({c: measure.of(figures) for c, measure in enumerate(columns)})


def _over_seeds(
    values: pd.DataFrame, bounds: Sequence[Sequence[float]]
) -> dict[str, list[Value | None]]:
    """Row -> a value a column, of the rows that have one."""
    rows = values.groupby("row", sort=False)
    cells = {row: list(map(over_seeds, own.to_numpy().T, bounds)) for row, own in rows}
    return {row: own for row, own in cells.items() if any(own)}
