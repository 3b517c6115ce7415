"""Exact evaluation: every image is scored once, whatever the batch size and the devices."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from cdc_jax import devices, metrics, prompts, views
from cdc_jax.adapter import Adapter, similarities
from cdc_jax.clip.model import Clip
from cdc_jax.tasks import Examples

PyTree = Any


@flax.struct.dataclass
class Scores:
    """What a method says of every image of a split.

    Attributes:
      labels: (examples,).
      predicted: the fused choice, (examples,).
      probability: fused, (examples, classes).
      uncertainty: of the head, (examples,).
      log_vacuity: of the fused opinion, NaN without one, (examples,).
      conflict: among the templates, (examples,).
      template_predicted: each template's own choice, (examples, templates).
      template_confidence: its probability, (examples, templates).
      template_uncertainty: each template's own uncertainty, (examples, templates).
    """

    labels: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    uncertainty: np.ndarray
    log_vacuity: np.ndarray
    conflict: np.ndarray
    template_predicted: np.ndarray
    template_confidence: np.ndarray
    template_uncertainty: np.ndarray


class ImageFeatures:
    """Image features of clean views, every image once, whatever the batch size and the devices.

    Features that no learned vector changes are computed once for all methods.

    Every host reads its rows of a batch, and gets the features of all.

    Args:
      mesh: images are split over all of its devices.
      batch_size: images at a time, on all hosts; the last batch is padded, and what was padded is
        cut again.
    """

    def __init__(self, mesh: Mesh, batch_size: int):
        self._mesh = mesh
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self._frozen: dict[int, tuple[Examples, np.ndarray]] = {}

        def encode(clip, parameters, images):
            clean = views.clean_view(images, clip.config.mean, clip.config.std)
            return prompts.image_features(clip, parameters, clean[None])

        self.everywhere = devices.everywhere(mesh)
        self._encode = jax.jit(encode, out_shardings=self.everywhere)

    def __call__(self, clip: Clip, parameters: PyTree, examples: Examples) -> np.ndarray:
        """Features under every template, (templates or 1, examples, embed)."""
        if not len(examples):
            raise ValueError("a split to evaluate is empty")
        if "coupling" in parameters:
            return self._encoded(clip, parameters, examples)
        known = self._frozen.get(id(examples))
        if known is None:  # kept with the examples, so that no others get their id
            known = examples, self._encoded(clip, {}, examples)
            self._frozen[id(examples)] = known
        return known[1]

    def _encoded(self, clip: Clip, parameters: PyTree, examples: Examples) -> np.ndarray:
        made = []
        for first in range(0, len(examples), self.batch_size):
            batch = self.batch(lambda rows: examples.images[rows], first, len(examples))
            made.append(self._encode(clip, parameters, batch))
            # Only then waits for the batch before: the devices encoded it while this one was read.
            made[-2:-1] = jax.device_get(made[-2:-1])
        return np.concatenate(jax.device_get(made), 1)[:, : len(examples)]

    def batch(self, read: Callable[[slice], np.ndarray], first: int, total: int) -> jax.Array:
        """A batch on the devices, padded by its last row.

        Args:
          read: the rows of a slice.
          first: first row of the batch.
          total: how many rows there are.
        """
        mine = devices.rows(self.batch_size)
        start = min(first + mine.start, total - 1)
        rows = read(slice(start, max(start + 1, min(first + mine.stop, total))))
        padded = devices.pad(rows, mine.stop - mine.start)
        return devices.shard(padded, self._mesh, devices.AXES)


class Evaluator:
    """Scores splits by one method, compiled once for all of them.

    Args:
      adapter: the method.
      features: of the images; shared by the methods of a run.
    """

    def __init__(self, adapter: Adapter, features: ImageFeatures):
        self._adapter, self._features = adapter, features
        self._text = jax.jit(adapter.text_features)

        def predict(clip, parameters, text, image):
            logits = similarities(clip, parameters, image.swapaxes(0, 1), text)
            said = adapter.head.predict(logits)
            # Of the templates' own only the largest: all of them would be M times the fused ones.
            return said._replace(template_probability=said.template_probability.max(-1))

        self._predict = jax.jit(predict, out_shardings=features.everywhere)

    def text_features(
        self, clip: Clip, parameters: PyTree, class_names: Sequence[str], template: str = ""
    ) -> Float[Array, "templates classes embed"]:
        """Features of the classes under every template; arguments as `Adapter.classes`."""
        return self._text(clip, parameters, self._adapter.classes(clip, class_names, template))

    def scores(self, clip: Clip, parameters: PyTree, examples: Examples) -> Scores:
        """Predictions of a split; its classes' text features are computed once.

        Args:
          clip: the frozen model, on the mesh.
          parameters: the learned vectors, on the mesh.
          examples: the split.
        """
        text = self.text_features(clip, parameters, examples.class_names, examples.template)
        image = self._features(clip, parameters, examples)
        rows, made = image.swapaxes(0, 1), []
        for first in range(0, len(rows), self._features.batch_size):
            batch = self._features.batch(rows.__getitem__, first, len(rows))
            made.append(jax.device_get(self._predict(clip, parameters, text, batch)))
        said = jax.tree.map(lambda *parts: np.concatenate(parts)[: len(examples)], *made)
        return Scores(
            labels=examples.labels,
            predicted=said.predicted,
            probability=said.probability,
            uncertainty=said.uncertainty,
            log_vacuity=said.log_vacuity,
            conflict=said.conflict,
            template_predicted=said.template_predicted,
            template_confidence=said.template_probability,
            template_uncertainty=said.template_uncertainty,
        )


def summarize(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """The figures of a method: on every split, and those that tables show.

    Args:
      scores: split name -> scores.

    Returns:
      `splits`: for each split the number of images; in percent the accuracy, each template's
      accuracy alone, the expected calibration error (`ece`), the AUROC of the head's uncertainty
      for errors (`auroc`; None where there are none, or nothing else) and the area under the
      risk-coverage curve (`aurc`); the negative log-likelihood in nats (`nll`), the Brier score
      (`brier`) and the mean conflict. `summary`, in percent: the accuracy of every split; where
      there are base_x and new_x, their harmonic mean `H_x`, and the AUROC `novelty_x` of the
      vacuity, in a softmax head of its uncertainty, for new classes; `ece` and `auroc` averaged
      over the splits under do(), `*_int`, or over all where there are none: None where one of
      them has no AUROC.
    """
    splits = {name: _figures(one) for name, one in scores.items()}
    summary = {name: figures["accuracy"] for name, figures in splits.items()}
    for base in [name for name in scores if name.startswith("base_")]:
        kind = base.removeprefix("base_")
        if (new := f"new_{kind}") in scores:
            summary[f"H_{kind}"] = float(metrics.harmonic_mean(summary[base], summary[new]))
            summary[f"novelty_{kind}"] = 100 * metrics.novelty_auroc(
                *(_novelty(scores[half]) for half in (base, new))
            )
    cut = [name for name in scores if name.endswith("_int")] or list(scores)
    for key in ("ece", "auroc"):
        values = [splits[name][key] for name in cut]
        summary[key] = None if None in values else float(np.mean(values))
    return {"splits": splits, "summary": summary}


def _novelty(scores: Scores) -> np.ndarray:
    return scores.uncertainty if np.isnan(scores.log_vacuity).any() else scores.log_vacuity


def _figures(scores: Scores) -> dict[str, Any]:
    probability, labels, uncertainty = scores.probability, scores.labels, scores.uncertainty
    correct = scores.predicted == labels
    auroc = metrics.error_auroc(uncertainty, correct)
    own = (scores.template_predicted == labels[:, None]).mean(0)
    return {
        "images": len(labels),
        "accuracy": 100 * metrics.accuracy(scores.predicted, labels),
        "template_accuracy": [100 * float(a) for a in own],
        "ece": 100 * metrics.expected_calibration_error(probability.max(-1), correct),
        "nll": metrics.negative_log_likelihood(probability, labels),
        "brier": metrics.brier_score(probability, labels),
        "auroc": None if np.isnan(auroc) else 100 * auroc,
        "aurc": 100 * metrics.area_under_risk_coverage(uncertainty, correct),
        "conflict": float(scores.conflict.mean()),
    }
