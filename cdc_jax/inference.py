"""The one place that predicts: a method, what it learned, class names and images -> predictions.

Evaluation in the course of training, test tables, galleries and `predict` all call `Inference`.
Image features that a method does not change are encoded once for all methods of a run.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from cdc_jax import devices, views
from cdc_jax.backbone import Backbone
from cdc_jax.methods.heads import Prediction
from cdc_jax.methods.method import Learned, Method, Text, frozen_features
from cdc_jax.tasks.task import Examples, Images
from cdc_jax.wording import Template

PyTree = Any


class ClassList(NamedTuple):
    """Classes to tell apart, ready for a method.

    Attributes:
      classes: of `Method.classes`.
      text: their features; None where a method reads the image into them.
    """

    classes: PyTree
    text: Text | None


@runtime_checkable
class Rows(Protocol):
    """`Images`, or anything whose slices are trees of arrays with as many rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> PyTree: ...


class FrozenFeatures:
    """Image features of clean views that no method changes; those of a split are computed once.

    Every host reads its rows of a batch, and gets the features of all.

    Args:
      backbone: on the mesh.
      mesh: images are split over all of its devices.
      batch_size: images at a time, on all hosts. The last batch is padded, and what was padded is
        cut again.

    Attributes:
      backbone: the same.
      batch_size: the next multiple of the number of devices.
    """

    def __init__(self, backbone: Backbone, mesh: Mesh, batch_size: int):
        self.backbone, self.mesh = backbone, mesh
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self._known: dict[int, tuple[Examples, np.ndarray]] = {}

        def encode(backbone, images):
            clean = views.clean_view(images, backbone.mean, backbone.std)
            return frozen_features(backbone, clean[None])

        self._encode = jax.jit(encode, out_shardings=devices.everywhere(mesh))

    def of(self, examples: Examples) -> np.ndarray:
        """Features of a split, (1, examples, embed)."""
        known = self._known.get(id(examples))
        if known is None:  # kept with the examples, so that no others get their id
            known = examples, self.encode(examples.images)
            self._known[id(examples)] = known
        return known[1]

    def encode(self, images: Images) -> np.ndarray:
        """Features of images, (1, images, embed)."""
        return self.in_batches(images, lambda batch: self._encode(self.backbone, batch))

    def in_batches(self, images: Rows, encode: Callable[[PyTree], jax.Array]) -> np.ndarray:
        """What a function makes of all images, (templates or 1, images, embed).

        Args:
          images: uint8, (images, size, size, 3) where indexed; or rows of another form.
          encode: from a batch on the devices to its features.

        Raises:
          ValueError: no images.
        """
        total = len(images)
        if not total:
            raise ValueError("a split to evaluate is empty")
        made = []
        for first in range(0, total, self.batch_size):
            made.append(encode(self.batch(images.__getitem__, first, total)))
            # Only then waits for the batch before: the devices encoded it while this one was read.
            made[-2:-1] = jax.device_get(made[-2:-1])
        return np.concatenate(jax.device_get(made), 1)[:, :total]

    def batch(self, read: Callable[[slice], PyTree], first: int, total: int) -> PyTree:
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
        return devices.shard(padded, self.mesh, devices.AXES)


class Inference:
    """Predictions of one method, compiled once for all images and class lists of a shape.

    Args:
      method: the method.
      frozen: features that it does not change, and the backbone.
    """

    def __init__(self, method: Method, frozen: FrozenFeatures):
        self.method, self._frozen = method, frozen
        everywhere = devices.everywhere(frozen.mesh)

        def encode(backbone, learned, images):
            clean = views.clean_view(images, backbone.mean, backbone.std)
            return method.image_features(backbone, learned, clean[None])

        def answer(backbone, learned, class_list, image):
            forward = method.forward(
                backbone, learned, class_list.classes, image.swapaxes(0, 1), class_list.text
            )
            return method.predict(learned, forward.logits)

        self._text = jax.jit(method.class_features)
        self._encode = jax.jit(encode, out_shardings=everywhere)
        self._answer = jax.jit(answer, out_shardings=everywhere)

    def class_list(
        self, learned: Learned, class_names: Sequence[str], template: Template = ""
    ) -> ClassList:
        """Prepares classes; their features are computed once for all images.

        Args:
          learned: the method's arrays, on the mesh.
          class_names: at least two.
          template: the hand-crafted text of another task.
        """
        backbone = self.method.adapt(self._frozen.backbone, learned)
        classes = self.method.classes(backbone, class_names, template)
        if self.method.reads_images:
            return ClassList(classes, None)
        return ClassList(classes, self._text(backbone, learned, classes))

    def split(self, learned: Learned, examples: Examples) -> Prediction:
        """Predictions of a test split among its own classes, as NumPy arrays."""
        class_list = self.class_list(learned, examples.class_names, examples.template)
        if self.method.changes_images:
            return self.images(learned, class_list, examples.images)
        return self._answers(learned, class_list, self._frozen.of(examples))

    def images(self, learned: Learned, class_list: ClassList, images: Images) -> Prediction:
        """Predictions of images among prepared classes, as NumPy arrays.

        Args:
          learned: the method's arrays, on the mesh.
          class_list: of `class_list`.
          images: uint8, scaled and cropped for the backbone.
        """
        if not self.method.changes_images:
            return self._answers(learned, class_list, self._frozen.encode(images))
        backbone = self.method.adapt(self._frozen.backbone, learned)
        features = self._frozen.in_batches(
            images, lambda batch: self._encode(backbone, learned, batch)
        )
        return self._answers(learned, class_list, features)

    def _answers(self, learned: Learned, class_list: ClassList, image: np.ndarray) -> Prediction:
        backbone = self.method.adapt(self._frozen.backbone, learned)
        rows, made = image.swapaxes(0, 1), []
        for first in range(0, len(rows), self._frozen.batch_size):
            batch = self._frozen.batch(rows.__getitem__, first, len(rows))
            made.append(jax.device_get(self._answer(backbone, learned, class_list, batch)))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(rows)], *made)
