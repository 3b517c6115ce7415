"""Split conformal prediction: sets of classes that hold the true class as often as asked.

A score s(x, k) is large where class k suits image x badly: see `scores`. n calibration images with
their true classes give a threshold, and the threshold gives the set of each other image:

    t = the ceil((n + 1) level)-th smallest of s(x_i, y_i),    set(x) = {k : s(x, k) <= t}.

If calibration and test images are exchangeable, the set of a test image holds its true class with
probability >= level, for any model and any score. Nothing is guaranteed where the test images come
from another distribution. With r = ceil((n + 1) level) and scores without ties, the coverage that
one calibration gives is distributed as Beta(r, n + 1 - r). Ties only raise it.

The calibration scores and the test scores come from the same function in float64. So `<=` compares
equal numbers for equal probabilities. A stored threshold must keep all its digits.

Sources: Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world"; Papadopoulos et
al. 2002, "Inductive confidence machines for regression"; Vovk 2012, "Conditional validity of
inductive conformal predictors".
"""

import math
from fractions import Fraction

import numpy as np

from cdc_jax.trust.checks import ArrayLike, by_class, classes_of, share, vectors

# ---- thresholds


def images_needed(level: float | Fraction) -> int:
    """Least number of calibration images for a level, ceil(level / (1 - level)).

    Args:
      level: asked coverage, in (0, 1).

    Returns:
      n; fewer images give no finite threshold.

    Raises:
      ValueError: level out of range.

    >>> images_needed(0.9), images_needed(0.99)
    (9, 99)
    """
    exact = share("level", level)
    return math.ceil(exact / (1 - exact))


def quantile(scores: ArrayLike, level: float | Fraction) -> float:
    """The ceil((n + 1) level)-th smallest of n scores.

    The next exchangeable score is at most this quantile with probability >= level.

    Args:
      scores: of the calibration images, (n,).
      level: in (0, 1), read by its decimals: 0.9 is exactly 9/10.

    Returns:
      One of the scores.

    Raises:
      ValueError: level out of range; too few scores for it.

    >>> quantile([0.4, 0.1, 0.3, 0.2], 0.8)
    0.4

    Vovk, Gammerman and Shafer 2005; Papadopoulos et al. 2002.
    """
    (values,) = vectors(scores=scores)
    return _ranked(values, level, "")


def _ranked(values: np.ndarray, level: float | Fraction, where: str) -> float:
    needed, n = images_needed(level), len(values)
    if n < needed:
        raise ValueError(
            f"a guarantee at level {float(level):g} needs {needed} validation images{where}, got "
            f"{n}: add images or lower the level to at most {1000 * n // (n + 1) / 1000:g}"
        )
    rank = math.ceil((n + 1) * share("level", level))
    return float(np.partition(values, rank - 1)[rank - 1])


def threshold(scores: ArrayLike, labels: ArrayLike, level: float) -> float:
    """The threshold whose sets hold the true class of a share `level` of all images.

    Args:
      scores: of the calibration images, (n, classes).
      labels: true classes, (n,).
      level: asked coverage, in (0, 1).

    Returns:
      t for `prediction_sets`.

    Raises:
      ValueError: level out of range; too few images for it; labels that do not fit.

    >>> threshold([[0.25, 0.75], [0.5, 0.5], [0.75, 0.25]], [0, 1, 1], 0.75)
    0.5
    """
    s = by_class("scores", scores)
    return quantile(s[np.arange(len(s)), classes_of("labels", labels, s.shape)], level)


def class_thresholds(scores: ArrayLike, labels: ArrayLike, level: float) -> np.ndarray:
    """A threshold a class: the sets hold a share `level` of the images of each true class.

    The marginal threshold may cover easy classes too often and hard classes too rarely. This
    guarantee is stronger and needs `images_needed(level)` calibration images of every class.

    Args:
      scores: of the calibration images, (n, classes).
      labels: true classes, (n,).
      level: asked coverage, in (0, 1).

    Returns:
      t for `prediction_sets`, (classes,).

    Raises:
      ValueError: level out of range; too few images of a class; labels that do not fit.

    >>> class_thresholds([[0.25, 0.5], [0.5, 0.125]], [0, 1], 0.5).tolist()
    [0.25, 0.125]

    Vovk 2012.
    """
    s = by_class("scores", scores)
    y = classes_of("labels", labels, s.shape)
    own = s[np.arange(len(s)), y]
    classes = range(s.shape[1])
    return np.array([_ranked(own[y == k], level, f" of class {k}") for k in classes])


# ---- sets and their figures


def prediction_sets(
    scores: ArrayLike, threshold: ArrayLike, predicted: ArrayLike | None = None
) -> np.ndarray:
    """set(x) = {k : s(x, k) <= t}.

    Without `predicted` a set may be empty: no class suits the image as well as the calibration
    images suit theirs. Then coverage is as near the level as it can be. With `predicted` each empty
    set gets that class. This can only raise coverage.

    Args:
      scores: by the function that scored the calibration images, (images, classes).
      threshold: t, a scalar or (classes,).
      predicted: class for an image whose set would be empty, (images,).

    Returns:
      Whether each class is in the set, (images, classes).

    Raises:
      ValueError: a threshold of a wrong shape or NaN; predicted classes that do not fit.

    >>> scores = [[0.25, 0.75], [0.5, 0.5], [0.375, 0.625]]
    >>> prediction_sets(scores, 0.375).tolist()
    [[True, False], [False, False], [True, False]]
    >>> prediction_sets(scores, 0.375, predicted=[0, 1, 0]).tolist()
    [[True, False], [False, True], [True, False]]
    """
    s, t = by_class("scores", scores), np.asarray(threshold, np.float64)
    if t.shape not in ((), s.shape[1:]) or np.isnan(t).any():
        raise ValueError(
            f"expected one threshold or one for each of {s.shape[1]} classes, none NaN, got {t}"
        )
    sets = s <= t
    if predicted is not None:
        sets[np.arange(len(s)), classes_of("predicted", predicted, s.shape)] |= ~sets.any(axis=1)
    return sets


def coverage(sets: ArrayLike, labels: ArrayLike) -> float:
    """Share of images whose set holds their true class.

    Args:
      sets: of `prediction_sets`, (images, classes).
      labels: true classes, (images,).

    Returns:
      Coverage in 0..1.

    Raises:
      ValueError: labels that do not fit.

    >>> coverage([[True, False], [True, True]], [1, 0])
    0.5
    """
    members = by_class("sets", sets)
    y = classes_of("labels", labels, members.shape)
    return float(members[np.arange(len(y)), y].mean())


def mean_set_size(sets: ArrayLike) -> float:
    """Mean number of classes in a set; empty sets count 0.

    Args:
      sets: of `prediction_sets`, (images, classes).

    Returns:
      In 0..classes.

    >>> mean_set_size([[True, False], [True, True]])
    1.5
    """
    return float(by_class("sets", sets).sum(axis=1).mean())
