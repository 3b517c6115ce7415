"""Novelty: scores that are large for images of no training class, and thresholds for them.

A score is larger the less an image resembles the training classes. MCM and energy are computed
here; the vacuity of an opinion, or its logarithm, is such a score as it is. A threshold comes from
validation images of the training classes: with the conformal quantile, an image of a training class
is called new with probability at most the asked false-alarm rate. Nothing is guaranteed about the
share of new images that are detected.

Sources: Ming et al. 2022, "Delving into out-of-distribution detection with vision-language
representations"; Liu et al. 2020, "Energy-based out-of-distribution detection"; Bates et al. 2023,
"Testing for outliers with conformal p-values".
"""

import math

import numpy as np
from scipy import special

from cdc_jax.trust import conformal
from cdc_jax.trust.checks import ArrayLike, by_class, share, vectors


def maximum_concept_matching(similarities: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """MCM as novelty: 1 - max_k softmax(c / tau)_k of cosine similarities c.

    It is computed as rest / (1 + rest) with rest = sum of exp((c_k - max c) / tau) over the other
    classes. So scores near 0 keep their digits and their order.

    Args:
      similarities: cosines c of image and class features, not times the logit scale, (images,
        classes).
      temperature: tau > 0; the paper uses 1. CLIP's own is 0.01, with which MCM is the usual
        softmax uncertainty.

    Returns:
      In [0, 1 - 1 / classes], (images,).

    Raises:
      ValueError: a wrong shape, NaN, tau not positive.

    >>> maximum_concept_matching([[0.5, 0.5], [1.0, 0.0]]).round(3).tolist()
    [0.5, 0.269]

    Ming et al. 2022, eq. 2.
    """
    c = by_class("similarities", similarities) / _positive(temperature)
    others = np.sort(c - c.max(axis=1, keepdims=True), axis=1)[:, :-1]
    rest = np.exp(others).sum(axis=1)
    return rest / (1 + rest)


def energy(logits: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """Free energy as novelty: -T logsumexp_k(z_k / T).

    Args:
      logits: z, (images, classes). Their common level counts, so they are no log-probabilities.
      temperature: T > 0; the paper uses 1.

    Returns:
      (images,).

    Raises:
      ValueError: a wrong shape, NaN, T not positive.

    >>> energy([[0.0, 0.0], [3.0, 0.0]]).round(3).tolist()
    [-0.693, -3.049]

    Liu et al. 2020, eq. 4.
    """
    z = by_class("logits", logits)
    return -temperature * special.logsumexp(z / _positive(temperature), axis=1)


def _positive(temperature: float) -> float:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"expected a finite temperature > 0, got {temperature}")
    return temperature


def novelty_threshold(novelty: ArrayLike, false_alarms: float = 0.05) -> float:
    """The threshold above which an image is called new, at a guaranteed false-alarm rate.

    Args:
      novelty: of validation images of the training classes, that were not trained on, (n,).
      false_alarms: asked share of images of the training classes that are called new, in (0, 1).

    Returns:
      t: call an image new if its novelty is larger than t.

    Raises:
      ValueError: a share out of range; NaN; too few images for it.

    >>> novelty_threshold([0.1, 0.4, 0.2, 0.3], false_alarms=0.2)
    0.4

    The conformal quantile at level 1 - false_alarms, see `conformal.quantile`; Bates et al. 2023.
    """
    rate, (values,) = share("false_alarms", false_alarms), vectors(novelty=novelty)
    needed = conformal.images_needed(1 - rate)
    if len(values) < needed:
        least = -(-1000 // (len(values) + 1)) / 1000
        raise ValueError(
            f"a false-alarm rate of {false_alarms:g} needs {needed} validation images, got "
            f"{len(values)}: add images or raise the rate to at least {least:g}"
        )
    return conformal.quantile(values, 1 - rate)


def false_alarms_at_recall(base: ArrayLike, new: ArrayLike, recall: float = 0.95) -> float:
    """Share of base images that are called new where a share `recall` of new images is detected.

    The threshold is the largest one with novelty >= threshold for enough new images. The FPR95 of
    many papers has the base classes as positives instead: it is the share of new images that pass
    as base where 95 % of base images do, `false_alarms_at_recall(-new, -base)`.

    Args:
      base: novelty of the base classes' images, (base images,).
      new: novelty of the new classes' images by the same score, (new images,).
      recall: in (0, 1).

    Returns:
      In 0..1; ties of a base image with the threshold count as false alarms.

    Raises:
      ValueError: a share out of range; an empty vector; NaN.

    >>> false_alarms_at_recall([0.1, 0.2, 0.3, 0.6], [0.4, 0.5, 0.7, 0.9], recall=0.75)
    0.25
    """
    (negatives,), (positives,) = vectors(base=base), vectors(new=new)
    detected = math.ceil(len(positives) * share("recall", recall))
    threshold = np.sort(positives)[len(positives) - detected]
    return float((negatives >= threshold).mean())
