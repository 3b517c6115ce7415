"""Measures of uncertainty: (..., classes) -> (...); larger is less certain."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from cdc_jax.evidence.checks import PerClass, PerExample, PerSource, checked, sources_first
from cdc_jax.evidence.fusion import combine
from cdc_jax.evidence.opinions import expected_probability, log_concentration, log_vacuity, opinion
from cdc_jax.evidence.special import digamma_gap


def dissonance(log_evidence: PerClass) -> PerExample:
    """Belief that contradicts itself: sum_k b_k (sum_{j!=k} b_j Bal_jk) / (sum_{j!=k} b_j).

    Bal_jk = 1 - |b_j - b_k| / (b_j + b_k) = 2 sigmoid(-|log e_j - log e_k|), and the quotient is
    its mean under a softmax of log e over j != k: no mass is formed that could underflow. In
    [0, 1 - u]; O(classes²) time, O(classes) memory.

    >>> jnp.array_str(dissonance(jnp.log(jnp.array([[4.0, 4.0], [8.0, 0.0]]))), precision=3)
    '[0.8 0. ]'

    Jøsang, Cho and Chen 2018.
    """
    log_evidence = checked(log_evidence)
    # -inf - -inf would be NaN: no evidence becomes finite here, its belief is 0 anyway.
    finite = jnp.where(log_evidence == -jnp.inf, -1e30, log_evidence)
    classes = jnp.arange(log_evidence.shape[-1])

    @jax.checkpoint
    def mean_balance(k: Array) -> Array:
        weights = jax.nn.softmax(jnp.where(classes == k, -jnp.inf, finite), axis=-1)
        return (weights * 2 * jax.nn.sigmoid(-jnp.abs(finite - finite[..., k, None]))).sum(axis=-1)

    balance = jnp.moveaxis(jax.lax.map(mean_balance, classes), 0, -1)
    return (opinion(log_evidence).belief * balance).sum(axis=-1)


def least_confidence(log_evidence: PerClass) -> PerExample:
    """1 - max_k p_k, summed over the other classes so that small values survive.

    >>> f"{least_confidence(jnp.log(jnp.array([6.0, 0.0]))):.3f}"
    '0.125'

    Hendrycks and Gimpel 2017, maximum softmax probability.
    """
    p = expected_probability(log_evidence)
    top = p.argmax(axis=-1)[..., None] == jnp.arange(p.shape[-1])
    return jnp.where(top, 0.0, p).sum(axis=-1)


def entropy(log_evidence: PerClass) -> PerExample:
    """Entropy of the expected probability, -sum_k p_k log p_k, in nats: total uncertainty.

    >>> f"{entropy(jnp.log(jnp.array([6.0, 0.0]))):.3f}"
    '0.377'

    Malinin and Gales 2018.
    """
    log_p = jax.nn.log_softmax(log_concentration(log_evidence), axis=-1)
    return -(jnp.exp(log_p) * log_p).sum(axis=-1)


def expected_entropy(log_evidence: PerClass) -> PerExample:
    """Mean entropy under the Dirichlet, psi(S + 1) - sum_k p_k psi(alpha_k + 1): data uncertainty.

    >>> f"{expected_entropy(jnp.log(jnp.array([6.0, 0.0]))):.3f}"
    '0.324'

    Malinin and Gales 2018.
    """
    return entropy(log_evidence) - mutual_information(log_evidence)


def mutual_information(log_evidence: PerClass) -> PerExample:
    """Of label and probabilities, entropy less expected entropy: knowledge uncertainty.

    With g(x) = x (log x - psi(x)) in (1/2, 0.58] it is (sum_k (1 - g(alpha_k)) - (1 - g(S))) / S:
    bounded terms over S in place of a difference of entropies.

    >>> f"{mutual_information(jnp.log(jnp.array([6.0, 0.0]))):.3f}"
    '0.053'

    Malinin and Gales 2018; this form: this project's.
    """
    log_alpha = log_concentration(log_evidence)
    log_strength = jax.nn.logsumexp(log_alpha, axis=-1)
    excess = (1 - digamma_gap(log_alpha)).sum(axis=-1) - (1 - digamma_gap(log_strength))
    return excess * jnp.exp(-log_strength)


def conflict(log_evidence: PerSource, axis: int = -2) -> PerExample:
    """Dempster's conflict C = 1 - prod_m u^m / u, the mass that all sources leave no class.

    (..., sources, classes) -> (...); Args and Raises as `combine`. It rounds to 1: to rank, take
    `weight_of_conflict`.

    >>> f"{conflict(jnp.log(jnp.array([[6.0, 0.0], [0.0, 6.0]]))):.4f}"
    '0.5625'

    Shafer 1976, chapter 3.
    """
    return -jnp.expm1(-weight_of_conflict(log_evidence, axis))


def weight_of_conflict(log_evidence: PerSource, axis: int = -2) -> PerExample:
    """-log(1 - C) = log u - sum_m log u^m >= 0, to a few roundings of that sum; see `conflict`.

    >>> f"{weight_of_conflict(jnp.log(jnp.array([[6.0, 0.0], [0.0, 6.0]]))):.4f}"
    '0.8267'

    Shafer 1976, chapter 3.
    """
    alone = log_vacuity(sources_first(log_evidence, axis)).sum(axis=0)
    return jnp.maximum(log_vacuity(combine(log_evidence, axis)) - alone, 0.0)
