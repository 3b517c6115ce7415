"""Trusted losses; Args, Returns and Raises are those of `trusted_cross_entropy`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from cdc_jax.evidence.checks import (
    Labels,
    PerClass,
    PerExample,
    PerSource,
    checked,
    checked_labels,
    promote,
)
from cdc_jax.evidence.fusion import combine
from cdc_jax.evidence.opinions import log_concentration
from cdc_jax.evidence.special import digamma_gap, kl_term, logsumexp


def dirichlet_kl_to_uniform(log_evidence: PerClass) -> PerExample:
    """KL( Dir(1 + e) || Dir(1) ) = F_K(sum_k e_k) - sum_k F_1(e_k), finite at any evidence.

    F_k(e) = e - e psi(k + e) + log Gamma(k + e) - log Gamma(k). Against the usual form, the parts
    linear in e and log Gamma(K), whose cancellation eats float32's digits, are gone.
    (..., classes) -> (...), nats, >= 0 up to rounding.

    >>> f"{dirichlet_kl_to_uniform(jnp.log(jnp.array([6.0, 0.0]))):.3f}"
    '1.089'

    Sensoy et al. 2018, section 4, the usual form; this one: this project's.
    """
    log_evidence = checked(log_evidence)
    total = kl_term(logsumexp(log_evidence), log_evidence.shape[-1])
    return total - kl_term(log_evidence, 1).sum(axis=-1)


def _finish(loss: Array, log_evidence: Array, labels: Array, kl_weight: ArrayLike) -> Array:
    """Adds the KL penalty; NaN for a label out of range, which no check sees while traced."""
    classes = jnp.arange(log_evidence.shape[-1])
    loss = jnp.where((labels >= 0) & (labels < classes.size), loss, jnp.nan)
    if isinstance(kl_weight, (int, float)) and kl_weight == 0:
        return loss
    misleading = jnp.where(labels[..., None] == classes, -jnp.inf, log_evidence)
    return loss + kl_weight * dirichlet_kl_to_uniform(misleading)


def _pick(x: Array, labels: Array) -> Array:
    return jnp.take_along_axis(x, labels[..., None], axis=-1)[..., 0]


def trusted_cross_entropy(
    log_evidence: PerClass, labels: Labels, kl_weight: ArrayLike = 0.0
) -> PerExample:
    """Expected (Bayes-risk) cross-entropy psi(S) - psi(alpha_y), plus the KL penalty.

    The penalty is kl_weight * KL( Dir(alpha~) || Dir(1) ), where alpha~ is alpha with the true
    class set to 1: it punishes misleading evidence only.

    Args:
      log_evidence: log e, (..., classes).
      labels: y in 0..K-1, (...).
      kl_weight: lambda >= 0, a scalar or (...), see `annealed_kl_weight`.

    Returns:
      One value for each row, (...).

    Raises:
      ValueError: labels of a wrong shape, type or range. (Traced ones out of range give NaN.)

    >>> f"{trusted_cross_entropy(jnp.log(jnp.array([2.0, 0.0])), jnp.array(0)):.3f}"
    '0.333'

    Sensoy et al. 2018, eq. 4; Han et al. 2021.
    """
    log_evidence = checked(log_evidence)
    labels = checked_labels(labels, log_evidence)
    log_alpha = log_concentration(log_evidence)
    log_strength, log_alpha_y = jax.nn.logsumexp(log_alpha, axis=-1), _pick(log_alpha, labels)
    # psi(x) = log x - gap(x) / x: the logs meet in a log-softmax, the rest is 0.58 at most.
    loss = (
        -_pick(jax.nn.log_softmax(log_alpha, axis=-1), labels)
        + digamma_gap(log_alpha_y) * jnp.exp(-log_alpha_y)
        - digamma_gap(log_strength) * jnp.exp(-log_strength)
    )
    return _finish(loss, log_evidence, labels, kl_weight)


def type_two_likelihood(
    log_evidence: PerClass, labels: Labels, kl_weight: ArrayLike = 0.0
) -> PerExample:
    """Negative log marginal likelihood log S - log alpha_y, plus the KL penalty.

    >>> f"{type_two_likelihood(jnp.log(jnp.array([2.0, 0.0])), jnp.array(0)):.3f}"
    '0.288'

    Sensoy et al. 2018, eq. 3.
    """
    log_evidence = checked(log_evidence)
    labels = checked_labels(labels, log_evidence)
    log_p = jax.nn.log_softmax(log_concentration(log_evidence), axis=-1)
    return _finish(-_pick(log_p, labels), log_evidence, labels, kl_weight)


def expected_squared_error(
    log_evidence: PerClass, labels: Labels, kl_weight: ArrayLike = 0.0
) -> PerExample:
    """Expected Brier score sum_k (y_k - p_k)² + p_k (1 - p_k) / (S + 1), plus the KL penalty.

    >>> f"{expected_squared_error(jnp.log(jnp.array([2.0, 0.0])), jnp.array(0)):.3f}"
    '0.200'

    Sensoy et al. 2018, eq. 5.
    """
    log_evidence = checked(log_evidence)
    labels = checked_labels(labels, log_evidence)
    log_alpha = log_concentration(log_evidence)
    p = jax.nn.softmax(log_alpha, axis=-1)
    y = labels[..., None] == jnp.arange(p.shape[-1])
    log_strength = jax.nn.logsumexp(log_alpha, axis=-1)
    variance = (p * (1 - p)).sum(axis=-1) * jnp.exp(-jax.nn.softplus(log_strength))
    return _finish(((y - p) ** 2).sum(axis=-1) + variance, log_evidence, labels, kl_weight)


def annealed_kl_weight(
    step: ArrayLike, num_steps: int, final: float, warmup: float = 0.5
) -> Float[Array, ""]:
    """lambda(t) = final * min(1, t / (warmup * num_steps)).

    Args:
      step: t >= 0.
      num_steps: length of the training, at least 1.
      final: the weight reached; the project's first study found harm above 0.03.
      warmup: share of the training over which it rises, in (0, 1].

    Returns:
      The weight at t, a scalar.

    Raises:
      ValueError: num_steps or warmup out of range.

    >>> f"{annealed_kl_weight(25, 100, 0.03):.3f} {annealed_kl_weight(80, 100, 0.03):.3f}"
    '0.015 0.030'

    Sensoy et al. 2018, section 4; over the first half: this project's choice.
    """
    if num_steps < 1 or not 0 < warmup <= 1:
        raise ValueError(f"expected num_steps >= 1, 0 < warmup <= 1, got {num_steps}, {warmup}")
    return final * jnp.minimum(1.0, promote(step) / (warmup * num_steps))


def trusted_loss(
    log_evidence: PerSource,
    labels: Labels,
    kl_weight: ArrayLike = 0.0,
    source_weights: ArrayLike = 1.0,
    fused_weight: ArrayLike = 1.0,
    loss: Callable[..., Array] = trusted_cross_entropy,
    fuse: Callable[[Array], Array] = combine,
) -> PerExample:
    """sum_m w_m L(e^m, y) + omega L(e^fused, y).

    Args:
      log_evidence: log e^m, (..., sources, classes).
      labels: y in 0..K-1, (...).
      kl_weight: of every loss, a scalar.
      source_weights: w, a scalar or (..., sources).
      fused_weight: omega.
      loss: L, a loss of this module.
      fuse: a function of `fusion`.

    Returns:
      One value an example, (...).

    Raises:
      ValueError: no source; labels of a wrong shape, type or range.

    >>> f"{trusted_loss(jnp.log(jnp.array([[2.0, 0.0], [2.0, 0.0]])), jnp.array(0)):.2f}"
    '0.81'

    Han et al. 2021; the weights: this project's choice.
    """
    log_evidence = checked(log_evidence)
    fused = fuse(log_evidence)
    labels = checked_labels(labels, fused)
    rows = jnp.broadcast_to(labels[..., None], log_evidence.shape[:-1])
    alone = (source_weights * loss(log_evidence, rows, kl_weight)).sum(axis=-1)
    return jnp.asarray(alone + fused_weight * loss(fused, labels, kl_weight))
