"""From a method's prediction of images to an `ImagePrediction` of one, with class names."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from cdc_jax import metrics
from cdc_jax.image_prediction import ImagePrediction
from cdc_jax.methods.heads import Prediction


def of_image(
    name: str,
    prediction: Prediction,
    i: int,
    class_names: Sequence[str],
    top_k: int,
    abstains: Callable[[ImagePrediction], bool] = lambda row: False,
    class_set: np.ndarray | None = None,
    largest_novelty: float | None = None,
) -> ImagePrediction:
    """The prediction of one image, with names.

    Args:
      name: of the image.
      prediction: of several images, as NumPy arrays.
      i: which of them.
      class_names: of the classes in the prediction.
      top_k: number of classes in the result, the most probable first.
      abstains: see `abstention`.
      class_set: whether each class is in the image's set, (classes,); None for no set.
      largest_novelty: above it the image is unknown; None for no such statement.
    """
    probability = prediction.probability[i]
    ranked = metrics.ranked(probability, int(prediction.predicted[i]))
    best = ranked[:top_k]
    vacuity = prediction.log_vacuity
    row = ImagePrediction(
        image=name,
        predicted=class_names[best[0]],
        probability=tuple((class_names[k], float(probability[k])) for k in best),
        uncertainty=float(prediction.uncertainty[i]),
        vacuity=None if vacuity is None else math.exp(vacuity[i]),
        conflict=float(prediction.conflict[i]),
        templates=tuple(
            (class_names[int(k)], float(p), float(u))
            for k, p, u in zip(
                prediction.template_predicted[i],
                prediction.template_confidence[i],
                prediction.template_uncertainty[i],
                strict=True,
            )
        ),
        abstained=False,
        class_set=(
            None if class_set is None else tuple(class_names[k] for k in ranked if class_set[k])
        ),
        unknown=None if largest_novelty is None else bool(prediction.novelty[i] > largest_novelty),
    )
    return row._replace(abstained=abstains(row))
