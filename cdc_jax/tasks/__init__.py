"""Tasks: where images and class names come in."""

from cdc_jax.tasks.sources import load, targets
from cdc_jax.tasks.splits import Item, Split, base_new, few_shot, read_split
from cdc_jax.tasks.task import Examples, Task

__all__ = [
    "Examples", "Item", "Split", "Task", "base_new", "few_shot", "load", "read_split", "targets",
]  # fmt: skip
