"""The one place that predicts: method, learned arrays, class names and images -> predictions.

Curves, test tables, galleries and `predict` all call `Inference`. Image features that a method
does not change are encoded once for all methods of a run. With a cache on disk they are encoded
once for all runs.
"""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cdc_jax import devices, programs, views
from cdc_jax.backbone import Backbone
from cdc_jax.feature_cache import EncoderFeatures
from cdc_jax.methods.heads import Prediction, Scale
from cdc_jax.methods.method import Method, Text, frozen_features
from cdc_jax.methods.stage import Learned
from cdc_jax.tasks import content
from cdc_jax.tasks.task import Examples, Images
from cdc_jax.wording import Template

PyTree = Any

_SPAN = 16  # batches that are returned together, if most of their features are on disk


class ClassList(NamedTuple):
    """Classes to tell apart, ready for a method.

    Attributes:
      classes: of `Method.classes`; None with `text`.
      text: text features of the classes; None where they depend on the image.
      scale: of `Method.scale`.
    """

    classes: PyTree
    text: Text | None
    scale: Scale | None


@runtime_checkable
class Rows(Protocol):
    """`Images`, or anything whose slices are trees of arrays with as many rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> PyTree: ...


class _Span(NamedTuple):
    """Consecutive images. At most a batch of them lacks features.

    Attributes:
      first: number of the first image.
      features: (images, embed); rows of missing images have no meaning.
      missing: numbers of the images that are to be encoded.
    """

    first: int
    features: np.ndarray
    missing: np.ndarray


class FrozenFeatures:
    """Image features of clean views, which no method changes. A split is encoded once.

    Every host reads its rows of a batch, and gets the features of all rows.

    Args:
      backbone: on the mesh.
      mesh: images are split over all of its devices.
      batch_size: images at a time, on all hosts. The last batch is padded, and the padding's
        features are dropped.
      cache: features on disk, of `FeatureCache`; on all hosts, or on none.

    Attributes:
      backbone: the same.
      batch_size: the next multiple of the number of devices.
      encoded: number of images that were encoded, on all hosts.
    """

    def __init__(
        self,
        backbone: Backbone,
        mesh: Mesh,
        batch_size: int,
        cache: EncoderFeatures | None = None,
    ):
        self.backbone, self.mesh, self._cache, self.encoded = backbone, mesh, cache, 0
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self._features_by_id: dict[int, tuple[Examples, np.ndarray]] = {}

        def encode(backbone, images):
            clean = views.clean_view(images, backbone.mean, backbone.std)
            return frozen_features(backbone, clean[None])

        self._encode = jax.jit(
            encode,
            out_shardings=devices.everywhere(mesh),
            compiler_options=programs.options(backbone.dtype),
        )

    def of(self, examples: Examples) -> np.ndarray:
        """Features of a split, (1, examples, embed)."""
        entry = self._features_by_id.get(id(examples))
        if entry is None:  # the entry keeps the examples alive, so that their id stays theirs
            entry = examples, self.encode(examples.images)
            self._features_by_id[id(examples)] = entry
        return entry[1]

    def encode(self, images: Images) -> np.ndarray:
        """Features of images, (1, images, embed).

        Raises:
          ValueError: no images.
        """
        if not len(images):
            raise ValueError("a split to evaluate is empty")
        return np.concatenate(list(self.stream(images)), 1)

    def stream(self, images: Images) -> Iterator[np.ndarray]:
        """Features of images, in parts of shape (1, images of the part, embed).

        Features on disk are read. Images without features are encoded in whole batches.
        """
        before: tuple[_Span, jax.Array | None] | None = None
        for span in self._spans(images):
            pending = self._begun(images, span.missing)
            if before is not None:
                # The devices encoded the last span while the host read this one.
                yield self._whole(images, *before)
            before = span, pending
        if before is not None:
            yield self._whole(images, *before)

    def in_batches(self, images: Rows, encode: Callable[[PyTree], jax.Array]) -> np.ndarray:
        """Applies a function to all images in batches, (templates or 1, images, embed).

        Args:
          images: an index gives uint8 (images, size, size, 3), or rows of another form.
          encode: from a batch on the devices to its features.

        Raises:
          ValueError: no images.
        """
        total = len(images)
        if not total:
            raise ValueError("a split to evaluate is empty")
        parts = []
        for first in range(0, total, self.batch_size):
            parts.append(encode(self.batch(images.__getitem__, first, total)))
            # The devices encoded the batch before while the host read this one.
            parts[-2:-1] = jax.device_get(parts[-2:-1])
        return np.concatenate(jax.device_get(parts), 1)[:, :total]

    def batch(self, rows_of: Callable[[slice], PyTree], first: int, total: int) -> PyTree:
        """A batch on the devices, padded by its last row.

        Args:
          rows_of: from a slice to its rows.
          first: first row of the batch.
          total: number of all rows.
        """
        mine = devices.rows(self.batch_size)
        start = min(first + mine.start, total - 1)
        rows = rows_of(slice(start, max(start + 1, min(first + mine.stop, total))))
        padded = devices.pad(rows, mine.stop - mine.start)
        return devices.shard(padded, self.mesh, devices.AXES)

    def _spans(self, images: Images) -> Iterator[_Span]:
        parts: list[_Span] = []
        for first in range(0, len(images), self.batch_size):
            part = self._looked_up(images, first)
            full = sum(len(p.missing) for p in [*parts, part]) > self.batch_size
            if full or len(parts) == _SPAN:
                yield _joined(parts)
                parts = []
            parts.append(part)
        if parts:
            yield _joined(parts)

    def _looked_up(self, images: Images, first: int) -> _Span:
        """A batch of images from `first` on. Each host looks up its rows.

        Hosts may see different files. They exchange the features that they read, so that all hosts
        encode the same images.
        """
        numbers = np.arange(first, min(first + self.batch_size, len(images)))
        features = np.zeros((self.batch_size, self.backbone.sizes.embed_width), np.float32)
        present = np.zeros(self.batch_size, bool)
        if self._cache is not None:
            rows = devices.rows(self.batch_size)
            keys = content.digests(images, numbers[rows])
            mine = slice(rows.start, rows.start + len(keys))
            features[mine], present[mine] = self._cache.read(keys)
            features, present = devices.gather((features[rows], present[rows]))
        missing = numbers[~present[: len(numbers)]]
        return _Span(first, features[: len(numbers)], missing)

    def _begun(self, images: Images, numbers: np.ndarray) -> jax.Array | None:
        """Starts to encode at most a batch of images; None for no images."""
        if not len(numbers):
            return None
        self.encoded += len(numbers)
        batch = self.batch(lambda rows: images[numbers[rows]], 0, len(numbers))
        return self._encode(self.backbone, batch)

    def _whole(self, images: Images, span: _Span, encoded: jax.Array | None) -> np.ndarray:
        """The features of a span. Each host stores the features of the images that it decoded."""
        if encoded is not None:
            features = jax.device_get(encoded)[0, : len(span.missing)]
            span.features[span.missing - span.first] = features
            if self._cache is not None:
                rows = devices.rows(self.batch_size)
                keys = content.decoded_digests(images, span.missing[rows])
                self._cache.write(keys, features[rows])
        return span.features[None]


def _joined(parts: Sequence[_Span]) -> _Span:
    return _Span(
        parts[0].first,
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.missing for part in parts]),
    )


def encoder(backbone: Backbone) -> tuple[str, int]:
    """The arguments of `FeatureCache.of`: the encoder's name, and the width of its features.

    The name covers everything that a feature depends on beside the image. This includes the kind
    of device: some round products of float32 to TF32 or bfloat16, unless
    `jax_default_matmul_precision` forbids it.
    """
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    name = f"{backbone.encoder_hash()} {jax.devices()[0].device_kind} {precision}"
    return name, backbone.sizes.embed_width


class Inference:
    """Predictions of one method, compiled once for all images and class lists of a shape.

    Args:
      method: the method.
      frozen: frozen image features, and the backbone.
    """

    def __init__(self, method: Method, frozen: FrozenFeatures):
        self.method, self._frozen = method, frozen
        self._last: tuple[Learned, Backbone] | None = None  # arrays, and the backbone of `adapt`
        everywhere = devices.everywhere(frozen.mesh)

        def encode(backbone, learned, images):
            clean = views.clean_view(images, backbone.mean, backbone.std)
            return method.image_features(backbone, learned, clean[None])

        def logits(backbone, learned, class_list, image):
            image = image.swapaxes(0, 1)
            return method.forward(
                backbone, learned, class_list.classes, image, class_list.text
            ).logits

        def answer(backbone, learned, class_list, image):
            z = logits(backbone, learned, class_list, image)
            return method.predict(learned, z, class_list.scale)

        compiled = functools.partial(
            jax.jit, compiler_options=programs.options(frozen.backbone.dtype)
        )
        self._text = compiled(method.class_features, out_shardings=everywhere)
        self._encode = compiled(encode, out_shardings=everywhere)
        self._logits = compiled(logits, out_shardings=everywhere)
        self._answer = compiled(answer, out_shardings=everywhere)

    def over(self, frozen: FrozenFeatures) -> "Inference":
        """The same programs for batches of another size, or with another cache."""
        other = copy.copy(self)
        other._frozen, other._last = frozen, None
        return other

    def require_fitting(self, learned: Learned, class_list: ClassList) -> None:
        """Traces the programs for a batch. Raises what JAX raises for arrays of wrong shapes."""
        backbone = self._adapted(learned)
        rows, size = self._frozen.batch_size, backbone.sizes.image_size
        image = jax.ShapeDtypeStruct((1, rows, backbone.sizes.embed_width), jnp.float32)
        if self.method.changes_images:
            pixels = jax.ShapeDtypeStruct((rows, size, size, 3), jnp.uint8)
            image = self._encode.eval_shape(backbone, learned, pixels)
        rows_of_templates = jax.eval_shape(lambda array: array.swapaxes(0, 1), image)
        self._answer.eval_shape(backbone, learned, class_list, rows_of_templates)

    def class_list(
        self,
        learned: Learned,
        class_names: Sequence[str],
        template: Template = "",
        text: Text | None = None,
    ) -> ClassList:
        """Prepares classes. Their text features are computed once for all images.

        Args:
          learned: the method's arrays, on the mesh.
          class_names: at least two.
          template: the hand-crafted text of another task.
          text: the text features, if they were computed before.
        """
        # For an array that is not on the mesh, XLA may choose a layout that the mesh can't have.
        on_mesh = functools.partial(devices.replicate, mesh=self._frozen.mesh)
        scale = on_mesh(self.method.scale(learned, class_names))
        if text is not None:
            return ClassList(None, on_mesh(text), scale)
        backbone = self._adapted(learned)
        classes = on_mesh(self.method.classes(backbone, class_names, template))
        if self.method.reads_images:
            return ClassList(classes, None, scale)
        return ClassList(None, self._text(backbone, learned, classes), scale)

    def split(
        self, learned: Learned, examples: Examples, class_list: ClassList | None = None
    ) -> Prediction:
        """Predictions of a test split, as NumPy arrays.

        Args:
          learned: the method's arrays, on the mesh.
          examples: the split.
          class_list: the classes to tell apart; None for the split's own.
        """
        if class_list is None:
            class_list = self.class_list(learned, examples.class_names, examples.template)
        return self._answers(learned, class_list, self._features(learned, examples))

    def logits(self, learned: Learned, examples: Examples) -> np.ndarray:
        """Logits of a split among its own classes, (examples, templates, classes)."""
        class_list = self.class_list(learned, examples.class_names, examples.template)
        image = self._features(learned, examples)
        return self._in_batches(self._logits, learned, class_list, image)

    def images(self, learned: Learned, class_list: ClassList, images: Images) -> Prediction:
        """Predictions of images among prepared classes, as NumPy arrays.

        Args:
          learned: the method's arrays, on the mesh.
          class_list: of `class_list`.
          images: uint8, scaled and cropped for the backbone.
        """
        if not self.method.changes_images:
            return self._answers(learned, class_list, self._frozen.encode(images))
        return self._answers(learned, class_list, self._encoded(learned, images))

    def stream(
        self, learned: Learned, class_list: ClassList, images: Images
    ) -> Iterator[Prediction]:
        """The predictions of `images`, in parts."""
        if not self.method.changes_images:
            for features in self._frozen.stream(images):
                yield self._answers(learned, class_list, features)
            return
        size = self._frozen.batch_size
        for first in range(0, len(images), size):
            yield self.images(learned, class_list, images[first : first + size])

    def _adapted(self, learned: Learned) -> Backbone:
        """The backbone of `Method.adapt`; of the arrays that came last, it is kept."""
        if self._last is None or self._last[0] is not learned:
            self._last = learned, self.method.adapt(self._frozen.backbone, learned)
        return self._last[1]

    def _features(self, learned: Learned, examples: Examples) -> np.ndarray:
        if self.method.changes_images:
            return self._encoded(learned, examples.images)
        return self._frozen.of(examples)

    def _encoded(self, learned: Learned, images: Images) -> np.ndarray:
        backbone = self._adapted(learned)
        return self._frozen.in_batches(images, lambda batch: self._encode(backbone, learned, batch))

    def _answers(self, learned: Learned, class_list: ClassList, image: np.ndarray) -> Prediction:
        return self._in_batches(self._answer, learned, class_list, image)

    def _in_batches(
        self, program: Callable[..., PyTree], learned: Learned, class_list: ClassList,
        image: np.ndarray,
    ) -> PyTree:  # fmt: skip
        """A program's results for all images, joined, as NumPy arrays."""
        backbone = self._adapted(learned)
        rows, results = image.swapaxes(0, 1), []
        for first in range(0, len(rows), self._frozen.batch_size):
            batch = self._frozen.batch(rows.__getitem__, first, len(rows))
            results.append(jax.device_get(program(backbone, learned, class_list, batch)))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(rows)], *results)
