"""Thresholds of `predict` for a level of sets, a risk or a rate of false alarms.

No method trains on the validation images of a run. A method that chooses on them does not choose on
the images that are used here, see `selection`. The run predicts these images, and keeps four
numbers of each image beside the adapted model. The user can therefore ask for any level later,
without the images. `trust` computes the thresholds. Sets and the risk use the fused probability,
and unknown images use `Prediction.novelty`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from cdc_jax import trust
from cdc_jax.methods.heads import Prediction
from cdc_jax.trust import conformal, selective

LEVEL = 0.9
"""Level of the sets in the results of a run."""
RISK = 0.1
"""Risk of the predictions that the results of a run count as decided."""
DELTA = 0.05
"""Probability, over the draw of the validation images, that a risk is exceeded."""
FIGURES = ("coverage", "set_size", "risk", "decided")
"""Names of `Calibration.figures`."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Four numbers of each validation image, each array (n,) of float64.

    Attributes:
      true_score: LAC score of the true class, 1 − p_y.
      confidence: largest fused probability.
      correct: 1 where the prediction is right, 0 where it is wrong.
      novelty: see `Prediction.novelty`.
    """

    true_score: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    novelty: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, for `from_arrays`."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def sets(self, level: float) -> Callable[[Prediction], np.ndarray]:
        """The function from predictions of images to their sets of classes, (images, classes).

        A set that would be empty holds the predicted class.

        Args:
          level: probability with which a set holds the true class, in (0, 1).

        Raises:
          ValueError: level out of range; too few images for it.
        """
        threshold = trust.quantile(self.true_score, level)

        def of_images(prediction: Prediction) -> np.ndarray:
            scores = trust.lac_scores(prediction.probability)
            return trust.prediction_sets(scores, threshold, prediction.predicted)

        return of_images

    def least_confidence(self, risk: float) -> float:
        """The confidence that a prediction must exceed to be accepted.

        With probability 1 − `DELTA`, at most a share `risk` of the accepted predictions is wrong.

        Args:
          risk: in (0, 1).

        Raises:
          ValueError: risk out of range; too few images for it; no confidence has this risk.
        """
        rule = self._rule(risk)
        if not rule.accepted:
            larger = (percent / 100 for percent in range(1, 100) if percent > 100 * risk)
            shown = [f"{r:g}" for r in larger if self._rule(r).accepted]
            least = f"the least risk that they show is {shown[0]}" if shown else "they show no risk"
            raise ValueError(
                f"a risk of at most {risk:g} is asked, but the predictions of "
                f"{int(self.correct.sum())} of {len(self.correct)} validation images are right, "
                f"and {least}: ask for a larger risk, or adapt a model that knows these images"
            )
        return rule.threshold

    def _rule(self, risk: float) -> trust.SelectiveRule:
        return trust.selective_rule(self.confidence, self.correct, risk, DELTA)

    def figures(self, prediction: Prediction, labels: np.ndarray) -> dict[str, float | None]:
        """How the guarantees at `LEVEL` and `RISK` hold on other images, such as a test split.

        The classes may be other classes: the thresholds belong to no class.

        Args:
          prediction: of the images, as NumPy arrays.
          labels: true classes, (images,).

        Returns:
          `coverage`, the share of sets that hold the true class, in percent, and `set_size`, the
          mean number of classes in a set. `decided`, the share of images that the rule accepts,
          and `risk`, the share of wrong predictions among them, both in percent. None for sets or
          a rule that the validation images do not allow, and for the risk of no image.
        """
        figures: dict[str, float | None] = dict.fromkeys(FIGURES)
        if len(self.true_score) >= conformal.images_needed(LEVEL):
            sets = self.sets(LEVEL)(prediction)
            figures["coverage"] = 100 * trust.coverage(sets, labels)
            figures["set_size"] = trust.mean_set_size(sets)
        if len(self.correct) >= selective.images_needed(RISK, DELTA):
            rule = self._rule(RISK)
            if rule.accepted:
                confidence, correct = prediction.probability.max(-1), prediction.predicted == labels
                risk, decided = trust.select(confidence, correct, rule.threshold)
                figures["risk"] = None if math.isnan(risk) else 100 * risk
                figures["decided"] = 100 * decided
        return figures

    def largest_novelty(self, false_alarms: float) -> float:
        """The novelty above which an image is called unknown.

        Args:
          false_alarms: probability for an image of a training class, in (0, 1).

        Raises:
          ValueError: false_alarms out of range; too few images for it.
        """
        return trust.novelty_threshold(self.novelty, false_alarms)


def of(prediction: Prediction, labels: np.ndarray) -> Calibration:
    """The numbers of validation images.

    Args:
      prediction: of the images, as NumPy arrays.
      labels: true classes, (n,).
    """
    scores = trust.lac_scores(prediction.probability)
    return Calibration(
        true_score=scores[np.arange(len(labels)), labels],
        confidence=np.max(prediction.probability, -1).astype(np.float64),
        correct=np.equal(prediction.predicted, labels).astype(np.float64),
        novelty=np.asarray(prediction.novelty, np.float64),
    )


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Calibration | None:
    """The calibration of a stored model; None for a model that stores none.

    Raises:
      ValueError: an array is missing, has another shape than the others, or is not finite.
    """
    if not arrays:
        return None
    names = {field.name for field in dataclasses.fields(Calibration)}
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if set(arrays) != names or len(set(shapes.values())) != 1 or len(shapes["correct"]) != 1:
        raise ValueError(f"validation needs {sorted(names)} of one length, got {shapes}")
    if not all(a.dtype == np.float64 and np.isfinite(a).all() for a in arrays.values()):
        raise ValueError("validation holds values that are no finite numbers of float64")
    return Calibration(**arrays)
