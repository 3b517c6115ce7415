"""Selective classification: accept the predictions above a confidence, with a bound on their risk.

A rule accepts an image if its confidence is larger than a threshold t. Its risk R(t) is the error
rate among all images that it accepts. n validation images choose t for an asked risk r:

1. N validation images are more confident than t, and E of their predictions are wrong. For a fixed
   t, E is binomial (N, R(t)). The test of t passes if P(Binomial(N, r) <= E) <= delta, which is the
   same as an upper Clopper-Pearson bound of at most r.
2. Thresholds are tested from the most confident end downwards, each at delta, and the first failure
   ends the search (fixed-sequence testing, "Learn then test"). The rule is the last threshold that
   passed. The search goes too far only if the first threshold of risk > r passes. So one test
   decides, and delta is not divided by the number of tests.
3. The search starts at a quarter of the images, but not below the number m that passes with no
   error, and not above 2 m. A later start lets one early error pass; an earlier start serves
   confidences that are good for few images only.

P(R(t) > r) <= delta if images are exchangeable and the risk, once it exceeds r as the threshold
falls, stays above r. Otherwise the start, which depends on the data, makes delta hold
approximately. r and delta must be fixed before the validation images are seen.

SGR (Geifman and El-Yaniv 2017, algorithm 2) searches by bisection instead, at delta / ceil(log2 n)
a step. Its thresholds depend on the labels, which its union bound ignores, and it accepts fewer
images. Images of equal confidence are accepted or rejected together, by one rule for validation and
test, so ties do not weaken the bound.

Sources: Geifman and El-Yaniv 2017, "Selective classification for deep neural networks"; Clopper and
Pearson 1934; Angelopoulos et al. 2021, "Learn then test: calibrating predictive algorithms to
achieve risk control"; Bauer 1991, "Multiple testing in clinical trials".
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from cdc_jax.trust.checks import ArrayLike, share, vectors


class SelectiveRule(NamedTuple):
    """Accept the images whose confidence is larger than `threshold`.

    Attributes:
      threshold: -inf accepts all images; inf accepts none, because no threshold passed.
      accepted: number of validation images that the rule accepts.
      errors: number of wrong predictions among these.
      bound: upper Clopper-Pearson bound of the risk; 1 for a rule that accepts none.
    """

    threshold: float
    accepted: int
    errors: int
    bound: float


class Selection(NamedTuple):
    """Figures of a rule on test images; the risk is NaN where the rule accepts none."""

    risk: float
    coverage: float


def risk_upper_bound(errors: ArrayLike, accepted: ArrayLike, delta: float = 0.05) -> np.ndarray:
    """Upper Clopper-Pearson bound B of an error rate: P(Binomial(N, B) <= E) = delta.

    B is the 1 - delta quantile of Beta(E + 1, N - E), and 1 where all are wrong.

    Args:
      errors: E in 0..N, any shape.
      accepted: N >= 1, a shape that broadcasts against it.
      delta: probability that the bound is too low, in (0, 1).

    Returns:
      B, the broadcast shape.

    Raises:
      ValueError: delta out of range; errors outside 0..N; no image.

    >>> risk_upper_bound([0, 3], 60).round(3).tolist()
    [0.049, 0.124]

    Clopper and Pearson 1934; Geifman and El-Yaniv 2017, lemma 3.1.
    """
    share("delta", delta)
    e, n = np.broadcast_arrays(np.asarray(errors, np.float64), np.asarray(accepted, np.float64))
    if not ((e >= 0) & (e <= n) & (n >= 1)).all():
        raise ValueError(f"expected 0 <= errors <= accepted and accepted >= 1, got {e} of {n}")
    bound = special.betaincinv(e + 1, np.maximum(n - e, 1), 1 - delta)
    return np.where(e == n, 1.0, bound)


def images_needed(risk: float, delta: float = 0.05) -> int:
    """Least number of validation images for a risk, the least n with (1 - risk)^n <= delta.

    With this number the rule can accept images only if it makes no error.

    Args:
      risk: asked risk r, in (0, 1).
      delta: probability that the risk is exceeded, in (0, 1).

    Returns:
      n.

    Raises:
      ValueError: a share out of range.

    >>> images_needed(0.05), images_needed(0.2)
    (59, 14)
    """
    share("risk", risk), share("delta", delta)
    return math.ceil(math.log(delta) / math.log1p(-risk))


def _least_risk(images: int, delta: float) -> float:
    """The least risk that this number of images can show, rounded up to four digits."""
    return math.ceil(-math.expm1(math.log(delta) / images) * 10_000) / 10_000


def selective_rule(
    confidence: ArrayLike, correct: ArrayLike, risk: float, delta: float = 0.05
) -> SelectiveRule:
    """The rule that accepts the most images among rules whose risk is guaranteed.

    Args:
      confidence: of the validation images, larger = more certain, (n,).
      correct: whether each prediction is right, (n,).
      risk: asked risk r, the error rate among accepted images, in (0, 1).
      delta: probability, over the draw of the validation images, that the rule's risk exceeds r.

    Returns:
      The rule. If no threshold passes, it accepts none.

    Raises:
      ValueError: a share out of range; vectors that do not fit; infinite confidence; too few images
        for this risk and delta.

    >>> confidence = np.arange(100) / 100
    >>> rule = selective_rule(confidence, confidence > 0.15, risk=0.1)
    >>> rule.threshold, rule.accepted, rule.errors, round(rule.bound, 3)
    (0.12, 87, 3, 0.087)

    Geifman and El-Yaniv 2017; Angelopoulos et al. 2021, section 2.3.1: see the module's docstring.
    """
    certain, right = vectors(confidence=confidence, correct=correct)
    if not np.isfinite(certain).all():
        raise ValueError(f"confidence of {(~np.isfinite(certain)).sum()} images is infinite")
    needed, n = images_needed(risk, delta), len(certain)
    if n < needed:
        raise ValueError(
            f"a risk of at most {risk:g} at delta={delta:g} needs {needed} validation images, got "
            f"{n}: add images, or raise the risk to at least {_least_risk(n, delta):g}"
        )
    order = np.argsort(-certain, kind="stable")
    falling, errors = certain[order], np.cumsum(right[order] == 0)
    accepted = np.append(np.flatnonzero(falling[1:] < falling[:-1]) + 1, n)
    accepted = accepted[accepted >= np.clip(n // 4, needed, 2 * needed)]
    passed = special.bdtr(errors[accepted - 1], accepted, risk) <= delta
    count = len(passed) if passed.all() else int(np.argmin(passed))
    if not count:
        return SelectiveRule(math.inf, 0, 0, 1.0)
    last = int(accepted[count - 1])
    wrong = int(errors[last - 1])
    return SelectiveRule(
        threshold=float(falling[last]) if last < n else -math.inf,
        accepted=last,
        errors=wrong,
        bound=float(risk_upper_bound(wrong, last, delta)),
    )


def select(confidence: ArrayLike, correct: ArrayLike, threshold: float) -> Selection:
    """Risk and coverage of a rule: error rate among accepted images, and their share.

    Args:
      confidence: of the test images, by the measure that chose the rule, (images,).
      correct: whether each prediction is right, (images,).
      threshold: of the rule; an image is accepted if its confidence is larger.

    Returns:
      The risk in 0..1, NaN where no image is accepted, and the coverage in 0..1.

    Raises:
      ValueError: vectors that do not fit; a threshold that is NaN.

    >>> select([0.9, 0.8, 0.7, 0.2], [True, True, False, False], 0.5)
    Selection(risk=0.3333333333333333, coverage=0.75)
    """
    certain, right = vectors(confidence=confidence, correct=correct)
    if math.isnan(threshold):
        raise ValueError("the threshold is NaN: expected a number or an infinity")
    accepted = certain > threshold
    risk = float((right[accepted] == 0).mean()) if accepted.any() else math.nan
    return Selection(risk, float(accepted.mean()))
