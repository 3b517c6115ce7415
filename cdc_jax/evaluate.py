"""Exact evaluation: every image is scored once, whatever the batch size and the devices."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import numpy as np
from jax.sharding import Mesh

from cdc_jax import devices, metrics, views
from cdc_jax.adapter import Adapter
from cdc_jax.clip.model import Clip
from cdc_jax.tasks import Examples

PyTree = Any


@flax.struct.dataclass
class Scores:
    """What a method says of every image of a split.

    Attributes:
      labels: (examples,).
      probability: fused, (examples, classes).
      uncertainty: of the head, (examples,).
      template_predicted: each template's own choice, (examples, templates).
    """

    labels: np.ndarray
    probability: np.ndarray
    uncertainty: np.ndarray
    template_predicted: np.ndarray


class Evaluator:
    """Scores splits by one method, compiled once for all of them.

    Args:
      adapter: the method.
      mesh: images are split over its `data` axis.
      batch_size: images at a time; the last batch is padded, and what was padded is cut again.
    """

    def __init__(self, adapter: Adapter, mesh: Mesh, batch_size: int):
        self._adapter, self._mesh = adapter, mesh
        self._batch_size = -(-batch_size // mesh.size) * mesh.size
        self._text = jax.jit(adapter.text_features)

        def logits(clip, parameters, text, images):
            clean = views.clean_view(images, clip.config.mean, clip.config.std)
            return adapter.logits(clip, parameters, text, clean[None])

        def predict(clip, parameters, text, images):
            return adapter.head.predict(logits(clip, parameters, text, images))

        self._logits, self._predict = jax.jit(logits), jax.jit(predict)

    def logits(self, clip: Clip, parameters: PyTree, examples: Examples) -> np.ndarray:
        """Logits of clean views, (examples, templates, classes)."""
        return self._over_batches(self._logits, clip, parameters, examples)

    def scores(self, clip: Clip, parameters: PyTree, examples: Examples) -> Scores:
        """Predictions of a split; its classes' text features are computed once.

        Args:
          clip: the frozen model, on the mesh.
          parameters: the learned vectors, on the mesh.
          examples: the split.
        """
        predictions = self._over_batches(self._predict, clip, parameters, examples)
        return Scores(
            labels=examples.labels,
            probability=predictions.probability,
            uncertainty=predictions.uncertainty,
            template_predicted=predictions.template_probability.argmax(-1),
        )

    def _over_batches(self, function, clip, parameters, examples) -> PyTree:
        if not len(examples):
            raise ValueError("a split to evaluate is empty")
        text = self._text(clip, parameters, self._adapter.classes(clip, examples.class_names))
        size, outputs = self._batch_size, []
        for first in range(0, len(examples), size):
            images = examples.images[first : first + size]
            batch = devices.shard(devices.pad(images, size), self._mesh)
            made = jax.device_get(function(clip, parameters, text, batch))
            outputs.append(made)
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)
        return jax.tree.map(lambda array: array[: len(examples)], joined)


def summarize(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """The figures of a method: on every split, and those that tables show.

    Args:
      scores: split name -> scores; `base_x` and `new_x` are a pair.

    Returns:
      `splits`: for each split the number of images; in percent the accuracy, each template's
      accuracy alone, the expected calibration error (`ece`), the AUROC of the head's uncertainty
      for errors (`auroc`) and the area under the risk-coverage curve (`aurc`); the negative
      log-likelihood in nats (`nll`) and the Brier score (`brier`). `summary`, in percent: the
      accuracy of every split, the harmonic mean `H_x` of base_x and new_x, and `ece` and `auroc`,
      averaged over the splits under do(), `*_int`, or over all where there are none.
    """
    splits = {name: _figures(one) for name, one in scores.items()}
    summary = {name: figures["accuracy"] for name, figures in splits.items()}
    for kind in [name.removeprefix("base_") for name in scores if name.startswith("base_")]:
        base, new = summary[f"base_{kind}"], summary[f"new_{kind}"]
        summary[f"H_{kind}"] = float(metrics.harmonic_mean(base, new))
    averaged = [name for name in splits if name.endswith("_int")] or list(splits)
    for key in ("ece", "auroc"):
        summary[key] = float(np.mean([splits[name][key] for name in averaged]))
    return {"splits": splits, "summary": summary}


def _figures(scores: Scores) -> dict[str, Any]:
    probability, labels, uncertainty = scores.probability, scores.labels, scores.uncertainty
    predicted = probability.argmax(-1)
    correct = predicted == labels
    own = (scores.template_predicted == labels[:, None]).mean(0)
    return {
        "images": len(labels),
        "accuracy": 100 * metrics.accuracy(predicted, labels),
        "template_accuracy": [100 * float(a) for a in own],
        "ece": 100 * metrics.expected_calibration_error(probability.max(-1), correct),
        "nll": metrics.negative_log_likelihood(probability, labels),
        "brier": metrics.brier_score(probability, labels),
        "auroc": 100 * metrics.error_auroc(uncertainty, correct),
        "aurc": 100 * metrics.area_under_risk_coverage(uncertainty, correct),
    }
