"""What is learned on top of a frozen backbone.

`Method` is the interface, `rows` the published methods as data, `build` puts one together.
"""

from cdc_jax.methods.build import build, rebuild
from cdc_jax.methods.choice import Choice, configure, names, overrides, split, title
from cdc_jax.methods.method import (
    Batch,
    Forward,
    Learned,
    Method,
    Stage,
    Support,
    Term,
    objective,
)
from cdc_jax.methods.rows import ROWS, Row

__all__ = [
    "ROWS",
    "Batch",
    "Choice",
    "Forward",
    "Learned",
    "Method",
    "Row",
    "Stage",
    "Support",
    "Term",
    "build",
    "configure",
    "names",
    "objective",
    "overrides",
    "rebuild",
    "split",
    "title",
]
