"""Which test images a run keeps as pictures."""

import numpy as np

from cdc_jax import metrics
from cdc_jax.evaluate import Scores

_COUNT = 6  # images at each end of a split


def ends(scores: Scores) -> dict[str, np.ndarray]:
    """The images of a split that tell most about a method.

    Args:
      scores: of the split.

    Returns:
      Numbers of images, in order, at each end: `most certain` and `least certain` by the head's
      uncertainty, the `confident mistakes` with the largest probability of a wrong class, and one
      such mistake for each of the `confused pairs`, the most frequent pairs of true and predicted
      class. An end without images is an empty array.
    """
    predicted, labels = np.asarray(scores.prediction.predicted), scores.labels
    certain = np.argsort(scores.prediction.uncertainty, kind="stable")
    confident = np.argsort(-np.asarray(scores.prediction.probability).max(-1), kind="stable")
    mistakes = confident[(predicted != labels)[confident]]
    counts = metrics.confusion_counts(predicted, labels)
    pairs = counts[counts[:, 0] != counts[:, 1]]
    pairs = pairs[np.argsort(-pairs[:, 2], kind="stable")][:_COUNT]
    of_pairs = [
        mistakes[(labels[mistakes] == true) & (predicted[mistakes] == taken)][0]
        for true, taken, _ in pairs
    ]
    return {
        "most certain": certain[:_COUNT],
        "least certain": certain[_COUNT:][::-1][:_COUNT],
        "confident mistakes": mistakes[:_COUNT],
        "confused pairs": np.array(of_pairs, int),
    }
