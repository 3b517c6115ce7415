"""trust/novelty.py against SciPy, scikit-learn, and over simulated validation sets."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_jax.trust import novelty

FEW = settings(deadline=None, max_examples=100, derandomize=True)
scores = st.lists(st.integers(0, 8), min_size=1, max_size=40)  # ties are common


def test_mcm_is_one_minus_the_largest_softmax_and_keeps_its_order_near_0():
    c = np.random.default_rng(0).uniform(-1, 1, (50, 6))
    for temperature in (1.0, 0.1):
        expected = 1 - scipy.special.softmax(c / temperature, axis=1).max(axis=1)
        got = novelty.maximum_concept_matching(c, temperature)
        np.testing.assert_allclose(got, expected, atol=1e-15)
    sure = novelty.maximum_concept_matching([[1.0, 0.0], [1.0, 0.1]], 0.01)
    np.testing.assert_allclose(sure, np.exp([-100.0, -90.0]), rtol=1e-12)


def test_energy_by_its_formula():
    z = np.random.default_rng(1).normal(20, 5, (50, 6))
    np.testing.assert_allclose(novelty.energy(z, 2.0), -2 * np.log(np.exp(z / 2).sum(axis=1)))
    np.testing.assert_allclose(novelty.energy([[1000.0, 1000.0]]), [-1000 - np.log(2)])


def test_false_alarms_of_1000_thresholds_are_beta_binomial():
    rng, n, images, thresholds = np.random.default_rng(2), 99, 100, 1000
    draws = rng.exponential(size=(thresholds, n + images))
    alarms = [(d[n:] > novelty.novelty_threshold(d[:n], 0.05)).sum() for d in draws]
    law = scipy.stats.betabinom(images, 5, 95)  # the 95th of 99 is the threshold
    z = (np.mean(alarms) - law.mean()) / (law.std() / thresholds**0.5)
    assert abs(z) < 4 and law.mean() == 5
    low, high = law.interval(0.95)
    inside = int(((alarms >= low) & (alarms <= high)).sum())
    mass = law.cdf(high) - law.cdf(low - 1)
    assert scipy.stats.binomtest(inside, thresholds, mass).pvalue > 1e-4


def test_ties_can_only_lower_the_false_alarms():
    constant = np.full(100, 0.5)
    assert not (constant > novelty.novelty_threshold(constant, 0.05)).any()


@FEW
@given(scores, scores, st.sampled_from([0.5, 0.8, 0.95]))
def test_false_alarms_at_recall_are_scikit_learns(base, new, recall):
    positive = np.repeat([0, 1], [len(base), len(new)])
    false, true, _ = sklearn.metrics.roc_curve(positive, base + new, drop_intermediate=False)
    expected = false[true >= recall - 1e-12].min()
    assert novelty.false_alarms_at_recall(base, new, recall) == pytest.approx(expected)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: novelty.novelty_threshold([0.1] * 18),
            "needs 19 .* got 18: .* at least 0.053",
        ),
        (lambda: novelty.novelty_threshold([0.1] * 18, 0.0), "false_alarms between 0 and 1"),
        (lambda: novelty.novelty_threshold([np.nan] * 20), "novelty of 20 images is NaN"),
        (lambda: novelty.energy([[1.0, 2.0]], 0.0), "temperature > 0, got 0.0"),
        (lambda: novelty.maximum_concept_matching([1.0, 2.0]), r"similarities of shape"),
        (lambda: novelty.false_alarms_at_recall([], [1.0]), "base is empty"),
        (lambda: novelty.false_alarms_at_recall([1.0], [1.0], 1.0), "recall between 0 and 1"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
