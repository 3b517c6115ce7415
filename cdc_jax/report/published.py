"""Published numbers, to stand beside our own where the setting is the same."""

from typing import NamedTuple

from cdc_jax.report.cells import Cell
from cdc_jax.report.families import DATASETS, Family

BENCHMARK = frozenset(DATASETS[:11])
"""The 11 datasets of CoOp's benchmark."""


class Published(NamedTuple):
    """A row of a published table, in percent; None is not known."""

    title: str
    base: float | None
    new: float | None
    h: float | None
    source: str


_README = "MaPLe's README"
BASE_NEW_AVERAGE = (
    Published("CLIP", 69.34, 74.22, 71.70, _README),
    Published("CoOp", 82.69, 63.22, 71.66, _README),
    Published("CoCoOp", 80.47, 71.69, 75.83, _README),
    Published("MaPLe", 82.28, 75.14, 78.55, _README),
    Published("PromptSRC", 84.26, 76.10, 79.97, "PromptSRC's README"),
)
"""Means over the benchmark: ViT-B/16, 16 shots, 3 seeds."""

_EXTRACT = "a machine-made extract of the paper, moderately certain"
BASE_NEW = {
    "SUN397": (Published("CDC", None, None, 81.18, _EXTRACT),),
    "DescribableTextures": (Published("CDC", 82.70, None, None, _EXTRACT),),
    "UCF101": (Published("CDC", 85.70, None, None, _EXTRACT),),
}
"""Single datasets in the same setting."""

IMAGENET_SOURCE = Published("CDC", 71.76, None, None, _EXTRACT)
"""Accuracy on ImageNet, the source of the cross-dataset setting, as `base`."""


def base_new(family: Family, dataset: str | None, shots: int) -> tuple[Published, ...]:
    """What was published for a dataset, or with None for the average over the benchmark.

    Nothing unless the setting is the same: OpenAI's ViT-B/16, 16 shots, CoOp's splits, and for the
    average the 11 datasets.
    """
    chosen = [cell for cell in family.cells() if dataset in (None, cell.dataset)]
    if family.protocol != "base_new" or shots != 16 or not _same_setting(chosen):
        return ()
    if dataset is not None:
        return BASE_NEW.get(dataset, ())
    return BASE_NEW_AVERAGE if set(family.datasets) == BENCHMARK else ()


def source(family: Family, shots: int) -> tuple[Published, ...]:
    """What was published for the source of a transfer family, see `base_new`."""
    same = family.datasets == ("ImageNet",) and shots == 16 and _same_setting(family.cells())
    return (IMAGENET_SOURCE,) if family.protocol == "transfer" and same else ()


def _same_setting(cells: list[Cell]) -> bool:
    return all(
        not cell.note and dict(cell.others)["model"].rstrip("/").endswith("clip-vit-base-patch16")
        for cell in cells
    )
