"""The training step: the state that it changes, and the fixed settings of a stage."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cdc_jax import devices, methods
from cdc_jax.backbone import Backbone
from cdc_jax.methods import Learned, Stage
from cdc_jax.tasks import Examples
from cdc_jax.tasks.batches import TrainingBatches
from cdc_jax.views.compose import ViewFunction

PyTree = Any
State = dict[str, Any]
Step = Callable[..., tuple[State, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stage of training on a task.

    Attributes:
      stage: of the method.
      examples: the training set.
      batches: of the examples.
      update: the optimiser.
      make_views: the view function.
      first: number of the steps before this stage.
      steps: number of the steps of this stage.
      cached_views: number of views of each image whose features are computed before the first
        step; 0 makes views in the step.
    """

    stage: Stage
    examples: Examples
    batches: TrainingBatches
    update: optax.GradientTransformation
    make_views: ViewFunction
    first: int
    steps: int
    cached_views: int = 0

    @property
    def end(self) -> int:
        """Number of all steps at the end of this stage."""
        return self.first + self.steps


def initial_state(
    stage: Stage,
    update: optax.GradientTransformation,
    trained: dict[str, PyTree],
    step: int = 0,
) -> State:
    """The state of training: trained parts, optimiser, step; of some stages an average or best."""
    moving, _ = stage.split(trained)
    state = {
        "trained": trained,
        "optimizer": update.init(moving),
        "step": jnp.asarray(step, jnp.int32),
    }
    if stage.average:
        state["average"] = jax.tree.map(jnp.zeros_like, trained)
    if stage.best:
        state["best"] = stage.best.initial(trained)
    return state


def make_step(phase: Phase, seed: int, axis: str | None = None) -> Step:
    """The training step, to be jitted: only the parts that the stage trains are differentiated.

    Args:
      phase: the stage, with its optimiser and views.
      seed: of the views.
      axis: name of the axis of `jax.pmap`, if that runs it: each device has its share of the
        images, gradients and losses are means over them.

    Returns:
      (state, backbone, fixed, classes, batch, validation) -> (state, losses by name and the norms
      of gradient and update). With cached views the batch holds their `features`, and no image is
      encoded. `validation` holds frozen `features` (1, images, embed) and `labels` for a stage that
      keeps its best parts; without it the last parts are kept.
    """
    stage, method = phase.stage, phase.stage.method
    traced_seed = np.uint32(seed)  # as a plain number it would have to be below 2^31

    def step(
        state: State,
        backbone: Backbone,
        fixed: PyTree,
        classes: PyTree,
        batch: dict[str, jax.Array],
        validation: dict[str, jax.Array] | None = None,
    ):
        views = features = None
        if phase.cached_views:
            features = devices.split(batch["features"].swapaxes(0, 1), "model", "data")
        else:
            images = phase.make_views(
                traced_seed,
                state["step"],
                batch["indices"],
                batch["images"],
                batch.get("aspect_ratios"),
            )
            views = devices.split(images, "model", "data")
        moving, resting = stage.split(state["trained"])
        done = state["step"] - phase.first

        def objectives(moving):
            learned = Learned(moving | resting, fixed)
            progress = done / phase.steps
            labels = batch["labels"]
            arguments = (method, backbone, learned, classes, views, labels, progress, features)
            return methods.objectives(*arguments, step=done, seed=traced_seed)

        sums, pull_back, losses = jax.vjp(objectives, moving, has_aux=True)
        by_group = {group: pull_back(_only(group, sums))[0] for group in sums}
        if axis is not None:
            by_group, losses = jax.lax.pmean((by_group, losses), axis)
        gradients = stage.gradient(by_group)
        updates, optimizer_state = phase.update.update(gradients, state["optimizer"], moving)
        losses["gradient_norm"] = optax.tree.norm(gradients)
        losses["update_norm"] = optax.tree.norm(updates)
        trained = optax.apply_updates(moving, updates) | resting
        new = {"trained": trained, "optimizer": optimizer_state, "step": state["step"] + 1}
        if stage.average:
            epoch, within = jnp.divmod(done + 1, phase.batches.per_epoch)
            weight = jnp.where(within == 0, jnp.asarray(stage.average)[epoch - 1], 0.0)
            new["average"] = jax.tree.map(
                lambda mean, value: mean + weight * value, state["average"], trained
            )
        if stage.best:
            new["best"] = state["best"]
        if stage.best and validation is not None:
            images, labels = validation["features"], validation["labels"]

            def check():
                learned = Learned(trained, fixed)
                logits = method.forward(backbone, learned, classes, images).logits
                correct = method.predict(learned, logits).predicted == labels
                return correct.sum(dtype=jnp.int32)

            per_epoch = phase.batches.per_epoch
            new["best"] = stage.best.keep(done + 1, per_epoch, check, state["best"], trained)
        return new, losses

    return step


def _only(group: str, sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The cotangent whose product with the derivative is the gradient of one group."""
    return {name: jnp.full_like(value, name == group) for name, value in sums.items()}
