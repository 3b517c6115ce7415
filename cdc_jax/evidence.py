"""From logits to fused opinions: evidence, Dempster's rule, trusted losses, in log space.

Evidence e >= 0 over K classes is a Dirichlet of concentration alpha = e + 1 and strength
S = sum_k alpha_k, and an opinion: belief b_k = e_k / S and uncertainty u = K / S, summing to one.
All functions take log-evidence, (..., classes) or (..., sources, classes), -inf for no evidence.

Dempster's rule in closed form (this project's derivation). An opinion is a mass function whose
focal sets are the singletons {k} and the whole frame. Intersections of those are singletons, the
frame or empty, so the fusion of M opinions has the same focal sets.
* The frame results only if every source gives its mass to the frame: m(frame) = prod_m u^m.
* {k} results if every source gives its mass to {k} or to the frame, and not all to the frame:
  m(k) = prod_m (b^m_k + u^m) - prod_m u^m.
* The remaining mass is the conflict C, on the empty set. Division by 1 - C keeps all ratios.
Evidence is such a ratio, e_k = K b_k / u, and b^m_k + u^m = u^m (1 + e^m_k / K), hence
    e_k = K m(k) / m(frame) = K (prod_m (1 + e^m_k / K) - 1).
Each class is fused alone and all terms are positive: O(sources * classes), nothing cancels, the
order of the sources is free. And since 1 - C = m(frame) / u, also C = 1 - prod_m u^m / u.

Inputs below float32 are promoted to float32. float64 stays. All functions work under jit, vmap and
grad. Shapes are always checked. Values are checked unless they are traced: NaN is refused, and a
traced NaN gives NaN.

Sources: Dempster 1967; Shafer 1976, "A Mathematical Theory of Evidence"; Jøsang 2016, "Subjective
Logic"; Jøsang, Cho and Chen 2018, "Uncertainty characteristics of subjective opinions"; Sensoy,
Kaplan and Kandemir 2018, "Evidential deep learning"; Malinin and Gales 2018, "Prior networks";
Han et al. 2021, "Trusted multi-view classification"; Denoeux 2008, "Conjunctive and disjunctive
combination"; Murphy 2000, "Combining belief functions when evidence conflicts"; Hendrycks and
Gimpel 2017, "A baseline for detecting misclassified examples".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

PerClass = Float[Array, "... classes"]
PerSource = Float[Array, "... sources classes"]
PerExample = Float[Array, "..."]
Labels = Int[Array, "..."]


class Opinion(NamedTuple):
    """Masses of an opinion; rank by `log_uncertainty`, since `uncertainty` rounds to 0 and 1."""

    belief: PerClass
    uncertainty: PerExample
    log_uncertainty: PerExample


# ---- checks at entry, guarded primitives


def _promote(x: ArrayLike) -> Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _range(x: ArrayLike) -> tuple[Any, Any] | None:
    """Least and greatest value, on the host; None while x is being traced, or empty."""
    if isinstance(x, (int, float)):
        return x, x
    values = None if isinstance(x, jax.core.Tracer) else jax.device_get(x)
    return None if values is None or values.size == 0 else (values.min(), values.max())


def _without_nan(name: str, x: ArrayLike) -> Array:
    x = _promote(x)
    if not isinstance(x, jax.core.Tracer):
        with jax.ensure_compile_time_eval():
            count = int(jnp.isnan(x).sum())
        if count:
            raise ValueError(f"{count} of {x.size} values of {name} are NaN: find where they arise")
    return x


def _checked(log_evidence: ArrayLike, name: str = "log-evidence") -> Array:
    log_evidence = _without_nan(name, log_evidence)
    if log_evidence.ndim == 0 or log_evidence.shape[-1] < 2:
        raise ValueError(
            f"expected at least 2 classes on the last axis, got shape {log_evidence.shape}"
        )
    return log_evidence


def _sources_first(log_evidence: ArrayLike, axis: int) -> Array:
    log_evidence = _checked(log_evidence)
    shape, ndim = log_evidence.shape, log_evidence.ndim
    if not -ndim <= axis < ndim or axis % ndim == ndim - 1:
        raise ValueError(
            f"axis={axis} can't hold the sources of log-evidence of shape {shape}: name an axis "
            "before the last one, which holds the classes"
        )
    if shape[axis] == 0:
        raise ValueError(f"no source to fuse: axis {axis} of shape {shape} is empty")
    return jnp.moveaxis(log_evidence, axis, 0)


def _checked_labels(labels: ArrayLike, log_evidence: Array) -> Array:
    *shape, classes = log_evidence.shape
    bounds = _range(labels)
    labels = jnp.asarray(labels)
    if labels.shape != tuple(shape) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"expected integer labels of shape {tuple(shape)}, one for each row of log-evidence, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    if bounds is not None and not 0 <= bounds[0] <= bounds[1] < classes:
        raise ValueError(f"expected labels in 0..{classes - 1}, got {bounds[0]}..{bounds[1]}")
    return labels


def _logsumexp(x: Array, axis: int = -1) -> Array:
    """jax.nn.logsumexp with a gradient of 0, not NaN, where every entry is -inf."""
    empty = jnp.all(x == -jnp.inf, axis=axis)
    safe = jnp.where(jnp.expand_dims(empty, axis), 0.0, x)
    return jnp.where(empty, -jnp.inf, jax.nn.logsumexp(safe, axis=axis))


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


# ---- logits -> evidence -> opinion


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
    bounds = _range(scale)
    if bounds is not None and not bounds[0] > 0:
        raise ValueError(f"expected scale > 0, got {bounds[0]}: if it is learned, learn its log")
    return KINDS[kind](jnp.asarray(scale) * _checked(logits, "logits") - jnp.asarray(shift))


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
    logits = _without_nan("logits", logits)
    if logits.size == 0:
        raise ValueError(f"no logits to calibrate on: shape {logits.shape}")
    return multiple * jnp.mean(scale * logits)


def log_concentration(log_evidence: PerClass) -> PerClass:
    """log alpha = log(1 + e) >= 0; evidence too small for 1 + e to show survives.

    >>> jnp.array_str(jnp.exp(log_concentration(jnp.log(jnp.array([0.0, 3.0])))), precision=3)
    '[1. 4.]'

    Sensoy et al. 2018, section 3.
    """
    return jax.nn.softplus(_checked(log_evidence))


def opinion(log_evidence: PerClass) -> Opinion:
    """Belief b_k = e_k / S and uncertainty u = K / S, S = K + sum_k e_k; they sum to one.

    >>> belief, u, log_u = opinion(jnp.log(jnp.array([6.0, 0.0])))
    >>> jnp.array_str(belief, precision=3), f"{u:.3f}"
    ('[0.75 0.  ]', '0.250')

    Jøsang 2016, section 3.5; Sensoy et al. 2018, section 3.
    """
    log_evidence = _checked(log_evidence)
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


# ---- fusion: (..., sources, classes) -> (..., classes), Args, Returns and Raises as `combine`


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

    Dempster 1967; Shafer 1976, chapter 3; closed form: see the module's docstring.
    """
    return _product(_sources_first(log_evidence, axis), 1.0)


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
    sources = _sources_first(log_evidence, axis)
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
    small = _logsumexp(ratio, axis=0) + jnp.log(power)
    return log_classes + jnp.where(tiny, small, exact)


def average(log_evidence: PerSource, axis: int = -2) -> PerClass:
    """Mean opinion, b = mean_m b^m and u = mean_m u^m: e = sum_m u^m e^m / sum_m u^m.

    One uncertain source keeps it uncertain. (Jøsang's averaging fusion, the mean evidence, is
    `cumulate(...) - log(sources)`.)

    >>> jnp.array_str(jnp.exp(average(jnp.log(jnp.array([[6.0, 0.0], [0.0, 0.0]])))), precision=3)
    '[1.2 0. ]'

    Murphy 2000: the average itself, not combined with itself.
    """
    sources = _sources_first(log_evidence, axis)
    log_u = log_vacuity(sources)
    return _logsumexp(sources + log_u[..., None], axis=0) - _logsumexp(log_u, axis=0)[..., None]


def cumulate(log_evidence: PerSource, axis: int = -2) -> PerClass:
    """Cumulative fusion, e = sum_m e^m: Dempster's rule without its products.

    >>> jnp.array_str(jnp.exp(cumulate(jnp.log(jnp.array([[6.0, 0.0], [2.0, 2.0]])))), precision=3)
    '[8. 2.]'

    Jøsang 2016, section 12.3.
    """
    return _logsumexp(_sources_first(log_evidence, axis), axis=0)


def cautious(log_evidence: PerSource, axis: int = -2) -> PerClass:
    """Denoeux's cautious rule, normalised: e_k = max_m e^m_k. Idempotent, for dependent sources.

    An opinion is Dempster's combination of simple mass functions, with weight 1 / (1 + e_k / K) on
    {k}; the rule takes the least weight of each, so the most evidence.

    >>> jnp.array_str(jnp.exp(cautious(jnp.log(jnp.array([[6.0, 0.0], [2.0, 2.0]])))), precision=3)
    '[6. 2.]'

    Denoeux 2008.
    """
    return _sources_first(log_evidence, axis).max(axis=0)


def most_certain(log_evidence: PerSource, axis: int = -2) -> PerClass:
    """The source of least uncertainty, which has the most total evidence; the first of equals.

    >>> sources = jnp.log(jnp.array([[6.0, 0.0], [2.0, 2.0]]))
    >>> jnp.array_str(jnp.exp(most_certain(sources)), precision=3)
    '[6. 0.]'

    This project's choice, an ablation.
    """
    sources = _sources_first(log_evidence, axis)
    best = _logsumexp(sources).argmax(axis=0)
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
    log_evidence = _checked(log_evidence)
    bounds = _range(reliability)
    if bounds is not None and not 0 <= bounds[0] <= bounds[1] <= 1:
        raise ValueError(
            f"expected reliability in [0, 1], got {bounds[0]}..{bounds[1]}: if it is learned, pass "
            "it through a sigmoid"
        )
    r = jnp.asarray(reliability, log_evidence.dtype)[..., None]
    log_ratio = _logsumexp(log_evidence)[..., None] - jnp.log(log_evidence.shape[-1])
    # Keeps log 0 out of the gradient. Next to 0 and 1 `partial` is right as well: a compiler that
    # rounds r differently here and below takes another branch of the same value.
    limits = jnp.finfo(r.dtype)
    inside = jnp.clip(r, limits.tiny, 1 - limits.epsneg)
    partial = log_evidence + jnp.log(inside) - jax.nn.softplus(jnp.log1p(-inside) + log_ratio)
    discounted = jnp.where(r <= 0, -jnp.inf, jnp.where(r >= 1, log_evidence, partial))
    return jnp.where((r >= 0) & (r <= 1), discounted, jnp.nan)


# ---- measures of uncertainty: (..., classes) -> (...), larger is less certain


def log_vacuity(log_evidence: PerClass) -> PerExample:
    """Lack of evidence, log u = -log1p(sum_k e_k / K) <= 0; u itself would round to 0 or 1.

    >>> f"{jnp.exp(log_vacuity(jnp.log(jnp.array([6.0, 0.0])))):.3f}"
    '0.250'

    Jøsang, Cho and Chen 2018; its log: this project's choice.
    """
    log_evidence = _checked(log_evidence)
    return -jax.nn.softplus(_logsumexp(log_evidence) - jnp.log(log_evidence.shape[-1]))


def dissonance(log_evidence: PerClass) -> PerExample:
    """Belief that contradicts itself: sum_k b_k (sum_{j!=k} b_j Bal_jk) / (sum_{j!=k} b_j).

    Bal_jk = 1 - |b_j - b_k| / (b_j + b_k) = 2 sigmoid(-|log e_j - log e_k|), and the quotient is
    its mean under a softmax of log e over j != k: no mass is formed that could underflow. In
    [0, 1 - u]; O(classes²) time, O(classes) memory.

    >>> jnp.array_str(dissonance(jnp.log(jnp.array([[4.0, 4.0], [8.0, 0.0]]))), precision=3)
    '[0.8 0. ]'

    Jøsang, Cho and Chen 2018.
    """
    log_evidence = _checked(log_evidence)
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
    excess = (1 - _digamma_gap(log_alpha)).sum(axis=-1) - (1 - _digamma_gap(log_strength))
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
    alone = log_vacuity(_sources_first(log_evidence, axis)).sum(axis=0)
    return jnp.maximum(log_vacuity(combine(log_evidence, axis)) - alone, 0.0)


# ---- trusted losses: Args, Returns and Raises as `trusted_cross_entropy`

# c_n = B_2n / 2n, with x (log x - psi(x)) ~ 1/2 + sum_n c_n x^(1-2n), and Stirling's tail of
# log Gamma(x) ~ sum_n c_n / (2n-1) x^(1-2n). From x = 8 on, seven terms are exact to 1e-14.
_SERIES = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
_TAIL = tuple(c / (2 * n + 1) for n, c in enumerate(_SERIES))
_SERIES_FROM = 8


def _odd_polynomial(coefficients: tuple[float, ...], q: Array) -> Array:
    """sum_n c_n q^(2n-1), n from 1."""
    total = jnp.zeros_like(q)
    for c in reversed(coefficients):
        total = total * q * q + c
    return total * q


def _digamma_gap(log_x: Array) -> Array:
    """x (log x - psi(x)) for x >= 1, falling from 0.577 to 1/2.

    For large x the difference cancels and x overflows: there the series is used.
    """
    log_border = jnp.log(_SERIES_FROM)
    near = jnp.minimum(log_x, log_border)
    library = jnp.exp(near) * (near - jax.scipy.special.digamma(jnp.exp(near)))
    series = 0.5 + _odd_polynomial(_SERIES, jnp.exp(-jnp.maximum(log_x, log_border)))
    return jnp.where(log_x < log_border, library, series)


def _kl_term(log_e: Array, k: int) -> Array:
    """F_k(e) = e - e psi(k + e) + log Gamma(k + e) - log Gamma(k), without its cancellations.

    It is the integral of 1 - t psi'(k + t) over t = 0..e: e at first, (k - 1/2) log e in the end.
    Stirling's series at n + e, n = max(k, 8), and the recurrence
        F_i(e) = F_{i+1}(e) - log(1 + e/i) + e / (i + e), from n down to k,
    give terms that are bounded or grow as log e, exact to rounding from e = 0 to far beyond
    overflow. So are their derivatives: autodiff needs no help.
    """
    n = max(k, _SERIES_FROM)
    y = log_e - jnp.log(n)
    share, complement = jax.nn.sigmoid(y), jax.nn.sigmoid(-y)  # e / (n + e), n / (n + e)
    product = jnp.zeros_like(y)  # prod_i (1 + e/i) / (1 + e/n), less 1 to stay exact near 0
    fractions = jnp.zeros_like(y)  # sum_i e / (i + e)
    for i in range(k, n):
        step = share * ((n - i) / i)
        product = product + step + product * step
        fractions = fractions + share / (share + complement * (i / n))
    logs = (k - 0.5) * jax.nn.softplus(y) - jnp.log1p(product)
    q, q0 = complement / n, jnp.full_like(y, 1 / n)  # 1 / (n + e), and that at e = 0
    series = share * (0.5 + _odd_polynomial(_SERIES, q))
    return logs + fractions + series + _odd_polynomial(_TAIL, q) - _odd_polynomial(_TAIL, q0)


def dirichlet_kl_to_uniform(log_evidence: PerClass) -> PerExample:
    """KL( Dir(1 + e) || Dir(1) ) = F_K(sum_k e_k) - sum_k F_1(e_k), finite at any evidence.

    F_k(e) = e - e psi(k + e) + log Gamma(k + e) - log Gamma(k). Against the usual form, the parts
    linear in e and log Gamma(K), whose cancellation eats float32's digits, are gone.
    (..., classes) -> (...), nats, >= 0 up to rounding.

    >>> f"{dirichlet_kl_to_uniform(jnp.log(jnp.array([6.0, 0.0]))):.3f}"
    '1.089'

    Sensoy et al. 2018, section 4, the usual form; this one: this project's.
    """
    log_evidence = _checked(log_evidence)
    total = _kl_term(_logsumexp(log_evidence), log_evidence.shape[-1])
    return total - _kl_term(log_evidence, 1).sum(axis=-1)


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
    log_evidence = _checked(log_evidence)
    labels = _checked_labels(labels, log_evidence)
    log_alpha = log_concentration(log_evidence)
    log_strength, log_alpha_y = jax.nn.logsumexp(log_alpha, axis=-1), _pick(log_alpha, labels)
    # psi(x) = log x - gap(x) / x: the logs meet in a log-softmax, the rest is 0.58 at most.
    loss = (
        -_pick(jax.nn.log_softmax(log_alpha, axis=-1), labels)
        + _digamma_gap(log_alpha_y) * jnp.exp(-log_alpha_y)
        - _digamma_gap(log_strength) * jnp.exp(-log_strength)
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
    log_evidence = _checked(log_evidence)
    labels = _checked_labels(labels, log_evidence)
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
    log_evidence = _checked(log_evidence)
    labels = _checked_labels(labels, log_evidence)
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
    return final * jnp.minimum(1.0, _promote(step) / (warmup * num_steps))


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
      loss: L, one of this module's losses.
      fuse: one of this module's fusions.

    Returns:
      One value an example, (...).

    Raises:
      ValueError: no source; labels of a wrong shape, type or range.

    >>> f"{trusted_loss(jnp.log(jnp.array([[2.0, 0.0], [2.0, 0.0]])), jnp.array(0)):.2f}"
    '0.81'

    Han et al. 2021; the weights: this project's choice.
    """
    log_evidence = _checked(log_evidence)
    fused = fuse(log_evidence)
    labels = _checked_labels(labels, fused)
    rows = jnp.broadcast_to(labels[..., None], log_evidence.shape[:-1])
    alone = (source_weights * loss(log_evidence, rows, kl_weight)).sum(axis=-1)
    return jnp.asarray(alone + fused_weight * loss(fused, labels, kl_weight))
