"""Cached views: image features of a few views of each image, encoded before a stage trains.

For a method that does not change image features, a step with fresh views spends nearly all of its
time in the frozen image tower. With cached views the tower runs before the first step, in the
large batches of evaluation. No step runs the tower.
"""

from collections.abc import Callable, Collection

import jax
import numpy as np
from jaxtyping import Float

from cdc_jax import devices, programs, views
from cdc_jax.backbone import Backbone
from cdc_jax.inference import FrozenFeatures
from cdc_jax.methods import Stage
from cdc_jax.step import Phase
from cdc_jax.tasks import Examples
from cdc_jax.tasks.batches import Batch, TrainingBatches, read_images


def count(stage: Stage, label_properties: Collection[str]) -> int:
    """Number of views of each image to cache for a stage; 0 makes views in the step.

    Args:
      stage: its method's setting `cached_views` is the number of views, but at most the number of
        epochs counts. Views without random draws are always cached, one view of each image.
      label_properties: see `views.build`.
    """
    method = stage.method
    if method.changes_images:
        return 0
    if not views.are_random(
        method.config.views, templates=method.templates, label_properties=label_properties
    ):
        return 1
    return min(method.config.cached_views, stage.optimizer.epochs)


class ViewRows:
    """The arguments of the view function: a row for each cached view. An example's rows adjoin.

    View v of an example is the fresh view of epoch v. An example that epoch v leaves out gets the
    view of the epoch's last batch.

    Args:
      examples: the training set.
      batches: of the examples.
      first: number of the steps before the stage.
      count: number of views of each example.
    """

    def __init__(self, examples: Examples, batches: TrainingBatches, first: int, count: int):
        self._images, self._views = examples.images, count
        # Shape (examples, views).
        self._steps = first + np.stack([batches.steps(epoch) for epoch in range(count)], 1)

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


def batches(phase: Phase, frozen: FrozenFeatures) -> int:
    """Number of batches in which `encode` encodes the cached views of a stage."""
    return -(-phase.cached_views * len(phase.examples) // frozen.batch_size)


def encoder(phase: Phase, seed: int) -> Callable[[Backbone, dict[str, jax.Array]], jax.Array]:
    """The function that encodes a batch of `ViewRows`, to be jitted.

    Args:
      phase: the stage.
      seed: of the views.

    Returns:
      (backbone, batch) -> features, (templates or 1, batch, embed).
    """

    def features(backbone: Backbone, batch: dict[str, jax.Array]) -> jax.Array:
        def one(step, index, image, aspect_ratio):
            aspect_ratios = None if aspect_ratio is None else aspect_ratio[None]
            example_views = phase.make_views(
                np.uint32(seed), step, index[None], image[None], aspect_ratios
            )
            return example_views[:, 0]

        arguments = (batch["steps"], batch["indices"], batch["images"], batch.get("aspect_ratios"))
        # One template at a time: activations take no more memory than those of evaluation.
        return jax.lax.map(backbone.encode_images, jax.vmap(one, out_axes=1)(*arguments))

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
    rows = ViewRows(phase.examples, phase.batches, phase.first, phase.cached_views)
    compiled = jax.jit(
        encoder(phase, seed),
        out_shardings=devices.everywhere(frozen.mesh),
        compiler_options=programs.options(frozen.backbone.dtype),
    )

    def encode_batch(batch):
        before_batch()
        return compiled(frozen.backbone, batch)

    features = frozen.in_batches(rows, encode_batch)
    shape = (len(features), len(phase.examples), phase.cached_views, features.shape[-1])
    return np.ascontiguousarray(np.moveaxis(features.reshape(shape), 0, 2))
