"""What is learned on top of a frozen backbone.

`Method` is the interface, `rows` the published methods as data, `build` puts one together.

Rows, names and settings are there without JAX, the others import it when they are asked for: so
scripts find what is wrong with their arguments at once.
"""

from etils import epy

from cdc_jax.methods.choice import Choice, configure, names, overrides, split, title, with_changes
from cdc_jax.methods.rows import ROWS, Row

with epy.lazy_api_imports(globals()):
    from cdc_jax.methods.assembly import build, rebuild
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
    "with_changes",
]
