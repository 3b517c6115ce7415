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
            outputs.append(jax.tree.map(lambda a, n=len(images): a[:n], made))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)


def summarize(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """The figures of a method on every split, and the ones that tables show; all in percent.

    Args:
      scores: split name -> scores. Splits are `base_*` and `new_*`.

    Returns:
      `splits`: for each split the number of images, accuracy, accuracy of each template alone,
      expected calibration error, negative log-likelihood (nats), Brier score, AUROC of the
      uncertainty for errors, area under the risk-coverage curve. `summary`: the harmonic means
      H = 2 base new / (base + new) on iid and on int splits, and calibration on the int splits of
      base and new together.
    """
    splits = {name: _figures(one) for name, one in scores.items()}
    accuracy = {name: figures["accuracy"] for name, figures in splits.items()}
    summary = dict(accuracy)
    for suffix in sorted({name.partition("_")[2] for name in splits}):
        summary[f"H_{suffix}"] = metrics.harmonic_mean(
            accuracy[f"base_{suffix}"], accuracy[f"new_{suffix}"]
        )
    return {"splits": splits, "summary": summary}


def _figures(scores: Scores) -> dict[str, Any]:
    correct = scores.probability.argmax(-1) == scores.labels
    own = scores.template_predicted == scores.labels[:, None]
    return {
        "images": len(correct),
        "accuracy": 100 * float(correct.mean()),
        "template_accuracy": [100 * float(a) for a in own.mean(0)],
    }
