"""From logits to evidence, and from evidence to opinions and probabilities."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from cdc_jax.evidence.checks import PerClass, PerExample, checked, value_range, without_nan
from cdc_jax.evidence.special import logsumexp


class Opinion(NamedTuple):
    """Masses of an opinion; rank by `log_uncertainty`, since `uncertainty` rounds to 0 and 1."""

    belief: PerClass
    uncertainty: PerExample
    log_uncertainty: PerExample


def _log_softplus(x: Array) -> Array:
    # log(softplus(x)) = x - e^x / 2 + O(e^2x); softplus itself underflows below -87 in float32.
    return jnp.where(x < -20, x - jnp.exp(x) / 2, jnp.log(jax.nn.softplus(jnp.maximum(x, -20))))


def _log_relu(x: Array) -> Array:
    # Below the smallest normal number the slope 1 / x overflows: no evidence.
    some = ~(x < jnp.finfo(x.dtype).tiny)  # NaN stays NaN
    return jnp.where(some, jnp.log(jnp.where(some, x, 1.0)), -jnp.inf)


KINDS: dict[str, Callable[[Array], Array]] = {
    "exp": lambda x: x,
    "softplus": _log_softplus,
    "relu": _log_relu,
}
"""Names of evidence functions -> logits to log-evidence."""


def from_logits(
    logits: PerClass, kind: str = "exp", scale: ArrayLike = 1.0, shift: ArrayLike = 0.0
) -> PerClass:
    """Logits to log-evidence, log h(a z - b) with h = exp, softplus or relu.

    Raw CLIP logits (z about 20..30 for every class) are no evidence yet: the shift sets how much an
    average class gets. Fix it by `calibrate_shift`, learn scale and shift, or centre each row with
    `shift=scale * logits.mean(-1, keepdims=True)`.

    Args:
      logits: z, cosine similarities times the logit scale, (..., classes).
      kind: "exp" (log e = a z - b, exact at any size), "softplus", or "relu" (-inf where a z <= b).
      scale: a > 0, a scalar or an array that broadcasts against logits.
      shift: b, likewise.

    Returns:
      Log-evidence, (..., classes), at least float32.

    Raises:
      ValueError: unknown kind, scale not positive, fewer than 2 classes, NaN.

    >>> print(from_logits(jnp.array([20.0, 30.0]), shift=22.0))
    [-2.  8.]

    Softplus and relu: Sensoy et al. 2018, Han et al. 2021. Shifted exp: this project's choice.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown evidence kind {kind!r}: choose one of {', '.join(KINDS)}")
    bounds = value_range(scale)
    if bounds is not None and not bounds[0] > 0:
        raise ValueError(f"expected scale > 0, got {bounds[0]}: if it is learned, learn its log")
    return KINDS[kind](jnp.asarray(scale) * checked(logits, "logits") - jnp.asarray(shift))


def calibrate_shift(
    logits: Float[Array, "..."], scale: ArrayLike = 1.0, multiple: float = 1.0
) -> Float[Array, ""]:
    """The shift b = multiple * mean(a z) over classes, sources and training images.

    Multiple 1 gives the average class evidence 1; 1..2 is useful, above that all turns vacuous.
    Estimate it once, before tuning, and save it with the model.

    Args:
      logits: z of the training images, any shape but empty.
      scale: a, as in `from_logits`.
      multiple: factor on the mean.

    Returns:
      b, a scalar.

    Raises:
      ValueError: logits are empty, or have NaN.

    >>> print(calibrate_shift(jnp.array([[20.0, 30.0], [18.0, 20.0]]), multiple=1.5))
    33.0

    This project's choice.
    """
    logits = without_nan("logits", logits)
    if logits.size == 0:
        raise ValueError(f"no logits to calibrate on: shape {logits.shape}")
    return multiple * jnp.mean(scale * logits)


def log_concentration(log_evidence: PerClass) -> PerClass:
    """log alpha = log(1 + e) >= 0; evidence too small for 1 + e to show survives.

    >>> jnp.array_str(jnp.exp(log_concentration(jnp.log(jnp.array([0.0, 3.0])))), precision=3)
    '[1. 4.]'

    Sensoy et al. 2018, section 3.
    """
    return jax.nn.softplus(checked(log_evidence))


def opinion(log_evidence: PerClass) -> Opinion:
    """Belief b_k = e_k / S and uncertainty u = K / S, S = K + sum_k e_k; they sum to one.

    >>> belief, u, log_u = opinion(jnp.log(jnp.array([6.0, 0.0])))
    >>> jnp.array_str(belief, precision=3), f"{u:.3f}"
    ('[0.75 0.  ]', '0.250')

    Jøsang 2016, section 3.5; Sensoy et al. 2018, section 3.
    """
    log_evidence = checked(log_evidence)
    # One softmax over classes and frame: the masses sum to one at any evidence.
    frame = jnp.full_like(log_evidence[..., :1], jnp.log(log_evidence.shape[-1]))
    masses = jax.nn.softmax(jnp.concatenate([log_evidence, frame], axis=-1), axis=-1)
    return Opinion(masses[..., :-1], masses[..., -1], log_vacuity(log_evidence))


def expected_probability(log_evidence: PerClass) -> PerClass:
    """Mean of the Dirichlet, p_k = alpha_k / S = b_k + u / K.

    >>> jnp.array_str(expected_probability(jnp.log(jnp.array([6.0, 0.0]))), precision=3)
    '[0.875 0.125]'

    Sensoy et al. 2018, section 3.
    """
    return jax.nn.softmax(log_concentration(log_evidence), axis=-1)


def log_vacuity(log_evidence: PerClass) -> PerExample:
    """Lack of evidence, log u = -log1p(sum_k e_k / K) <= 0; u itself would round to 0 or 1.

    >>> f"{jnp.exp(log_vacuity(jnp.log(jnp.array([6.0, 0.0])))):.3f}"
    '0.250'

    Jøsang, Cho and Chen 2018; its log: this project's choice.
    """
    log_evidence = checked(log_evidence)
    return -jax.nn.softplus(logsumexp(log_evidence) - jnp.log(log_evidence.shape[-1]))
