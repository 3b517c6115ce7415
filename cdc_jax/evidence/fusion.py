"""Fusion of sources: (..., sources, classes) -> (..., classes).

Args, Returns and Raises are those of `combine`.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from cdc_jax.evidence.checks import PerClass, PerSource, checked, sources_first, value_range
from cdc_jax.evidence.opinions import log_vacuity
from cdc_jax.evidence.special import logsumexp


def combine(log_evidence: PerSource, axis: int = -2) -> PerClass:
    """Dempster's rule over all sources, e_k = K (prod_m (1 + e^m_k / K) - 1).

    In logs: log e_k = log K + log(expm1(r_k)), r_k = sum_m log1p(e^m_k / K). The rule treats the
    sources as independent: M equal sources together give far more evidence than one of them.

    Args:
      log_evidence: log e^m, (..., sources, classes), at least one source.
      axis: the sources' axis, any but the last.

    Returns:
      Fused log-evidence, (..., classes).

    Raises:
      ValueError: axis out of range, the classes' axis, or empty; NaN.

    >>> jnp.array_str(jnp.exp(combine(jnp.log(jnp.array([[6.0, 0.0], [2.0, 2.0]])))), precision=3)
    '[14.  2.]'

    Dempster 1967; Shafer 1976, chapter 3; closed form: see the docstring of `cdc_jax.evidence`.
    """
    return _product(sources_first(log_evidence, axis), 1.0)


def pool(log_evidence: PerSource, axis: int = -2) -> PerClass:
    """Dempster's rule for M copies of one source: the geometric mean of plausibilities.

    e_k = K (prod_m (1 + e^m_k / K)^(1/M) - 1): since 1 + e_k / K = (b_k + u) / u, each source
    enters with 1/M of its weight of evidence. M equal sources give the opinion of one. `combine`
    would count it M times. For arguments and errors see `combine`.

    >>> jnp.array_str(jnp.exp(pool(jnp.log(jnp.array([[6.0, 0.0], [6.0, 0.0]])))), precision=3)
    '[6. 0.]'

    This project's choice; Shafer 1976, chapter 5, for weights of evidence, which Dempster's rule
    adds.
    """
    sources = sources_first(log_evidence, axis)
    return _product(sources, 1 / len(sources))


def _product(sources: Array, power: float) -> Array:
    """log of K (prod_m (1 + e^m / K)^power - 1), the sources on the first axis."""
    log_classes = jnp.log(sources.shape[-1])
    ratio = sources - log_classes  # log(e / K)
    total = power * jax.nn.softplus(ratio).sum(axis=0)
    # log(expm1(r)) = r + log(-expm1(-r)) is exact until r underflows; well before, below epsilon, r
    # is power sum_m e^m / K to rounding, and the log of that sum can't underflow. `where` on the
    # input as well: the branch not taken gets a harmless value, for 0 * inf in its gradient would
    # be NaN.
    tiny = total < jnp.finfo(total.dtype).eps
    safe = jnp.where(tiny, 1.0, total)
    exact = safe + jnp.log(-jnp.expm1(-safe))
    small = logsumexp(ratio, axis=0) + jnp.log(power)
    return log_classes + jnp.where(tiny, small, exact)


def average(log_evidence: PerSource, axis: int = -2) -> PerClass:
    """Mean opinion, b = mean_m b^m and u = mean_m u^m: e = sum_m u^m e^m / sum_m u^m.

    One uncertain source keeps it uncertain. (Jøsang's averaging fusion, the mean evidence, is
    `cumulate(...) - log(sources)`.)

    >>> jnp.array_str(jnp.exp(average(jnp.log(jnp.array([[6.0, 0.0], [0.0, 0.0]])))), precision=3)
    '[1.2 0. ]'

    Murphy 2000: the average itself, not combined with itself.
    """
    sources = sources_first(log_evidence, axis)
    log_u = log_vacuity(sources)
    return logsumexp(sources + log_u[..., None], axis=0) - logsumexp(log_u, axis=0)[..., None]


def cumulate(log_evidence: PerSource, axis: int = -2) -> PerClass:
    """Cumulative fusion, e = sum_m e^m: Dempster's rule without its products.

    >>> jnp.array_str(jnp.exp(cumulate(jnp.log(jnp.array([[6.0, 0.0], [2.0, 2.0]])))), precision=3)
    '[8. 2.]'

    Jøsang 2016, section 12.3.
    """
    return logsumexp(sources_first(log_evidence, axis), axis=0)


def cautious(log_evidence: PerSource, axis: int = -2) -> PerClass:
    """Denoeux's cautious rule, normalised: e_k = max_m e^m_k. Idempotent, for dependent sources.

    An opinion is Dempster's combination of simple mass functions, with weight 1 / (1 + e_k / K) on
    {k}; the rule takes the least weight of each, so the most evidence.

    >>> jnp.array_str(jnp.exp(cautious(jnp.log(jnp.array([[6.0, 0.0], [2.0, 2.0]])))), precision=3)
    '[6. 2.]'

    Denoeux 2008.
    """
    return sources_first(log_evidence, axis).max(axis=0)


def most_certain(log_evidence: PerSource, axis: int = -2) -> PerClass:
    """The source of least uncertainty, which has the most total evidence; the first of equals.

    >>> sources = jnp.log(jnp.array([[6.0, 0.0], [2.0, 2.0]]))
    >>> jnp.array_str(jnp.exp(most_certain(sources)), precision=3)
    '[6. 0.]'

    This project's choice, an ablation.
    """
    sources = sources_first(log_evidence, axis)
    best = logsumexp(sources).argmax(axis=0)
    return jnp.take_along_axis(sources, best[None, ..., None], axis=0)[0]


def discount(log_evidence: PerClass, reliability: ArrayLike) -> PerClass:
    """Shafer's discounting, b' = r b, u' = 1 - r + r u: e'_k = r e_k / (1 + (1 - r) sum_j e_j / K).

    Args:
      log_evidence: log e, (..., classes).
      reliability: r in [0, 1], broadcasts against the shape without classes: (sources,) for one a
        source. 1 changes nothing, 0 leaves no evidence; at both its own gradient is taken as 0.

    Returns:
      Discounted log-evidence, (..., classes).

    Raises:
      ValueError: reliability outside [0, 1]. (A traced one gives NaN.)

    >>> jnp.array_str(jnp.exp(discount(jnp.log(jnp.array([6.0, 0.0])), 0.5)), precision=3)
    '[1.2 0. ]'

    Shafer 1976, p. 252.
    """
    log_evidence = checked(log_evidence)
    bounds = value_range(reliability)
    if bounds is not None and not 0 <= bounds[0] <= bounds[1] <= 1:
        raise ValueError(
            f"expected reliability in [0, 1], got {bounds[0]}..{bounds[1]}: if it is learned, pass "
            "it through a sigmoid"
        )
    r = jnp.asarray(reliability, log_evidence.dtype)[..., None]
    log_ratio = logsumexp(log_evidence)[..., None] - jnp.log(log_evidence.shape[-1])
    # Keeps log 0 out of the gradient. Next to 0 and 1 `partial` is right as well: a compiler that
    # rounds r differently here and below takes another branch of the same value.
    limits = jnp.finfo(r.dtype)
    inside = jnp.clip(r, limits.tiny, 1 - limits.epsneg)
    partial = log_evidence + jnp.log(inside) - jax.nn.softplus(jnp.log1p(-inside) + log_ratio)
    discounted = jnp.where(r <= 0, -jnp.inf, jnp.where(r >= 1, log_evidence, partial))
    return jnp.where((r >= 0) & (r <= 1), discounted, jnp.nan)
