"""Exact evaluation: every test image is scored once, and the figures of its scores."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cdc_jax import calibration, metrics, trust
from cdc_jax.inference import Inference
from cdc_jax.interruption import Interrupted, Notice
from cdc_jax.methods.heads import Prediction
from cdc_jax.methods.stage import Learned
from cdc_jax.metrics import ArrayLike
from cdc_jax.progress import Progress
from cdc_jax.records import INTERVENTION, SplitRecord
from cdc_jax.tasks.task import Examples

_RECALL = 0.95  # of new images, in `novelty_fpr95`


class Scores(NamedTuple):
    """A test split with the predictions of a method.

    Attributes:
      split: the record of the split.
      labels: (examples,).
      prediction: of every image, as NumPy arrays.
      class_names: of the classes among which the images are classified.
      among_training: of images of new classes, the prediction among the training classes, from
        which a user would tell that they are new; None for other splits.
    """

    split: SplitRecord
    labels: np.ndarray
    prediction: Prediction
    class_names: Sequence[str]
    among_training: Prediction | None = None


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
    training = inference.class_list(learned, inference.method.class_names)
    for name, examples in test.items():
        if inference.method.covers(examples.class_names):
            new = examples.split.group == "new"
            scores[name] = Scores(
                examples.split,
                examples.labels,
                inference.split(learned, examples),
                examples.class_names,
                inference.split(learned, examples, training) if new else None,
            )
        if progress:
            progress.advance()
        if notice and notice.came():
            raise Interrupted("the evaluation was stopped")
    return scores


def summarize(
    scores: Mapping[str, Scores], calibrated: calibration.Calibration | None = None
) -> dict[str, Any]:
    """The figures of a method: on every split, and those that tables show.

    Args:
      scores: split name -> scores.
      calibrated: numbers of the run's validation images; None for a task without them.

    Returns:
      `splits`, for each split: the number of images. In percent: the accuracy, the accuracy of
      each template alone, the expected calibration error (`ece`), the AUROC of the head's
      uncertainty for errors (`auroc`), the AUROC for errors of 1 − max p (`auroc_probability`) and
      of the vacuity (`auroc_vacuity`), and the area under the risk-coverage curve (`aurc`). An
      AUROC is None if all images or no images are errors, and that of the vacuity for a head
      without opinions. The negative log-likelihood in nats (`nll`), the Brier score (`brier`) and
      the mean conflict. `coverage`, `set_size`, `risk` and `decided`, see `Calibration.figures`;
      None without validation images. `classes`, the names of the classes, `class_accuracy` by
      class in percent, None for a class without images, their mean `macro_accuracy`, and
      `confusion`: a list of [true class, predicted class, number of images].

      `summary`, in percent: the accuracy of every split. For base and new classes under a condition
      x, their harmonic mean `H_x`. With new classes as the positive class, and from the predictions
      of all images among the training classes: the AUROC `novelty_x` of the vacuity (a softmax head
      has its uncertainty in place of the vacuity), the AUROC `novelty_probability_x` of 1 − max p,
      and `novelty_fpr95_x`: the share of base images that are called new where the score of
      `novelty_x` finds 95 % of new images. `ece` and `auroc`, averaged over the splits under do(),
      or over all splits of a task without do(); None if a split has no AUROC.
    """
    splits = {name: _figures(one, calibrated) for name, one in scores.items()}
    summary = {name: figures["accuracy"] for name, figures in splits.items()}
    halves = {(one.split.group, one.split.condition): name for name, one in scores.items()}
    for (group, condition), base in halves.items():
        if group == "base" and (new := halves.get(("new", condition))):
            suffix = scores[base].split.suffix
            summary[f"H_{suffix}"] = float(metrics.harmonic_mean(summary[base], summary[new]))
            if among_training := scores[new].among_training:
                novelty = _novelty(scores[base].prediction, among_training)
                summary |= {f"{name}_{suffix}": figure for name, figure in novelty.items()}
    under_do = [name for name, one in scores.items() if one.split.condition == INTERVENTION]
    for key in ("ece", "auroc"):
        values = [splits[name][key] for name in under_do or scores]
        summary[key] = None if None in values else float(np.mean(values))
    return {"splits": splits, "summary": summary}


def _figures(scores: Scores, calibrated: calibration.Calibration | None) -> dict[str, Any]:
    predictions, labels = scores.prediction, scores.labels
    correct = predictions.predicted == labels
    alone = (predictions.template_predicted == labels[:, None]).mean(0)
    figures = {
        "images": len(labels),
        "accuracy": 100 * metrics.accuracy(predictions.predicted, labels),
        "template_accuracy": [100 * float(a) for a in alone],
        "ece": 100 * metrics.expected_calibration_error(predictions.probability.max(-1), correct),
        "nll": metrics.negative_log_likelihood(predictions.probability, labels),
        "brier": metrics.brier_score(predictions.probability, labels),
        "auroc": _error_auroc(predictions.uncertainty, correct),
        "auroc_probability": _error_auroc(_doubt(predictions), correct),
        "auroc_vacuity": _error_auroc(predictions.log_vacuity, correct),
        "aurc": 100 * metrics.area_under_risk_coverage(predictions.uncertainty, correct),
        "conflict": float(predictions.conflict.mean()),
    }
    absent = dict.fromkeys(calibration.FIGURES)
    guarantees = calibrated.figures(predictions, labels) if calibrated else absent
    return figures | guarantees | _by_class(scores)


def _by_class(scores: Scores) -> dict[str, Any]:
    predicted, labels, names = scores.prediction.predicted, scores.labels, scores.class_names
    accuracy = metrics.per_class_accuracy(predicted, labels, len(names))
    return {
        "classes": list(names),
        "class_accuracy": [_percent(one) for one in accuracy],
        "macro_accuracy": 100 * float(np.nanmean(accuracy)),
        "confusion": metrics.confusion_counts(predicted, labels).tolist(),
    }


def _novelty(base: Prediction, new: Prediction) -> dict[str, float]:
    """Figures about new classes, see `summarize`."""
    false_alarms = trust.false_alarms_at_recall(base.novelty, new.novelty, _RECALL)
    return {
        "novelty": 100 * metrics.novelty_auroc(base.novelty, new.novelty),
        "novelty_probability": 100 * metrics.novelty_auroc(_doubt(base), _doubt(new)),
        "novelty_fpr95": 100 * false_alarms,
    }


def _error_auroc(uncertainty: ArrayLike | None, correct: ArrayLike) -> float | None:
    return None if uncertainty is None else _percent(metrics.error_auroc(uncertainty, correct))


def _doubt(prediction: Prediction) -> np.ndarray:
    """1 − max p, (images,)."""
    return 1 - np.asarray(prediction.probability).max(-1)


def _percent(share: float) -> float | None:
    return None if np.isnan(share) else 100 * float(share)
