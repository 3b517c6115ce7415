"""Figures about predictions: accuracy, calibration, ranking by uncertainty, intervals.

Pure functions on NumPy arrays (any argument of `np.asarray`), computed in float64. Shares are in
0..1, not percent. All functions raise ValueError for arrays of wrong shapes, of unequal lengths or
without an example. A statistic that does not exist is NaN. `uncertainty` is any score, larger =
less certain. `correct` is whether the prediction was right.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
else:  # checked at run time, as in the tests, NumPy's own refuses a list of floats
    ArrayLike = Any


class Interval(NamedTuple):
    """A mean with the ends of its confidence interval and the number of values behind it."""

    mean: float
    low: float
    high: float
    n: int


def _same_length(**arrays: ArrayLike) -> list[np.ndarray]:
    vectors = {name: np.asarray(array) for name, array in arrays.items()}
    shapes = {name: array.shape for name, array in vectors.items()}
    if any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) != 1:
        raise ValueError(f"expected vectors of one length, got shapes {shapes}")
    if not next(iter(shapes.values()))[0]:
        raise ValueError(f"no example: {', '.join(shapes)} are empty")
    return list(vectors.values())


def _probabilities_and_labels(
    probabilities: ArrayLike, labels: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape[:1] or not len(y):
        raise ValueError(
            f"expected probabilities (examples, classes) and labels (examples,), at least one, got "
            f"{p.shape} and {y.shape}"
        )
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"expected labels in 0..{p.shape[1] - 1}, got {y.min()}..{y.max()}")
    if p.min() < 0 or not np.allclose(p.sum(axis=1), 1, atol=1e-3):
        raise ValueError("expected rows of probabilities: not negative, summing to 1 within 1e-3")
    return p, y


# ---- accuracy


def accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Share of predictions that equal their label.

    Args:
      predictions: class indices, (examples,).
      labels: class indices, (examples,).

    Returns:
      Top-1 accuracy over all examples (micro average).

    >>> accuracy([0, 1, 1, 2], [0, 1, 2, 2])
    0.75
    """
    predicted, true = _same_length(predictions=predictions, labels=labels)
    return float((predicted == true).mean())


def per_class_accuracy(predictions: ArrayLike, labels: ArrayLike, num_classes: int) -> np.ndarray:
    """Accuracy over the examples of each class (recall).

    Args:
      predictions: class indices, (examples,).
      labels: class indices in 0..num_classes - 1, (examples,).
      num_classes: K.

    Returns:
      (num_classes,), NaN for a class without examples.

    Raises:
      ValueError: a label out of range.

    >>> per_class_accuracy([0, 1, 1, 2], [0, 1, 2, 2], 4).tolist()
    [1.0, 1.0, 0.5, nan]
    """
    predicted, true = _same_length(predictions=predictions, labels=labels)
    if true.min() < 0 or true.max() >= num_classes:
        raise ValueError(f"expected labels in 0..{num_classes - 1}, got {true.min()}..{true.max()}")
    count = np.bincount(true, minlength=num_classes)
    right = np.bincount(true[predicted == true], minlength=num_classes)
    return np.divide(right, count, out=np.full(num_classes, np.nan), where=count > 0)


def confusion_counts(predictions: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """The entries of the confusion matrix that are not zero.

    Args:
      predictions: class indices, (examples,).
      labels: class indices, (examples,).

    Returns:
      Rows of true class, predicted class and number of examples, in the order of the matrix,
      (entries, 3).

    >>> confusion_counts([0, 1, 1, 0], [0, 1, 0, 0]).tolist()
    [[0, 0, 2], [0, 1, 1], [1, 1, 1]]
    """
    predicted, true = _same_length(predictions=predictions, labels=labels)
    pairs, counts = np.unique(np.stack([true, predicted], 1), axis=0, return_counts=True)
    return np.column_stack([pairs, counts])


def harmonic_mean(base: ArrayLike, new: ArrayLike) -> np.float64 | np.ndarray:
    """H = 2 base new / (base + new), 0 where both are 0.

    Args:
      base: accuracies of the base classes, not negative, any shape.
      new: accuracies of the new classes, a shape that broadcasts against it.

    Returns:
      H of each pair. For an average row of several datasets, average base and new first.

    Raises:
      ValueError: a negative accuracy.

    >>> round(float(harmonic_mean(82.28, 75.14)), 2)
    78.55

    Xian et al. 2017, "Zero-shot learning: the good, the bad and the ugly".
    """
    base, new = np.asarray(base, np.float64), np.asarray(new, np.float64)
    if (base < 0).any() or (new < 0).any():
        raise ValueError(f"expected accuracies >= 0, got base {base} and new {new}")
    total = base + new
    return 2 * base * new / np.where(total == 0, 1, total)


# ---- calibration


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, bins: int = 15, equal: str = "width"
) -> float:
    """ECE = sum over bins of (share of examples) * |accuracy - mean confidence|.

    Args:
      confidence: probability of the predicted class, in [0, 1], (examples,).
      correct: (examples,).
      bins: number of bins; of equal mass, at most one an example.
      equal: "width", bins (i / bins, (i + 1) / bins], or "mass", equally many examples a bin.

    Returns:
      ECE in 0..1.

    Raises:
      ValueError: confidence outside [0, 1], no bin, unknown binning.

    >>> round(expected_calibration_error([0.9, 0.9, 0.6, 0.6], [1, 1, 1, 0], bins=10), 3)
    0.1

    Guo et al. 2017, eq. 3 (width); Nixon et al. 2019 (mass).
    """
    p, right = _same_length(confidence=confidence, correct=correct)
    p, right = p.astype(np.float64), right.astype(np.float64)
    # Sums of float32 probabilities exceed 1 by a rounding.
    if not (p.min() >= 0 and p.max() <= 1 + 1e-5):
        raise ValueError(f"expected confidence in [0, 1], got {p.min()}..{p.max()}")
    if bins < 1:
        raise ValueError(f"expected at least one bin, got bins={bins}")
    if equal == "width":
        index = np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)
    elif equal == "mass":
        index = np.empty(len(p), int)
        index[np.argsort(p, kind="stable")] = np.arange(len(p)) * bins // len(p)
    else:
        raise ValueError(f"unknown binning equal={equal!r}: choose 'width' or 'mass'")
    gap = np.bincount(index, right - p, minlength=bins)
    return float(np.abs(gap).sum() / len(p))


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean of -log p_y, in nats.

    Args:
      probabilities: rows that sum to 1, (examples, classes).
      labels: class indices, (examples,).

    Returns:
      NLL; a p_y of 0 counts as 2e-16 (scikit-learn's clipping), so it stays finite.

    Raises:
      ValueError: a label out of range, or rows that aren't probabilities.

    >>> round(negative_log_likelihood([[0.5, 0.5], [0.25, 0.75]], [0, 1]), 3)
    0.49
    """
    p, y = _probabilities_and_labels(probabilities, labels)
    p = p / p.sum(axis=1, keepdims=True)
    import sklearn.metrics  # takes seconds: where it is used only

    return float(sklearn.metrics.log_loss(y, p, labels=np.arange(p.shape[1])))


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean of sum_k (p_k - y_k)², in 0..2.

    Args:
      probabilities: rows that sum to 1, (examples, classes).
      labels: class indices, (examples,).

    Returns:
      Brier score.

    Raises:
      ValueError: a label out of range, or rows that aren't probabilities.

    >>> brier_score([[0.5, 0.5], [0.0, 1.0]], [0, 1])
    0.25

    Brier 1950, the multi-class form.
    """
    p, y = _probabilities_and_labels(probabilities, labels)
    return float(((p**2).sum(axis=1) - 2 * p[np.arange(len(y)), y] + 1).mean())


def ranked(probability: ArrayLike, predicted: int) -> np.ndarray:
    """The predicted class, then the others by falling probability.

    The predicted class has the largest evidence. Where rounding leaves probabilities equal, or in
    the wrong order in the last digit, it still comes first.

    Args:
      probability: of each class, (classes,).
      predicted: the class that was predicted.

    Returns:
      Class indices, (classes,).

    >>> ranked([0.2, 0.4, 0.4], 2).tolist()
    [2, 1, 0]
    """
    p = np.asarray(probability)
    return np.lexsort((-p, np.arange(len(p)) != predicted))


# ---- ranking by uncertainty


def auroc(uncertainty: ArrayLike, positive: ArrayLike) -> float:
    """Chance that a positive example is more uncertain than a negative one; ties count half.

    Args:
      uncertainty: (examples,).
      positive: what uncertainty should point out: errors, or new classes, (examples,).

    Returns:
      AUROC in 0..1, NaN where all or none are positive.

    Raises:
      ValueError: uncertainty is NaN or infinite.

    >>> auroc([0.1, 0.4, 0.3, 0.9], [False, False, True, True])
    0.75

    Hendrycks and Gimpel 2017.
    """
    score, target = _same_length(uncertainty=uncertainty, positive=positive)
    target = target.astype(bool)
    if not np.isfinite(score).all():
        raise ValueError("uncertainty has NaN or infinite values; rank vacuity by its logarithm")
    if target.all() or not target.any():
        return float("nan")
    import sklearn.metrics

    return float(sklearn.metrics.roc_auc_score(target, score))


def error_auroc(uncertainty: ArrayLike, correct: ArrayLike) -> float:
    """How well uncertainty finds errors: `auroc` with the wrong predictions as positives.

    Args:
      uncertainty: (examples,).
      correct: (examples,).

    Returns:
      As `auroc`.

    >>> error_auroc([0.1, 0.4, 0.3, 0.9], [True, True, False, False])
    0.75
    """
    return auroc(uncertainty, ~np.asarray(correct, bool))


def novelty_auroc(base_uncertainty: ArrayLike, new_uncertainty: ArrayLike) -> float:
    """How well uncertainty tells new classes from base classes: `auroc`, the new ones positive.

    Args:
      base_uncertainty: of the base classes' images, (base examples,).
      new_uncertainty: of the new classes' images, by the same read-out, (new examples,).

    Returns:
      As `auroc`.

    >>> novelty_auroc([0.1, 0.4], [0.3, 0.9])
    0.75
    """
    base, new = np.asarray(base_uncertainty), np.asarray(new_uncertainty)
    is_new = np.repeat([False, True], [base.size, new.size])
    return auroc(np.concatenate([base, new]), is_new)


def risk_coverage(uncertainty: ArrayLike, correct: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Error rate among the most certain examples, for each number of examples kept.

    Examples of equal uncertainty count as in random order (their mean error), so that the result
    doesn't depend on the order of the data.

    Args:
      uncertainty: (examples,).
      correct: (examples,).

    Returns:
      coverage 1/n, 2/n, ..., 1 and the risk (1 - accuracy) at each, both (examples,).

    Raises:
      ValueError: uncertainty is NaN.

    >>> coverage, risk = risk_coverage([0.1, 0.4, 0.3, 0.9], [True, False, True, True])
    >>> coverage.tolist(), risk.round(2).tolist()
    ([0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.33, 0.25])

    El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017.
    """
    score, right = _same_length(uncertainty=uncertainty, correct=correct)
    if np.isnan(score).any():
        raise ValueError(f"uncertainty of {np.isnan(score).sum()} examples is NaN")
    _, group = np.unique(score, return_inverse=True)
    errors = np.bincount(group, ~right.astype(bool)) / np.bincount(group)
    counts = np.arange(1, len(score) + 1)
    return counts / len(score), np.cumsum(errors[np.sort(group)]) / counts


def area_under_risk_coverage(uncertainty: ArrayLike, correct: ArrayLike) -> float:
    """AURC, the mean risk over all coverages: small if errors are the most uncertain examples.

    Args:
      uncertainty: (examples,).
      correct: (examples,).

    Returns:
      AURC in 0..1; the error rate itself for a constant uncertainty.

    >>> round(area_under_risk_coverage([0.1, 0.4, 0.3, 0.9], [True, False, True, True]), 4)
    0.1458

    Geifman, Uziel and El-Yaniv 2019.
    """
    return float(risk_coverage(uncertainty, correct)[1].mean())


# ---- intervals


def mean_interval(
    values: ArrayLike,
    confidence: float = 0.95,
    bounds: Sequence[float] = (-math.inf, math.inf),
) -> Interval:
    """Mean with its t-interval, mean ± t(n - 1) s / sqrt(n), cut off at the values' bounds.

    Args:
      values: one an independent run (a seed), (n,).
      confidence: in (0, 1).
      bounds: the least and the greatest possible value, such as (0, 100) for percentages. The part
        of the interval that is cut off holds no possible mean.

    Returns:
      Interval(mean, low, high, n); low and high are NaN for a single value.

    Raises:
      ValueError: confidence out of range.

    >>> [round(x, 2) for x in mean_interval([70.0, 72.0, 74.0])]
    [72.0, 67.03, 76.97, 3]
    >>> [round(x, 2) for x in mean_interval([97.0, 99.0, 98.0], bounds=(0, 100))]
    [98.0, 95.52, 100, 3]

    Student 1908.
    """
    (x,) = _same_length(values=values)
    if not 0 < confidence < 1:
        raise ValueError(f"expected confidence between 0 and 1, got {confidence}")
    x, n = x.astype(np.float64), len(x)
    if n == 1:
        return Interval(float(x[0]), float("nan"), float("nan"), 1)
    # Imported where it is used, as sklearn above.
    import scipy.special

    half = scipy.special.stdtrit(n - 1, (1 + confidence) / 2) * (x.std(ddof=1) / np.sqrt(n))
    mean, (least, most) = float(x.mean()), bounds
    return Interval(mean, max(float(mean - half), least), min(float(mean + half), most), n)


def paired_difference(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of a - b with its t-interval, for runs paired by seed (and task).

    Args:
      a: one value a pair, (n,).
      b: its partner's, in the same order, (n,).
      confidence: in (0, 1).

    Returns:
      As `mean_interval`; an interval that leaves 0 out is a difference at that level.

    Raises:
      ValueError: confidence out of range.

    >>> [round(x, 2) for x in paired_difference([70.0, 72.0, 74.0], [69.0, 70.0, 73.0])]
    [1.33, -0.1, 2.77, 3]

    Student 1908.
    """
    first, second = _same_length(a=a, b=b)
    return mean_interval(first.astype(np.float64) - second.astype(np.float64), confidence)
