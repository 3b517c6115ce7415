"""trust/selective.py by hand, against SciPy's exact tests, and over simulated validation sets."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_jax.trust import selective

FEW = settings(deadline=None, max_examples=60, derandomize=True)
DELTA = 0.05


# ---- the guarantee, and that it is not vacuous


def well_ranked(place):
    """Logits 3 + 3 g with g normal: 81 % are right, and probabilities are calibrated."""
    return scipy.special.expit(-3 - 3 * scipy.special.ndtri(1 - place))


def constant(place):
    return np.full_like(place, 0.0501)


def step(place):
    """No error up to the place where the search of 1,000 images starts, and one in two after it."""
    return np.where(place < 0.118, 0.0, 0.5)


def waves(place):
    """The risk crosses 5 % many times where the search starts."""
    return np.where(place % 0.02 < 0.01, 0.0, 0.11)


def confidently_wrong(place):
    return np.where(place < 0.01, 0.5, well_ranked(place))


# Error probability at each place of the ranking, from 0, the most confident image, to 1.
WORLDS = {f.__name__: f for f in (well_ranked, constant, step, waves, confidently_wrong)}
PLACES = (np.arange(10**6) + 0.5) / 10**6


def simulated(error, n, risk, levels, rules=1000):
    """The rules' coverages and true risks, and the largest coverage of that risk."""
    rng = np.random.default_rng(n)
    risks = np.cumsum(error(PLACES)) / np.arange(1, len(PLACES) + 1)
    coverages = []
    for _ in range(rules):
        place = rng.random(n)
        wrong = rng.random(n) < error(place)
        confidence = 1 - place
        if levels:
            confidence = np.floor(confidence * levels) / levels
        rule = selective.selective_rule(confidence, ~wrong, risk, DELTA)
        least = rule.threshold + 1 / levels if levels else rule.threshold
        coverages.append(np.clip(1 - least, 0, 1))
    coverage = np.array(coverages)
    at = np.round(coverage * len(PLACES)).astype(int)
    below = np.flatnonzero(risks <= risk)
    oracle = (below[-1] + 1) / len(PLACES) if len(below) else 0.0
    return coverage, np.where(at > 0, risks[at - 1], 0.0), oracle


@pytest.mark.slow  # a thousand calibrations
@pytest.mark.parametrize("levels", [0, 50])
@pytest.mark.parametrize("world", WORLDS)
def test_the_risk_is_exceeded_in_at_most_delta_of_1000_validation_sets(world, levels):
    most = scipy.stats.binom.ppf(1 - 1e-4, 1000, DELTA)
    for n in (120, 300, 1000):
        _, risk, _ = simulated(WORLDS[world], n, 0.05, levels)
        assert (risk > 0.05).sum() <= most, (n, (risk > 0.05).sum())


@pytest.mark.slow  # a thousand calibrations
@pytest.mark.parametrize("risk", [0.05, 0.1])
def test_coverage_is_at_least_90_percent_of_the_oracles(risk):
    coverage, _, oracle = simulated(well_ranked, 1000, risk, 0)
    assert 0.7 < oracle < 0.9  # so a rule that accepts all images fails
    assert coverage.mean() >= 0.9 * oracle, (coverage.mean(), oracle)


def test_the_check_sees_a_rule_without_a_bound():
    rng, exceeded = np.random.default_rng(0), 0
    for _ in range(1000):
        wrong = rng.random(300) < 0.0501
        exceeded += wrong.mean() <= 0.05
    assert exceeded > scipy.stats.binom.ppf(1 - 1e-4, 1000, DELTA)


# ---- the rule against a literal search with SciPy's binomial test


def literal(confidence, correct, risk, delta):
    n = len(confidence)
    needed = next(m for m in range(1, 10**4) if (1 - risk) ** m <= delta)
    best = (math.inf, 0, 0)
    for t in [*sorted(set(confidence), reverse=True), -math.inf]:
        inside = [c for k, c in zip(confidence, correct, strict=True) if k > t]
        if len(inside) < min(max(n // 4, needed), 2 * needed):
            continue
        wrong = inside.count(False)
        if scipy.stats.binomtest(wrong, len(inside), risk, alternative="less").pvalue > delta:
            break
        best = (t, len(inside), wrong)
    return best


@FEW
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 8, 1000]), st.sampled_from([0.1, 0.3]))
def test_rule_is_that_of_the_literal_search(seed, levels, risk):
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, levels, 80).astype(float)
    correct = rng.random(80) > 0.6 * (1 - confidence / levels) * risk * 2
    rule = selective.selective_rule(confidence, correct, risk, delta=0.1)
    assert rule[:3] == literal(confidence.tolist(), correct.tolist(), risk, 0.1)
    accepted = confidence > rule.threshold
    assert (accepted.sum(), (~correct[accepted]).sum()) == (rule.accepted, rule.errors)
    if rule.accepted:
        exact = scipy.stats.binomtest(rule.errors, rule.accepted, alternative="less")
        high = exact.proportion_ci(0.9, method="exact").high
        np.testing.assert_allclose(rule.bound, high, rtol=1e-9)
        assert rule.bound <= risk + 1e-12


def test_rules_that_accept_all_and_none():
    confidence = np.linspace(0, 1, 60)
    everything = selective.selective_rule(confidence, np.ones(60, bool), 0.05)
    assert everything[:3] == (-math.inf, 60, 0) and everything.bound <= 0.05
    nothing = selective.selective_rule(confidence, np.zeros(60, bool), 0.05)
    assert nothing == (math.inf, 0, 0, 1.0)
    assert selective.select(confidence, np.ones(60, bool), -math.inf) == (0.0, 1.0)
    none = selective.select(confidence, np.ones(60, bool), nothing.threshold)
    assert math.isnan(none.risk) and none.coverage == 0


def test_images_of_equal_confidence_are_accepted_together():
    confidence, correct = np.repeat([2.0, 1.0, 0.0], 100), np.ones(300, bool)
    correct[100:200:2] = False
    rule = selective.selective_rule(confidence, correct, 0.05)
    assert rule[:3] == (1.0, 100, 0)
    shuffled = np.random.default_rng(0).permutation(300)
    assert selective.selective_rule(confidence[shuffled], correct[shuffled], 0.05) == rule


@FEW
@given(st.integers(1, 300), st.floats(0, 1), st.floats(0.001, 0.5))
def test_bound_is_scipys(accepted, share, delta):
    errors = round(share * accepted)
    test = scipy.stats.binomtest(errors, accepted, alternative="less")
    expected = test.proportion_ci(1 - delta, method="exact").high
    got = selective.risk_upper_bound(errors, accepted, delta)
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    # No other rate below it explains so few errors at delta.
    if errors < accepted:
        np.testing.assert_allclose(scipy.stats.binom.cdf(errors, accepted, got), delta, rtol=1e-6)


@pytest.mark.parametrize("risk, delta", [(0.05, 0.05), (0.2, 0.1), (0.01, 0.01)])
def test_images_needed_is_the_least_number_that_can_pass(risk, delta):
    needed = selective.images_needed(risk, delta)
    assert (1 - risk) ** needed <= delta < (1 - risk) ** (needed - 1)
    confidence, correct = np.arange(float(needed)), np.ones(needed, bool)
    assert selective.selective_rule(confidence, correct, risk, delta).accepted == needed
    with pytest.raises(ValueError, match=f"needs {needed} validation images, got {needed - 1}"):
        selective.selective_rule(confidence[1:], correct[1:], risk, delta)


def test_the_remedy_in_the_error_is_enough():
    confidence, correct = np.arange(40.0), np.ones(40, bool)
    with pytest.raises(ValueError, match=r"got 40: .* raise the risk to at least 0\.0722") as error:
        selective.selective_rule(confidence, correct, 0.05)
    risk = float(str(error.value).split()[-1])
    assert selective.selective_rule(confidence, correct, risk).accepted == 40


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: selective.selective_rule([0.5], [True, False], 0.5), "one length"),
        (lambda: selective.selective_rule([np.nan] * 9, [True] * 9, 0.5), "of 9 images is NaN"),
        (lambda: selective.selective_rule([np.inf] * 9, [True] * 9, 0.5), "9 images is infinite"),
        (lambda: selective.selective_rule([0.5], [True], 1.5), "risk between 0 and 1, got 1.5"),
        (lambda: selective.selective_rule([0.5], [True], 0.5, 0.0), "delta between 0 and 1"),
        (lambda: selective.risk_upper_bound(3, 2), "errors <= accepted"),
        (lambda: selective.select([0.5], [True], math.nan), "threshold is NaN"),
        (lambda: selective.select([], [], 0.5), "confidence is empty"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
