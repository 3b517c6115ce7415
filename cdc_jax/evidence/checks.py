"""Types of arrays of evidence, and checks at entry."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

PerClass = Float[Array, "... classes"]
PerSource = Float[Array, "... sources classes"]
PerExample = Float[Array, "..."]
Labels = Int[Array, "..."]


def promote(x: ArrayLike) -> Array:
    """An array of at least float32."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def value_range(x: ArrayLike) -> tuple[Any, Any] | None:
    """Least and greatest value, on the host; None while x is being traced, or empty."""
    if isinstance(x, (int, float)):
        return x, x
    values = None if isinstance(x, jax.core.Tracer) else jax.device_get(x)
    return None if values is None or values.size == 0 else (values.min(), values.max())


def without_nan(name: str, x: ArrayLike) -> Array:
    """The promoted array; a ValueError for NaN in one that is not traced."""
    x = promote(x)
    if not isinstance(x, jax.core.Tracer):
        with jax.ensure_compile_time_eval():
            count = int(jnp.isnan(x).sum())
        if count:
            raise ValueError(f"{count} of {x.size} values of {name} are NaN: find where they arise")
    return x


def checked(log_evidence: ArrayLike, name: str = "log-evidence") -> Array:
    """The promoted array; a ValueError for NaN, or for fewer than 2 classes."""
    log_evidence = without_nan(name, log_evidence)
    if log_evidence.ndim == 0 or log_evidence.shape[-1] < 2:
        raise ValueError(
            f"expected at least 2 classes on the last axis, got shape {log_evidence.shape}"
        )
    return log_evidence


def sources_first(log_evidence: ArrayLike, axis: int) -> Array:
    """(sources, ..., classes); a ValueError for an axis that holds no source."""
    log_evidence = checked(log_evidence)
    shape, ndim = log_evidence.shape, log_evidence.ndim
    if not -ndim <= axis < ndim or axis % ndim == ndim - 1:
        raise ValueError(
            f"axis={axis} can't hold the sources of log-evidence of shape {shape}: name an axis "
            "before the last one, which holds the classes"
        )
    if shape[axis] == 0:
        raise ValueError(f"no source to fuse: axis {axis} of shape {shape} is empty")
    return jnp.moveaxis(log_evidence, axis, 0)


def checked_labels(labels: ArrayLike, log_evidence: Array) -> Array:
    """The labels as an array; a ValueError for a wrong shape, type or range."""
    *shape, classes = log_evidence.shape
    bounds = value_range(labels)
    labels = jnp.asarray(labels)
    if labels.shape != tuple(shape) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"expected integer labels of shape {tuple(shape)}, one for each row of log-evidence, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    if bounds is not None and not 0 <= bounds[0] <= bounds[1] < classes:
        raise ValueError(f"expected labels in 0..{classes - 1}, got {bounds[0]}..{bounds[1]}")
    return labels
