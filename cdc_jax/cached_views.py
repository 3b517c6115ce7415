"""Cached views: image features of a few views of each image, encoded before a stage trains.

For a method that does not change image features, a step with fresh views spends nearly all of its
time in the frozen image tower. With cached views the tower runs before the first step, in the
large batches of evaluation. No step runs the tower.
"""

import functools
from collections.abc import Callable, Collection

import jax
import numpy as np
from jaxtyping import Float, Int

from cdc_jax import devices, optimizer, programs, views
from cdc_jax.backbone import Backbone
from cdc_jax.inference import FrozenFeatures
from cdc_jax.methods import Stage
from cdc_jax.step import Phase
from cdc_jax.tasks import Examples
from cdc_jax.tasks.batches import Batch, read_images
from cdc_jax.views.compose import ViewFunction

_NO_STEP = 2**31 - 1  # no training has as many steps


def count(stage: Stage, label_properties: Collection[str], per_epoch: int) -> int:
    """Number of views of each image to cache for a stage; 0 makes views in the step.

    Args:
      stage: its method's setting `cached_views` is the number of views, but at most the number of
        epochs counts. Views without random draws are always cached, one view of each image.
      label_properties: see `views.build`.
      per_epoch: steps of an epoch.
    """
    method = stage.method
    if method.changes_images:
        return 0
    if not views.are_random(
        method.config.views,
        templates=method.templates,
        label_properties=label_properties,
        further=method.further_views,
    ):
        return 1
    epochs = -(-optimizer.steps(stage.optimizer, per_epoch) // per_epoch)
    return min(method.config.cached_views, epochs)


class ViewRows:
    """The arguments of the view function: a row for each view. An example's rows adjoin.

    Args:
      examples: the images.
      steps: the step whose view each view is, (examples, views).
    """

    def __init__(self, examples: Examples, steps: Int[np.ndarray, "examples views"]):
        self._images, self._steps, self._views = examples.images, steps, steps.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of examples, and of views of each."""
        return len(self._steps), self._views

    def __len__(self) -> int:
        return self._steps.size

    def __getitem__(self, rows: slice) -> Batch:
        numbers = np.arange(len(self), dtype=np.int32)[rows]
        indices = numbers // self._views
        # A photograph is decoded once for all of its views.
        different, which = np.unique(indices, return_inverse=True)
        batch = read_images(self._images, different)
        repeated = {key: values[which] for key, values in batch.items()}
        return repeated | {"indices": indices, "steps": self._steps.ravel()[numbers]}


def view_rows(phase: Phase) -> ViewRows:
    """The cached views of a stage: view v of an example is the fresh view of epoch v.

    An example that epoch v leaves out gets the view of the epoch's last batch.
    """
    of_epochs = [phase.batches.steps(epoch) for epoch in range(phase.cached_views)]
    return ViewRows(phase.examples, phase.first + np.stack(of_epochs, 1))


def batches(phase: Phase, frozen: FrozenFeatures) -> int:
    """Number of batches in which `encode` encodes the cached views of a stage."""
    return -(-phase.cached_views * len(phase.examples) // frozen.batch_size)


def encoder(
    make_views: ViewFunction, seed: int, raw: bool = False
) -> Callable[[Backbone, dict[str, jax.Array]], jax.Array]:
    """The function that encodes a batch of `ViewRows`, to be jitted.

    Args:
      make_views: the view function.
      seed: of the views.
      raw: whether features keep their norms.

    Returns:
      (backbone, batch) -> features, (templates or 1, batch, embed).
    """

    def features(backbone: Backbone, batch: dict[str, jax.Array]) -> jax.Array:
        def one(step, index, image, aspect_ratio):
            aspect_ratios = None if aspect_ratio is None else aspect_ratio[None]
            example_views = make_views(
                np.uint32(seed), step, index[None], image[None], aspect_ratios
            )
            return example_views[:, 0]

        arguments = (batch["steps"], batch["indices"], batch["images"], batch.get("aspect_ratios"))
        # One template at a time: activations take no more memory than those of evaluation.
        encode = functools.partial(backbone.encode_images, raw=raw)
        return jax.lax.map(encode, jax.vmap(one, out_axes=1)(*arguments))

    return features


def encode(
    phase: Phase, seed: int, frozen: FrozenFeatures, before_batch: Callable[[], None]
) -> Float[np.ndarray, "examples views templates_or_1 embed"]:
    """Encodes the cached views of a stage.

    Args:
      phase: the stage.
      seed: of the views.
      frozen: encodes the batches, each host its share.
      before_batch: called before each batch; may stop the encoding by an exception.

    Returns:
      Frozen features of view v of each example in host memory, for `TrainingBatches.of_features`.
    """
    return _encode(view_rows(phase), encoder(phase.make_views, seed), frozen, before_batch)


class RawViews:
    """Raw features of views of the shots, for `Support`. Each set of views is encoded once.

    Views without random draws are all alike. Random draws differ from the draws of all training
    steps.

    Args:
      examples: the shots.
      seed: of the views.
      frozen: encodes the batches, each host its share.
      label_properties: see `views.build`.
      before_batch: called before each batch; may stop the encoding by an exception.
    """

    def __init__(
        self,
        examples: Examples,
        seed: int,
        frozen: FrozenFeatures,
        label_properties: Collection[str],
        before_batch: Callable[[], None],
    ):
        self._examples, self._seed, self._frozen = examples, seed, frozen
        self._label_properties, self._before_batch = label_properties, before_batch
        self._encoded: dict[tuple[str, int], np.ndarray] = {}

    def __call__(self, composition: str, count: int) -> Float[np.ndarray, "examples views embed"]:
        """See `Support.raw_views`."""
        if (composition, count) not in self._encoded:
            backbone = self._frozen.backbone
            make_views = views.build(
                composition,
                templates=1,
                size=backbone.sizes.image_size,
                mean=backbone.mean,
                std=backbone.std,
                label_properties=self._label_properties,
            )
            steps = np.broadcast_to(_NO_STEP - np.arange(count), (len(self._examples), count))
            rows = ViewRows(self._examples, steps.astype(np.int32))
            encode = encoder(make_views, self._seed, raw=True)
            features = _encode(rows, encode, self._frozen, self._before_batch)
            self._encoded[composition, count] = features[:, :, 0]
        return self._encoded[composition, count]


def _encode(
    rows: ViewRows,
    encode: Callable[[Backbone, dict[str, jax.Array]], jax.Array],
    frozen: FrozenFeatures,
    before_batch: Callable[[], None],
) -> Float[np.ndarray, "examples views templates_or_1 embed"]:
    compiled = jax.jit(
        encode,
        out_shardings=devices.everywhere(frozen.mesh),
        compiler_options=programs.options(frozen.backbone.dtype),
    )

    def encode_batch(batch):
        before_batch()
        return compiled(frozen.backbone, batch)

    features = frozen.in_batches(rows, encode_batch)
    shape = (len(features), *rows.shape, features.shape[-1])
    return np.ascontiguousarray(np.moveaxis(features.reshape(shape), 0, 2))
