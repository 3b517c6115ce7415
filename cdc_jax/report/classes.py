"""Figures by class: CSV files of accuracies and confusions.

Classes are compared by their names: two seeds may order them differently.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd

from cdc_jax.report.cells import Cell
from cdc_jax.report.families import Family
from cdc_jax.report.figures import over_seeds
from cdc_jax.report.formats import csv_text


def confusions(cells: Sequence[Cell], split: str) -> pd.DataFrame:
    """The confusion matrix of a split: a line (true, predicted, images) an entry that is not zero.

    The images of all seeds are added up. The most frequent entry comes first.
    """
    entries = [
        (figures["classes"][true], figures["classes"][predicted], images)
        for cell in cells
        if (figures := cell.splits.get(split))
        for true, predicted, images in figures["confusion"]
    ]
    lines = pd.DataFrame(entries, columns=["true", "predicted", "images"])
    counts = lines.groupby(["true", "predicted"], sort=False, as_index=False).sum()
    return counts.sort_values(["images", "true", "predicted"], ascending=[False, True, True])


def class_files(family: Family) -> dict[str, str]:
    """CSV files of a family's figures by class; none of results without such figures.

    Returns:
      "classes": a line a class of a row's split, its accuracy in percent over seeds.
      "confusion": a line an entry of a confusion matrix, the number of images of all seeds.
    """
    files: dict[str, list[dict[str, Any]]] = {"classes": [], "confusion": []}
    for dataset, shots in itertools.product(family.datasets, family.shots):
        for row, cells in family.at(dataset=dataset, shots=shots).rows.items():
            for split in dict.fromkeys(split for cell in cells for split in cell.splits):
                place = {"dataset": dataset, "shots": shots, "method": row, "split": split}
                figures = [cell.splits[split] for cell in cells if split in cell.splits]
                by_seed = [zip(own["classes"], own["class_accuracy"]) for own in figures]  # noqa: B905
                for name, accuracies in pd.DataFrame(map(dict, by_seed)).items():
                    if value := over_seeds(accuracies):
                        line = place | {"class": name} | dataclasses.asdict(value)
                        files["classes"].append(line)
                entries = confusions(cells, split).rename(columns={"true": "class"})
                files["confusion"] += [place | line for line in entries.to_dict("records")]
    return {name: csv_text(pd.DataFrame(lines)) for name, lines in files.items() if lines}
