"""Stops a training run before it saves values that are not finite."""

from collections.abc import Mapping, Sequence

import numpy as np

from cdc_jax.checkpoint import Checkpoints
from cdc_jax.tasks import Examples
from cdc_jax.tasks.batches import TrainingBatches


def require_finite(
    window: Sequence[Mapping[str, float]],
    done: int,
    before: int,
    batches: TrainingBatches,
    examples: Examples,
    checkpoints: Checkpoints,
) -> None:
    """Requires losses, gradients and updates to be finite.

    Args:
      window: losses of the newest steps.
      done: number of the last step in the window.
      before: number of the steps before the stage.
      batches: of the stage.
      examples: the training set.
      checkpoints: of the run. No step in the window is saved yet.

    Raises:
      FloatingPointError: a value is not finite; the message names the step, the images of its
        batch, and the last good checkpoint.
    """
    for step, losses in enumerate(window, done - len(window) + 1):
        bad = {name: value for name, value in losses.items() if not np.isfinite(value)}
        if bad:
            items = batches.indices(step - 1 - before)
            named = [examples.files[i] for i in items] if examples.files else items
            good = checkpoints.latest_step()
            raise FloatingPointError(
                f"{', '.join(f'{name} is {value}' for name, value in bad.items())} at step {step}, "
                f"a batch of the training images {named}. Nothing since was saved; the last good "
                f"checkpoint is {checkpoints.path / str(good) if good else 'the start'}: lower the "
                "learning rate, or look at these images"
            )
