"""Tasks: where images and class names come in.

The names import their modules at their first use: predictions need few of them.
"""

from etils import epy

with epy.lazy_api_imports(globals()):
    from cdc_jax.tasks.sources import check, load, require_root, targets
    from cdc_jax.tasks.splits import Item, Split, base_new, few_shot, read_split
    from cdc_jax.tasks.task import Examples, Task

__all__ = [
    "Examples", "Item", "Split", "Task", "base_new", "check", "few_shot", "load", "read_split",
    "require_root", "targets",
]  # fmt: skip
