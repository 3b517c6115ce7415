"""The long table of a family's figures, the measures computed from it, and their values.

Every value is a mean over seeds with its standard deviation, 95 % t-interval and number. In the
row of an average over datasets, a seed counts where all datasets have it, and a measure is
computed from the averaged accuracies: H from the averaged base and new, as in the published tables.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

from cdc_jax import metrics
from cdc_jax.records import INTERVENTION, SplitRecord
from cdc_jax.report.cells import Cell
from cdc_jax.report.families import Family, dataset_order
from cdc_jax.report.table import Column, Value

_RUN = ["row", "dataset", "seed"]
Cells: TypeAlias = tuple[Value | None, ...]


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
    """A column that is computed from figures, a line a run or their average.

    Attributes:
      key: for look-up.
      of: figures, see `Runs.figures` -> a value a line, NaN where it doesn't exist.
    """

    key: str
    of: Callable[[pd.DataFrame], pd.Series]


def source_split(cell: Cell) -> str | None:
    """The split of a transfer cell that is of the dataset trained on, if it was tested."""
    own = cell.where("all", "base")
    return next((name for name in own if cell.records[name].condition in ("", "iid")), None)


def headline(cells: Sequence[Cell]) -> list[str]:
    """The splits that stand for all, of cells on the same task; targets in the papers' order."""
    splits = dict.fromkeys(split for cell in cells for split in cell.headline)
    targets = [split for cell in cells for split in cell.where("target")]
    return sorted(splits, key=dataset_order) if targets else list(splits)


def measures(family: Family) -> list[Measure]:
    """The accuracies of a family, and H: the columns of its tables."""
    cells = family.cells()
    if family.protocol == "few_shot":
        return [_accuracy("test", "accuracy")]
    if family.protocol == "transfer":
        source, targets = source_split(cells[0]), headline(cells)
        return [
            *([_accuracy(source, f"{cells[0].task.dataset} (source)")] if source else []),
            *(_accuracy(split, split) for split in targets),
            Measure("average", 2, key="average", of=_mean(targets, "accuracy")),
        ]
    halves = {
        (record.group, record.condition): split
        for cell in cells
        for split, record in cell.records.items()
    }
    alone = family.conditions == [""]
    digits = 2 if alone else 1
    accuracies = [
        _accuracy(halves[half, condition], f"{half} {condition}".strip(), digits)
        for half in ("base", "new")
        for condition in family.conditions
        if (half, condition) in halves
    ]
    means = [
        Measure(
            title,
            digits,
            key=f"H_{SplitRecord(condition=condition).suffix}",
            of=_harmonic(*(halves.get((half, condition), "") for half in ("base", "new"))),
        )
        for condition, title in ((INTERVENTION, "H_int"), ("iid", "H"), ("", "H"))
        if condition in family.conditions
    ]
    return accuracies + means if alone else means + accuracies


def primary(family: Family) -> Measure:
    """The one measure that stands for all: H_int under interventions, H, accuracy, the average."""
    columns = measures(family)
    return columns[0] if family.intervenes else columns[-1]


def calibration(family: Family, *keys: str) -> list[Measure]:
    """Figures of the predictions' trustworthiness, averaged over the headline splits.

    Args:
      family: of the cells.
      *keys: which; all of them without any.
    """
    cells = family.cells()
    splits = headline(cells)
    unseen = {split for cell in cells for split in cell.where("new")}
    new = [split for split in splits if split in unseen]
    chosen = [
        ("ece", splits, "ECE", 1, True, "expected calibration error in percent"),
        ("nll", splits, "NLL", 3, True, "negative log-likelihood in nats"),
        ("brier", splits, "Brier", 3, True, "Brier score, 0 to 2"),
        ("auroc", splits, "AUROC", 1, False, "of the uncertainty for errors"),
        ("aurc", splits, "AURC", 2, True, "area under risk and coverage, percent"),
        ("novelty", new, "AUROC new", 1, False, "of the uncertainty for new classes"),
    ]
    return [
        Measure(title, digits, falling, about=about, key=key, of=_mean(over, key))
        for key, over, title, digits, falling, about in chosen
        if key in keys or not keys
    ]


def _accuracy(split: str, title: str, digits: int = 2) -> Measure:
    return Measure(title, digits, key=split, of=_mean([split], "accuracy"))


def _mean(splits: Sequence[str], figure: str) -> Callable[[pd.DataFrame], pd.Series]:
    def of(figures: pd.DataFrame) -> pd.Series:
        columns = (figures.get((split, figure), np.nan) for split in splits)
        return sum(columns, pd.Series(0.0, figures.index)) / (len(splits) or np.nan)

    return of


def _harmonic(base: str, new: str) -> Callable[[pd.DataFrame], pd.Series]:
    halves = _mean([base], "accuracy"), _mean([new], "accuracy")
    return lambda figures: pd.Series(
        metrics.harmonic_mean(*(half(figures) for half in halves)), figures.index
    )


def over_seeds(values: pd.Series | Iterable[float]) -> Value | None:
    """The value of a table's cell, from one number a seed; NaN doesn't count."""
    x = np.array([value for value in values if not np.isnan(value)], np.float64)
    if not x.size:
        return None
    mean, low, high, n = metrics.mean_interval(x)
    return Value(mean, float(x.std(ddof=1)) if n > 1 else np.nan, low, high, n)


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of a family with one number of shots.

    Attributes:
      family: the whole.
      shots: training images a class.
      reference: the row that the others are compared with, or None.
    """

    family: Family
    shots: int
    reference: str | None

    @functools.cached_property
    def figures(self) -> pd.DataFrame:
        """A line a run (row, dataset, seed), a column a figure of a split."""
        long = long_table(self.family.at(self.shots))
        return long.pivot(index=_RUN, columns=["split", "figure"], values="value")

    def values(
        self,
        datasets: Sequence[str],
        columns: Sequence[Measure],
        shared: Sequence[str] = (),
    ) -> dict[str, Cells]:
        """Row -> a value a measure: over seeds, of one dataset or of the average over several.

        Args:
          datasets: what is averaged; a seed that lacks one of them doesn't count.
          columns: the measures.
          shared: rows; only the datasets and seeds that all of them have count.
        """
        runs = self._runs(datasets)
        if shared:
            runs = runs[runs.index.isin(shared, level="row")]
            runs = runs.groupby(["dataset", "seed"]).filter(lambda own: len(own) == len(shared))
        # A sum is NaN unless every dataset has the figure.
        by_seed = runs.groupby(["row", "seed"]).sum(min_count=len(datasets)) / len(datasets)
        by_measure = [_values(by_seed, measure, len(datasets) > 1) for measure in columns]
        cells = {row: tuple(by_row.get(row) for by_row in by_measure) for row in self.family.rows}
        return {row: values for row, values in cells.items() if any(values)}

    def differences(self, datasets: Sequence[str], columns: Sequence[Measure]) -> dict[str, Cells]:
        """Row -> the reference minus it, a value a measure over the pairs of dataset and seed."""
        runs, gains = self._runs(datasets), []
        if self.reference in runs.index.unique("row"):
            for measure in columns:
                pairs = (
                    measure.of(runs).unstack("row").reindex(self.family.datasets, level="dataset")
                )
                gains.append(pairs.rsub(pairs[self.reference], axis=0))
        rows = [row for row in self.family.rows if row != self.reference]
        cells = {row: tuple(over_seeds(pairs.get(row, ())) for pairs in gains) for row in rows}
        return {row: values for row, values in cells.items() if any(values)}

    def _runs(self, datasets: Sequence[str]) -> pd.DataFrame:
        return self.figures[self.figures.index.isin(datasets, level="dataset")]


def _values(by_seed: pd.DataFrame, measure: Measure, averaged: bool) -> dict[str, Value]:
    seeds = measure.of(by_seed).dropna()
    summaries = {row: v for row, own in seeds.groupby("row") if (v := over_seeds(own))}
    if averaged:
        means = measure.of(by_seed.loc[seeds.index].groupby("row").mean())
        summaries = {r: dataclasses.replace(v, mean=float(means[r])) for r, v in summaries.items()}
    return summaries
