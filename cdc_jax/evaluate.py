"""Exact evaluation: every test image is scored once, and the figures of its scores."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cdc_jax import metrics
from cdc_jax.inference import Inference
from cdc_jax.interruption import Interrupted, Notice
from cdc_jax.methods.heads import Prediction
from cdc_jax.methods.method import Learned
from cdc_jax.progress import Progress
from cdc_jax.records import INTERVENTION, SplitRecord
from cdc_jax.tasks.task import Examples


class Scores(NamedTuple):
    """A test split with the predictions of a method.

    Attributes:
      split: the record of the split.
      labels: (examples,).
      prediction: of every image, as NumPy arrays.
    """

    split: SplitRecord
    labels: np.ndarray
    prediction: Prediction


def evaluate(
    inference: Inference,
    learned: Learned,
    test: Mapping[str, Examples],
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> dict[str, Scores]:
    """Scores of every test split whose classes the method covers.

    Args:
      inference: of the method.
      learned: its arrays, on the mesh.
      test: split name -> examples.
      progress: advanced once a split.
      notice: may stop the evaluation; None for an evaluation that always ends.

    Raises:
      Interrupted: the notice stopped the evaluation.
    """
    scores = {}
    for name, examples in test.items():
        if inference.method.covers(examples.class_names):
            prediction = inference.split(learned, examples)
            scores[name] = Scores(examples.split, examples.labels, prediction)
        if progress:
            progress.advance()
        if notice and notice.came():
            raise Interrupted("the evaluation was stopped")
    return scores


def summarize(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """The figures of a method: on every split, and those that tables show.

    Args:
      scores: split name -> scores.

    Returns:
      `splits`, for each split: the number of images. In percent: the accuracy, the accuracy of
      each template alone, the expected calibration error (`ece`), the AUROC of the head's
      uncertainty for errors (`auroc`; None if all images or no images are errors) and the area
      under the risk-coverage curve (`aurc`). The negative log-likelihood in nats (`nll`), the Brier
      score (`brier`) and the mean conflict.

      `summary`, in percent: the accuracy of every split. For base and new classes under a condition
      x, their harmonic mean `H_x`, and the AUROC `novelty_x` for new classes of the vacuity; a
      softmax head has its uncertainty in place of the vacuity. `ece` and `auroc`, averaged over
      the splits under do(), or over all splits of a task without do(); None if a split has no
      AUROC.
    """
    splits = {name: _figures(one) for name, one in scores.items()}
    summary = {name: figures["accuracy"] for name, figures in splits.items()}
    halves = {(one.split.group, one.split.condition): name for name, one in scores.items()}
    for (group, condition), base in halves.items():
        if group == "base" and (new := halves.get(("new", condition))):
            suffix = scores[base].split.suffix
            summary[f"H_{suffix}"] = float(metrics.harmonic_mean(summary[base], summary[new]))
            summary[f"novelty_{suffix}"] = 100 * metrics.novelty_auroc(
                scores[base].prediction.novelty, scores[new].prediction.novelty
            )
    under_do = [name for name, one in scores.items() if one.split.condition == INTERVENTION]
    for key in ("ece", "auroc"):
        values = [splits[name][key] for name in under_do or scores]
        summary[key] = None if None in values else float(np.mean(values))
    return {"splits": splits, "summary": summary}


def _figures(scores: Scores) -> dict[str, Any]:
    predictions, labels = scores.prediction, scores.labels
    correct = predictions.predicted == labels
    auroc = metrics.error_auroc(predictions.uncertainty, correct)
    alone = (predictions.template_predicted == labels[:, None]).mean(0)
    return {
        "images": len(labels),
        "accuracy": 100 * metrics.accuracy(predictions.predicted, labels),
        "template_accuracy": [100 * float(a) for a in alone],
        "ece": 100 * metrics.expected_calibration_error(predictions.probability.max(-1), correct),
        "nll": metrics.negative_log_likelihood(predictions.probability, labels),
        "brier": metrics.brier_score(predictions.probability, labels),
        "auroc": None if np.isnan(auroc) else 100 * auroc,
        "aurc": 100 * metrics.area_under_risk_coverage(predictions.uncertainty, correct),
        "conflict": float(predictions.conflict.mean()),
    }
