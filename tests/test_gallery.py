"""The images that a gallery shows, by hand."""

import numpy as np

from cdc_jax import gallery
from cdc_jax.evaluate import Scores
from cdc_jax.methods.heads import Prediction
from cdc_jax.records import SplitRecord


def scores_of(labels, predicted, confidence):
    labels, predicted = np.array(labels), np.array(predicted)
    p = np.full((len(labels), 3), (1 - np.array(confidence))[:, None] / 2)
    p[np.arange(len(labels)), predicted] = confidence
    uncertainty = np.arange(len(labels))[::-1] / 10  # another order than that of the probability
    alone = predicted[:, None]
    prediction = Prediction(predicted, p, uncertainty, uncertainty, alone, alone, alone)
    return Scores(SplitRecord(), labels, prediction, ("a", "b", "c"))


def test_mistakes_and_confused_pairs():
    labels = [0, 0, 1, 1, 1, 2, 2, 2, 2, 0]
    predicted = [0, 1, 1, 0, 0, 2, 0, 0, 1, 1]
    confidence = [0.99, 0.7, 0.9, 0.6, 0.8, 0.95, 0.5, 0.55, 0.98, 0.65]
    ends = gallery.ends(scores_of(labels, predicted, confidence))
    assert ends["most certain"].tolist() == [9, 8, 7, 6, 5, 4]
    assert ends["least certain"].tolist() == [0, 1, 2, 3]
    assert ends["confident mistakes"].tolist() == [8, 4, 1, 9, 3, 7]
    # a as b, b as a and c as a: two images each; c as b: one
    assert ends["confused pairs"].tolist() == [1, 4, 7, 8]


def test_a_split_without_mistakes_shows_none():
    ends = gallery.ends(scores_of([0, 1], [0, 1], [0.9, 0.8]))
    assert not len(ends["confident mistakes"]) and not len(ends["confused pairs"])
    assert ends["most certain"].tolist() == [1, 0]
