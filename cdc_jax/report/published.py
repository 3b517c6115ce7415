"""Published numbers, to stand beside our own where the setting is the same.

`published.csv` has them in percent: of a dataset, or without one of the average over the benchmark;
for transfer, `base` is the accuracy on the source.
"""

from importlib import resources

import pandas as pd

from cdc_jax.report.cells import Cell
from cdc_jax.report.families import DATASETS, Family
from cdc_jax.report.table import Row, Value

BENCHMARK = frozenset(DATASETS[:11])
"""The 11 datasets of CoOp's benchmark."""


def rows(family: Family, datasets: tuple[str, ...], shots: int, width: int) -> list[Row]:
    """What was published for the datasets of a table's group, as rows of that many cells.

    Nothing unless the setting is the same: OpenAI's ViT-B/16, 16 shots, CoOp's splits, and for an
    average the 11 datasets.
    """
    own = [cell for cell in family.cells() if cell.task.dataset in datasets]
    alone = len(datasets) == 1
    if shots != 16 or not (alone or set(datasets) == BENCHMARK) or not all(map(_same, own)):
        return []
    with resources.files("cdc_jax.report").joinpath("published.csv").open() as file:
        table = pd.read_csv(file).fillna({"dataset": ""})
    where = datasets[0] if alone else ""
    lines = []
    for line in table[(table.setting == family.protocol) & (table.dataset == where)].itertuples():
        figures = [None if pd.isna(x) else Value(x) for x in (line.base, line.new, line.h)]
        cells = (*figures, *[None] * width)[:width]
        lines.append(Row(f"{line.title}, published", cells, "published", line.source))
    return lines


def _same(cell: Cell) -> bool:
    model = cell.task.settings["model"].rstrip("/")
    return not cell.note and model.endswith("clip-vit-base-patch16")
