"""Figures by class: CSV files of accuracies and confusions, and the classes that are confused most.

Classes are compared by their names: two seeds may order them differently.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cdc_jax.escaping import spreadsheet_cell
from cdc_jax.report.cells import Cell
from cdc_jax.report.families import Family
from cdc_jax.report.figures import over_seeds

_PLACE = ["dataset", "shots", "method", "split"]


class Confusion(NamedTuple):
    """Images of a true class that were taken for a class; of several seeds, their sum."""

    true: str
    predicted: str
    images: int


def confusions(cells: Iterable[Cell], split: str) -> list[Confusion]:
    """The entries of the confusion matrix of a split that are not zero, the largest first."""
    entries = [
        (figures["classes"][true], figures["classes"][predicted], images)
        for cell in cells
        if (figures := cell.splits.get(split))
        for true, predicted, images in figures["confusion"]
    ]
    frame = pd.DataFrame(entries, columns=list(Confusion._fields))
    counts = frame.groupby(["true", "predicted"], sort=False, as_index=False).sum()
    by = {"images": False, "true": True, "predicted": True}
    ordered = counts.sort_values(list(by), ascending=list(by.values()))
    return [Confusion(true, predicted, int(n)) for true, predicted, n in ordered.to_numpy()]


def accuracy_csv(family: Family) -> str:
    """A line a class of a row's split: its accuracy in percent over seeds."""
    lines = []
    for place, split, cells in _places(family):
        values: dict[str, list[float]] = {}
        for cell in cells:
            figures = cell.splits[split]
            for name, accuracy in zip(figures["classes"], figures["class_accuracy"], strict=True):
                values.setdefault(name, []).append(np.nan if accuracy is None else accuracy)
        for name, accuracies in values.items():
            if value := over_seeds(accuracies):
                numbers = (value.mean, value.sd, value.low, value.high)
                shown = ["" if np.isnan(x) else f"{x:.6f}" for x in numbers]
                lines.append([*place, spreadsheet_cell(name), *shown, value.n])
    return _csv([*_PLACE, "class", "mean", "sd", "low", "high", "n"], lines)


def confusion_csv(family: Family) -> str:
    """A line an entry of a confusion matrix: the number of images of all seeds."""
    lines = [
        [*place, spreadsheet_cell(entry.true), spreadsheet_cell(entry.predicted), entry.images]
        for place, split, cells in _places(family)
        for entry in confusions(cells, split)
    ]
    return _csv([*_PLACE, "class", "predicted", "images"], lines)


def _places(family: Family) -> Iterable[tuple[list[Any], str, list[Cell]]]:
    """The place in a CSV file (`_PLACE`), the split, and the cells with figures by class."""
    for dataset in family.datasets:
        for shots in family.shots:
            for row, cells in family.at(dataset=dataset, shots=shots).rows.items():
                for split in dict.fromkeys(split for cell in cells for split in cell.splits):
                    own = [c for c in cells if split in c.splits and c.splits[split]["classes"]]
                    texts = [spreadsheet_cell(text) for text in (dataset, row, split)]
                    yield [texts[0], shots, *texts[1:]], split, own


def _csv(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """The file; nothing without lines."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([head, *lines] if lines else [])
    return out.getvalue()
