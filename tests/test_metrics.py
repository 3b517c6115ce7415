"""metrics.py by hand, against scikit-learn and SciPy, and by the definitions written out."""

import itertools

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_jax import metrics

FEW = settings(deadline=None, max_examples=100, derandomize=True)
# Few distinct values, so that ties are common.
scored = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30)


def test_the_predicted_class_is_first_though_rounding_makes_another_as_probable():
    assert metrics.ranked([0.2, np.float32(0.4) + 1e-7, 0.4], 2).tolist() == [2, 1, 0]
    assert metrics.ranked([0.2, 0.4, 0.4], 1).tolist() == [1, 2, 0]


def random_probabilities(seed, examples=200, classes=7):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(classes, 0.5), examples), rng.integers(classes, size=examples)


def test_accuracies_by_hand_and_against_scikit_learn():
    predictions, labels = [0, 1, 1, 2, 2, 2], [0, 1, 2, 2, 0, 2]
    assert metrics.accuracy(predictions, labels) == 4 / 6
    per_class = metrics.per_class_accuracy(predictions, labels, 4)
    np.testing.assert_array_equal(per_class, [1 / 2, 1, 2 / 3, np.nan])
    balanced = sklearn.metrics.balanced_accuracy_score(labels, predictions)
    np.testing.assert_allclose(np.nanmean(per_class), balanced)


def test_harmonic_mean_of_the_published_tables():
    rows = {"CLIP": (69.34, 74.22, 71.70), "CoOp": (82.69, 63.22, 71.66)}
    rows |= {"CoCoOp": (80.47, 71.69, 75.83), "MaPLe": (82.28, 75.14, 78.55)}
    base, new, published = np.array(list(rows.values())).T
    np.testing.assert_allclose(metrics.harmonic_mean(base, new), published, atol=0.006)
    np.testing.assert_allclose(metrics.harmonic_mean(base, new), scipy.stats.hmean([base, new]))
    assert metrics.harmonic_mean(0.0, 0.0) == metrics.harmonic_mean(0.0, 70.0) == 0


@FEW
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 12)
)
def test_ece_is_the_sum_over_bins(pairs, bins):
    confidence, correct = np.array([p for p, _ in pairs]), np.array([c for _, c in pairs])
    width = 0.0
    for i in range(bins):
        inside = (np.ceil(confidence * bins) == i + 1) | ((i == 0) & (confidence == 0))
        if inside.any():
            width += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    got = metrics.expected_calibration_error(confidence, correct, bins)
    np.testing.assert_allclose(got, width, atol=1e-12)
    if len(pairs) % bins == 0:
        parts = np.split(np.argsort(confidence, kind="stable"), bins)
        mass = np.mean([abs(correct[i].mean() - confidence[i].mean()) for i in parts])
        got = metrics.expected_calibration_error(confidence, correct, bins, equal="mass")
        np.testing.assert_allclose(got, mass, atol=1e-12)


def test_ece_by_hand_at_the_edges():
    ece = metrics.expected_calibration_error
    assert ece([0.0, 1.0], [False, True]) == 0
    assert ece([1.0, 1.0], [False, True]) == 0.5
    np.testing.assert_allclose(ece([0.5, 0.51], [True, False], bins=2), (0.5 + 0.51) / 2)
    np.testing.assert_allclose(ece([0.2, 0.9, 0.4], [0, 1, 1], 2, "mass"), (abs(1 - 0.6) + 0.1) / 3)
    np.testing.assert_allclose(ece([0.2, 0.9], [0, 1], 10, "mass"), 0.15)


def test_nll_and_brier_against_scikit_learn():
    probabilities, labels = random_probabilities(0)
    picked = probabilities[np.arange(200), labels]
    nll = metrics.negative_log_likelihood(probabilities, labels)
    np.testing.assert_allclose(nll, -np.log(picked).mean())
    per_class = [
        sklearn.metrics.brier_score_loss(labels == k, probabilities[:, k]) for k in range(7)
    ]
    np.testing.assert_allclose(metrics.brier_score(probabilities, labels), sum(per_class))
    single = probabilities.astype(np.float32)
    np.testing.assert_allclose(metrics.negative_log_likelihood(single, labels), nll, rtol=1e-5)
    assert 36 < metrics.negative_log_likelihood([[1.0, 0.0]], [1]) < 37
    assert metrics.brier_score([[1.0, 0.0]], [1]) == 2


@FEW
@given(scored)
def test_auroc_counts_pairs(pairs):
    scores, positive = zip(*pairs, strict=True)
    new = [s for s, p in pairs if p]
    base = [s for s, p in pairs if not p]
    wins = [(a > b) + (a == b) / 2 for a, b in itertools.product(new, base)]
    expected = np.mean(wins) if wins else np.nan
    np.testing.assert_allclose(metrics.auroc(scores, positive), expected)
    np.testing.assert_allclose(metrics.error_auroc(scores, np.logical_not(positive)), expected)
    np.testing.assert_allclose(metrics.novelty_auroc(base, new), expected)


@FEW
@given(scored, st.randoms(use_true_random=False))
def test_aurc_is_the_mean_over_orders_of_ties(pairs, random):
    scores, correct = (np.array(x) for x in zip(*pairs, strict=True))
    coverage, risk = metrics.risk_coverage(scores, correct)
    for n, value in enumerate(risk, 1):  # of n kept: all below the tied score, a share of the tied
        edge = np.sort(scores)[n - 1]
        below, tied = scores < edge, scores == edge
        errors = (~correct[below]).sum() + (n - below.sum()) * (~correct[tied]).mean()
        np.testing.assert_allclose(value, errors / n, atol=1e-12)
    np.testing.assert_allclose(coverage, np.arange(1, len(scores) + 1) / len(scores))
    order = random.sample(range(len(scores)), len(scores))
    area = metrics.area_under_risk_coverage(scores, correct)
    np.testing.assert_allclose(area, risk.mean())
    np.testing.assert_allclose(
        metrics.area_under_risk_coverage(scores[order], correct[order]), area
    )


def test_aurc_by_hand():
    correct = [True, False, True, True]
    best = metrics.area_under_risk_coverage([1, 9, 2, 3], correct)
    worst = metrics.area_under_risk_coverage([3, 1, 2, 9], correct)
    np.testing.assert_allclose(best, (0 + 0 + 0 + 1 / 4) / 4)
    np.testing.assert_allclose(worst, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    np.testing.assert_allclose(metrics.area_under_risk_coverage([5, 5, 5, 5], correct), 1 / 4)


def test_intervals_against_scipy():
    a = np.array([70.1, 72.5, 74.0, 69.9, 71.3])
    b = np.array([68.0, 71.9, 74.5, 66.2, 70.0])
    for confidence in (0.5, 0.95, 0.99):
        expected = scipy.stats.ttest_1samp(a, 0).confidence_interval(confidence)
        got = metrics.mean_interval(a, confidence)
        np.testing.assert_allclose(got, [a.mean(), expected.low, expected.high, 5])
        expected = scipy.stats.ttest_rel(a, b).confidence_interval(confidence)
        got = metrics.paired_difference(a, b, confidence)
        np.testing.assert_allclose(got, [(a - b).mean(), expected.low, expected.high, 5])


def test_interval_of_one_value_is_unknown_and_of_equal_values_a_point():
    one = metrics.mean_interval([71.0])
    assert one.mean == 71 and one.n == 1 and np.isnan([one.low, one.high]).all()
    assert metrics.mean_interval([71.0, 71.0]) == (71, 71, 71, 2)


def test_an_interval_ends_at_the_bounds():
    values = [96.0, 99.0, 98.5]
    whole = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert whole.high > 100
    expected = (np.mean(values), whole.low, 100, 3)
    np.testing.assert_allclose(metrics.mean_interval(values, bounds=(0, 100)), expected)
    flipped = metrics.mean_interval(-np.array(values), bounds=(-100, 100))
    np.testing.assert_allclose(flipped, (-expected[0], -100, -whole.low, 3))


def test_entries_of_the_confusion_matrix_against_scikit_learn():
    labels, predicted = np.random.default_rng(0).integers(0, 7, (2, 40))
    found = scipy.sparse.coo_array(sklearn.metrics.confusion_matrix(labels, predicted))
    expected = np.column_stack([found.row, found.col, found.data])
    assert np.array_equal(metrics.confusion_counts(predicted, labels), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.accuracy([0, 1], [0]), r"'predictions': \(2,\), 'labels': \(1,\)"),
        (lambda: metrics.accuracy([], []), "no example"),
        (lambda: metrics.accuracy([[0]], [[0]]), "vectors of one length"),
        (lambda: metrics.per_class_accuracy([0], [3], 3), r"0..2, got 3..3"),
        (lambda: metrics.harmonic_mean(-1.0, 50.0), "accuracies >= 0"),
        (lambda: metrics.expected_calibration_error([1.2], [1]), r"\[0, 1\], got 1.2..1.2"),
        (lambda: metrics.expected_calibration_error([0.2], [1], bins=0), "bins=0"),
        (lambda: metrics.expected_calibration_error([0.2], [1], equal="size"), "'width' or 'mass'"),
        (lambda: metrics.negative_log_likelihood([[0.5, 0.2]], [0]), "summing to 1"),
        (lambda: metrics.brier_score([[0.5, 0.5]], [2]), r"0..1, got 2..2"),
        (lambda: metrics.brier_score([0.5, 0.5], [1]), r"\(2,\) and \(1,\)"),
        (lambda: metrics.auroc([0.1, np.inf], [0, 1]), "infinite.*logarithm"),
        (lambda: metrics.risk_coverage([np.nan, 0.1], [0, 1]), "1 examples is NaN"),
        (lambda: metrics.mean_interval([]), "no example: values"),
        (lambda: metrics.mean_interval([1.0], 95.0), "between 0 and 1, got 95"),
        (lambda: metrics.paired_difference([1.0, 2.0], [1.0]), r"\(2,\), 'b': \(1,\)"),
    ],
)
def test_errors_name_the_value_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()
