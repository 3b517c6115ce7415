"""trust/conformal.py and scores.py by hand, against MAPIE, and over simulated calibrations."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import StratifiedShuffleSplit

from cdc_jax.trust import conformal
from cdc_jax.trust.scores import aps_scores, lac_scores, raps_scores

FEW = settings(deadline=None, max_examples=100, derandomize=True)
# Few distinct weights, so that ties are common.
weights = st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=6)


def probabilities(rows):
    rows = np.array(rows, float) + [0, 0, 0, 1]
    return rows / rows.sum(axis=1, keepdims=True)


def world(rng, images, classes=4):
    """Probabilities of a model that is too sure of itself, and the true classes."""
    p = rng.dirichlet(np.full(classes, 0.5), images)
    labels = (rng.random((images, 1)) > np.cumsum(p, axis=1)).sum(axis=1).clip(max=classes - 1)
    return p**2 / (p**2).sum(axis=1, keepdims=True), labels


def drawn(score):
    """A randomised score with uniforms of its own."""
    return lambda p: score(p, np.random.default_rng(len(p)).random(len(p)))


SCORES = {
    "LAC": lac_scores,
    "APS": aps_scores,
    "APS, randomised": drawn(aps_scores),
    "RAPS": lambda p: raps_scores(p, penalty=0.05, free=2),
    "RAPS, randomised": drawn(lambda p, u: raps_scores(p, u, penalty=0.05, free=2)),
}


# ---- the guarantee


def covered(scores, labels, n, level):
    """How many test images each calibration covers, (calibrations,)."""
    counts = []
    for s, y in zip(scores, labels, strict=True):
        sets = conformal.prediction_sets(s[n:], conformal.threshold(s[:n], y[:n], level))
        counts.append(sets[np.arange(len(sets)), y[n:]].sum())
    return np.array(counts)


def deviations(counts, images, n, rank):
    """z of the mean coverage, and p that this many counts are in the 95 % interval."""
    law = scipy.stats.betabinom(images, rank, n + 1 - rank)
    z = (counts.mean() - law.mean()) / (law.std() / len(counts) ** 0.5)
    low, high = law.interval(0.95)
    inside = int(((counts >= low) & (counts <= high)).sum())
    mass = law.cdf(high) - law.cdf(low - 1)
    return z, scipy.stats.binomtest(inside, len(counts), mass).pvalue


@pytest.mark.slow  # a thousand calibrations
@pytest.mark.parametrize("n", [20, 40, 100, 1000])
def test_coverage_of_1000_calibrations_is_beta_binomial(n):
    calibrations, images, level = 1000, 100, 0.9
    rank = int(np.ceil((n + 1) * 0.9))
    p, y = world(np.random.default_rng(n), calibrations * (n + images))
    labels = y.reshape(calibrations, -1)
    for name, score in SCORES.items():
        counts = covered(score(p).reshape(*labels.shape, -1), labels, n, level)
        z, inside = deviations(counts, images, n, rank)
        # Both hold in all but 1 of 10,000 draws.
        assert abs(z) < 4 and inside > 1e-4, (name, z, inside)
    if n < 1000:  # the check sees a quantile without the finite-sample correction
        assert abs(deviations(counts, images, n, int(np.ceil(n * 0.9)))[0]) > 4


def test_class_thresholds_cover_every_class():
    calibrations, n, images = 1000, 200, 200
    p, y = world(np.random.default_rng(0), calibrations * (n + images), classes=3)
    scores = lac_scores(p).reshape(calibrations, n + images, -1)
    labels = y.reshape(calibrations, -1)
    shares = []
    for s, y in zip(scores, labels, strict=True):
        sets = conformal.prediction_sets(s[n:], conformal.class_thresholds(s[:n], y[:n], 0.8))
        by_class = [conformal.coverage(sets[y[n:] == k], y[n:][y[n:] == k]) for k in range(3)]
        shares.append(by_class)
    mean, error = np.mean(shares, axis=0), np.std(shares, axis=0) / calibrations**0.5
    # 0.8 at least, and at most 1 / (images of a class + 1) more.
    assert (mean > 0.8 - 4 * error).all() and (mean < 0.8 + 1 / 40 + 4 * error).all(), mean


# ---- MAPIE


class Fixed(ClassifierMixin, BaseEstimator):
    """A classifier whose inputs are its probabilities."""

    def __init__(self, classes=4):
        self.classes = classes

    def fit(self, X=None, y=None):
        self.classes_ = np.arange(self.classes)
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict_proba(self, X):
        return X

    def predict(self, X):
        return X.argmax(axis=1)


@pytest.mark.parametrize("level", [0.7, 0.9])
@pytest.mark.parametrize("name", ["lac", "aps"])
def test_sets_are_those_of_mapie(name, level):
    p, y = world(np.random.default_rng(5), 500)
    n, seed = 200, 3
    classifier = SplitConformalClassifier(
        Fixed().fit(), confidence_level=level, conformity_score=name, random_state=seed
    ).conformalize(p[:n], y[:n])
    options = {"include_last_label": "randomized"} if name == "aps" else {}
    expected = classifier.predict_set(p[n:], conformity_score_params=options)[1][..., 0]
    # MAPIE draws from the same seed for calibration and test, and subtracts u p_y.
    uniforms = [1 - np.random.RandomState(seed).uniform(size=size) for size in (n, len(p) - n)]
    if name == "lac":
        scores = lac_scores(p)
    else:
        scores = aps_scores(p, np.concatenate(uniforms))
    sets = conformal.prediction_sets(scores[n:], conformal.threshold(scores[:n], y[:n], level))
    np.testing.assert_array_equal(sets, expected)
    assert 0.5 * level < conformal.coverage(sets, y[n:]) < 1 and sets.any(axis=1).mean() > 0.7


def test_raps_quantile_is_that_of_mapie():
    p, y = world(np.random.default_rng(6), 400, classes=8)
    seed, level = 4, 0.9
    classifier = SplitConformalClassifier(
        Fixed(8).fit(), confidence_level=level, conformity_score="raps", random_state=seed
    ).conformalize(p, y)
    classifier.predict_set(p, conformity_score_params={"include_last_label": "randomized"})
    mapie = classifier._mapie_classifier.conformity_score_function_
    # MAPIE chooses penalty and free classes on a part of the images, and shuffles the others.
    split = StratifiedShuffleSplit(n_splits=1, test_size=mapie.size_raps, random_state=seed)
    kept, _ = next(split.split(p, y))
    uniforms = 1 - np.random.RandomState(seed).uniform(size=len(kept))
    scores = raps_scores(
        p[kept], uniforms, float(mapie.lambda_star), int(np.ravel(mapie.k_star)[0])
    )
    np.testing.assert_allclose(
        conformal.threshold(scores, y[kept], level), np.ravel(mapie.quantiles_)[0]
    )


# ---- scores


def test_scores_by_hand():
    p = [[0.5, 0.3, 0.2]]
    np.testing.assert_allclose(lac_scores(p), [[0.5, 0.7, 0.8]])
    np.testing.assert_allclose(aps_scores(p), [[0.5, 0.8, 1.0]])
    np.testing.assert_allclose(aps_scores(p, [0.5]), [[0.25, 0.65, 0.9]])
    np.testing.assert_allclose(raps_scores(p, [0.5], penalty=0.1, free=1), [[0.25, 0.75, 1.1]])


@FEW
@given(weights, st.floats(0, 1), st.integers(0, 4), st.floats(0, 1))
def test_raps_is_its_definition(rows, u, free, penalty):
    p = probabilities(rows)
    expected = [
        [
            sum(q for q in row if q > own)
            + u * own
            + penalty * max(0, sum(q >= own for q in row) - free)
            for own in row
        ]
        for row in p
    ]
    got = raps_scores(p, np.full(len(p), u), penalty, free)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    np.testing.assert_array_equal(raps_scores(p, penalty=0.0, free=free), aps_scores(p))


@FEW
@given(weights, st.permutations(range(4)))
def test_scores_of_an_image_depend_on_nothing_else(rows, order):
    p = probabilities(rows)
    for name in ("LAC", "APS", "RAPS"):
        scores = SCORES[name](p)
        np.testing.assert_array_equal(SCORES[name](p[:, order]), scores[:, order])
        alone = [SCORES[name](row[None])[0] for row in p]
        np.testing.assert_array_equal(scores, alone)
        # float32 probabilities have the scores of the numbers that they are.
        half = np.array(rows, np.float32)[:, :2] / 4 + np.float32(0.1)
        pair = np.concatenate([half, 1 - half], axis=1) / 2
        np.testing.assert_array_equal(SCORES[name](pair), SCORES[name](pair.astype(np.float64)))


# ---- thresholds and sets


@pytest.mark.parametrize("level", [0.6, 0.7, 0.9, 0.93, 0.95, 0.99])
def test_quantile_is_numpys_and_the_number_of_images_is_exact(level):
    exact = Fraction(str(level))
    needed = conformal.images_needed(level)
    assert needed >= exact / (1 - exact) > needed - 1
    with pytest.raises(ValueError, match=f"needs {needed} validation images, got {needed - 1}"):
        conformal.quantile(np.zeros(needed - 1), level)
    for n in (needed, needed + 1, 199, 1000):
        scores = np.random.default_rng(n).permutation(n)
        rank = -(-(n + 1) * exact // 1)
        assert conformal.quantile(scores, level) == rank - 1
        share = float(rank / n)
        assert np.quantile(scores, share, method="inverted_cdf") == rank - 1


@FEW
@given(st.lists(st.integers(0, 5), min_size=20, max_size=40), st.integers(0, 2**32 - 1))
def test_sets_grow_with_the_level(values, seed):
    rng = np.random.default_rng(seed)
    scores = np.array(values)[:, None] + rng.integers(0, 2, (len(values), 3))
    labels = rng.integers(0, 3, len(values))
    levels = (0.1, 0.5, 0.8, 0.9, 0.95)
    thresholds = [conformal.threshold(scores, labels, level) for level in levels]
    sets = [conformal.prediction_sets(scores, t) for t in thresholds]
    for smaller, larger in zip(sets, sets[1:], strict=False):
        assert (smaller <= larger).all()
    for level, own in zip(levels, sets, strict=True):
        assert conformal.coverage(own, labels) >= level  # on the calibration images themselves


def test_empty_sets_get_the_predicted_class_and_no_other_set_changes():
    scores = np.array([[0.6, 0.7], [0.2, 0.9], [0.1, 0.3]])
    empty = conformal.prediction_sets(scores, 0.5)
    filled = conformal.prediction_sets(scores, 0.5, predicted=[1, 1, 1])
    np.testing.assert_array_equal(empty, [[False, False], [True, False], [True, True]])
    np.testing.assert_array_equal(filled, [[False, True], [True, False], [True, True]])
    assert conformal.mean_set_size(empty) == 1 and conformal.mean_set_size(filled) == 4 / 3
    assert conformal.coverage(filled, [1, 1, 1]) == 2 / 3


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: lac_scores([[0.5, 0.4]]), "summing to 1"),
        (lambda: lac_scores([[1.5, -0.5]]), "not negative"),
        (lambda: lac_scores([0.5, 0.5]), r"\(images, classes\).*got \(2,\)"),
        (lambda: lac_scores([[np.nan, 1.0]]), "of 1 images are NaN"),
        (lambda: aps_scores([[0.5, 0.5]], [1.5]), r"uniforms in \[0, 1\].*1.5..1.5"),
        (lambda: aps_scores([[0.5, 0.5]], [0.5, 0.5]), r"shape \(1,\).*got shape \(2,\)"),
        (lambda: raps_scores([[0.5, 0.5]], penalty=-0.5), "penalty >= 0.*got -0.5"),
        (lambda: conformal.quantile([0.5] * 40, 0.99), "needs 99 .* got 40: .* at most 0.975"),
        (lambda: conformal.quantile([0.5] * 40, 1.0), "level between 0 and 1, got 1.0"),
        (lambda: conformal.quantile([], 0.5), "scores is empty"),
        (lambda: conformal.threshold([[0.5, 0.5]], [2], 0.5), r"labels in 0..1, got 2..2"),
        (lambda: conformal.threshold([[0.5, 0.5]], [0.0], 0.5), "integer labels"),
        (
            lambda: conformal.class_thresholds([[0.5, 0.5]] * 9, [0] * 9, 0.9),
            "needs 9 validation images of class 1, got 0",
        ),
        (lambda: conformal.prediction_sets([[0.5, 0.5]], [0.1] * 3), "each of 2 classes"),
        (lambda: conformal.prediction_sets([[0.5, 0.5]], np.nan), "none NaN"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
