"""Methods that learn on top of a frozen backbone.

`Method` is the interface. `rows` holds the published methods as data. `build` makes a method.

Rows, names and settings need no JAX. The other names import it at their first use. Scripts can
therefore refuse wrong arguments at once.
"""

from etils import epy

from cdc_jax.methods.choice import Choice, configure, names, overrides, split, title, with_changes
from cdc_jax.methods.rows import ROWS, Row

with epy.lazy_api_imports(globals()):
    from cdc_jax.methods.assembly import build, rebuild
    from cdc_jax.methods.method import Batch, Forward, Method, Term, Text, objective, objectives
    from cdc_jax.methods.stage import Best, Learned, Stage
    from cdc_jax.methods.support import Support

__all__ = [
    "ROWS",
    "Batch",
    "Best",
    "Choice",
    "Forward",
    "Learned",
    "Method",
    "Row",
    "Stage",
    "Support",
    "Term",
    "Text",
    "build",
    "configure",
    "names",
    "objective",
    "objectives",
    "overrides",
    "rebuild",
    "split",
    "title",
    "with_changes",
]
