"""What is measured: the columns of tables, computed from the figures of a cell or their average."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cdc_jax import metrics
from cdc_jax.records import INTERVENTION, SplitRecord
from cdc_jax.report.cells import Cell
from cdc_jax.report.families import Family, dataset_order

Figures = Mapping[str, Mapping[str, float]]
"""Split -> figure by name; numbers only."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """A column: what is computed from the figures of a cell, or from their average.

    Attributes:
      key: for files and for look-up.
      title: for people.
      of: figures -> value, NaN where it doesn't exist.
      digits: after the point; the papers print two.
      falling: whether less is better.
      about: what captions say of it.
    """

    key: str
    title: str
    of: Callable[[Figures], float]
    digits: int = 2
    falling: bool = False
    about: str = ""


def source_split(cell: Cell) -> str | None:
    """The split of a transfer cell that is of the dataset trained on, if it was tested."""
    own = cell.where("all", "base")
    return next((name for name in own if cell.records[name].condition in ("", "iid")), None)


def headline(cells: Sequence[Cell]) -> list[str]:
    """The splits that stand for all, of cells on the same task; targets in the papers' order."""
    found = dict.fromkeys(split for cell in cells for split in cell.headline)
    targets = [split for cell in cells for split in cell.where("target")]
    return sorted(found, key=dataset_order) if targets else list(found)


def measures(family: Family) -> list[Measure]:
    """The accuracies of a family, and H: the columns of its tables."""
    cells = family.cells()
    if family.protocol == "few_shot":
        return [_accuracy("test", "accuracy")]
    if family.protocol == "transfer":
        source = source_split(cells[0])
        targets = headline(cells)
        return [
            *([_accuracy(source, f"{cells[0].dataset} (source)")] if source else []),
            *(_accuracy(split, split) for split in targets),
            Measure("average", "average", lambda f: _mean(f, targets, "accuracy")),
        ]
    halves = {
        (record.group, record.condition): split
        for cell in cells
        for split, record in cell.records.items()
    }
    conditions = family.conditions
    alone = conditions == [""]
    digits = 2 if alone else 1
    accuracies = [
        _accuracy(halves[half, condition], f"{half} {condition}".strip(), digits)
        for half in ("base", "new")
        for condition in conditions
        if (half, condition) in halves
    ]
    means = []
    for condition, title in ((INTERVENTION, "H_int"), ("iid", "H"), ("", "H")):
        if condition in conditions:
            base, new = (halves.get((half, condition), "") for half in ("base", "new"))
            key = f"H_{SplitRecord(condition=condition).suffix}"
            means.append(Measure(key, title, _harmonic(base, new), digits))
    return accuracies + means if alone else means + accuracies


def primary(family: Family) -> Measure:
    """The one measure that stands for all: H_int under interventions, H, accuracy, the average."""
    found = measures(family)
    return found[0] if family.intervenes else found[-1]


def calibration(family: Family) -> list[Measure]:
    """Figures of the predictions' trustworthiness, averaged over the headline splits."""
    cells = family.cells()
    chosen = headline(cells)

    def averaged(key: str) -> Callable[[Figures], float]:
        return lambda figures: _mean(figures, chosen, key)

    unseen = {split for cell in cells for split in cell.where("new")}
    new = [split for split in chosen if split in unseen]
    return [
        Measure("ece", "ECE", averaged("ece"), 1, True, "expected calibration error in percent"),
        Measure("nll", "NLL", averaged("nll"), 3, True, "negative log-likelihood in nats"),
        Measure("brier", "Brier", averaged("brier"), 3, True, "Brier score, 0 to 2"),
        Measure("auroc", "AUROC", averaged("auroc"), 1, False, "of the uncertainty for errors"),
        Measure("aurc", "AURC", averaged("aurc"), 2, True, "area under risk and coverage, percent"),
        Measure(
            "novelty", "AUROC new", lambda figures: _mean(figures, new, "novelty"), 1, False,
            "of the uncertainty for new classes",
        ),
    ]  # fmt: skip


def _accuracy(split: str, title: str, digits: int = 2) -> Measure:
    return Measure(split, title, lambda figures: _figure(figures, split, "accuracy"), digits)


def _harmonic(base: str, new: str) -> Callable[[Figures], float]:
    def of(figures: Figures) -> float:
        halves = (_figure(figures, split, "accuracy") for split in (base, new))
        return float(metrics.harmonic_mean(*halves))

    return of


def _figure(figures: Figures, split: str, key: str) -> float:
    return float(figures.get(split, {}).get(key, np.nan))


def _mean(figures: Figures, splits: Sequence[str], key: str) -> float:
    values = [_figure(figures, split, key) for split in splits]
    return float(np.mean(values)) if values else float("nan")


def average(cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """Figures averaged over cells, so that a measure computed from them is the average row's."""
    shared = set.intersection(*(set(cell.splits) for cell in cells))
    return {
        split: {
            key: float(np.mean([cell.splits[split].get(key, np.nan) for cell in cells]))
            for key in cells[0].splits[split]
            if key != "template_accuracy"
        }
        for split in sorted(shared)
    }
