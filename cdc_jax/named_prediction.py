"""From a method's prediction of images to an `ImagePrediction` of one, with class names."""

import math
from collections.abc import Callable, Sequence

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
) -> ImagePrediction:
    """The prediction of one image, with names.

    Args:
      name: of the image.
      prediction: of several images, as NumPy arrays.
      i: which of them.
      class_names: of the classes in the prediction.
      top_k: number of classes in the result, the most probable first.
      abstains: see `abstention`.
    """
    probability = prediction.probability[i]
    best = metrics.ranked(probability, int(prediction.predicted[i]))[:top_k]
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
    )
    return row._replace(abstained=abstains(row))
