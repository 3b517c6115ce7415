"""Published numbers, to stand beside our own where the setting is the same.

`published.csv` has them in percent: of a dataset, or without one of the average over the benchmark;
for transfer, `base` is the accuracy on the source.
"""

import csv
from collections.abc import Sequence
from importlib import resources

from cdc_jax.report.families import DATASETS, Family
from cdc_jax.report.figures import source_split
from cdc_jax.report.table import Row, Value
from cdc_jax.report.words import words

_BENCHMARK = frozenset(DATASETS[:11])  # CoOp's
_MODEL = "clip-vit-base-patch16"


def published_rows(family: Family, datasets: Sequence[str], width: int) -> list[Row]:
    """What was published for the datasets of a table's group, as rows of that many cells.

    Nothing unless the setting is the same: OpenAI's ViT-B/16, 16 shots, CoOp's splits, and for an
    average the 11 datasets.
    """
    cells = [cell for cell in family.cells if cell.task.dataset in datasets]
    alone = len(datasets) == 1
    same = (
        family.shots == (16,)
        and (alone or set(datasets) == _BENCHMARK)
        and (family.protocol != "transfer" or source_split(family) is not None)
        and all(not c.note and c.task.settings["model"].rstrip("/").endswith(_MODEL) for c in cells)
    )
    with resources.files("cdc_jax.report").joinpath("published.csv").open(encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["setting"] == family.protocol]
    rows = []
    for line in lines:
        if same and line["dataset"] == (datasets[0] if alone else ""):
            figures = [
                Value(float(x)) if (x := line[key]) else None for key in ("base", "new", "h")
            ]
            values = (*figures, *[None] * width)[:width]
            title, source = f"{line['title']}, published", line["source"]
            heading = words("method_groups", "published")
            rows.append(Row(title, values, "published", source, heading))
    return rows
