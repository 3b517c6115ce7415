"""Orbax checkpoints of what training changes; frozen weights are never among it."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

PyTree = Any


class Checkpoints:
    """The checkpoints of one training run, the newest of which a restart goes on from.

    Saves are asynchronous; a half-written one is never picked up, since Orbax gives a checkpoint
    its name only when it is complete.

    Args:
      path: folder of the checkpoints; made when missing.
      keep: how many of the newest are kept.
    """

    def __init__(self, path: Path | str, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(Path(path).absolute(), options=options)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: PyTree) -> None:
        """Starts saving a pytree of arrays under a step's number."""
        # Orbax takes arrays only, and a later step may overwrite what is still being written.
        state = jax.tree.map(np.array, state)
        self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, step: int, like: PyTree) -> PyTree:
        """The pytree saved at a step, with the structure, shapes and types of `like`."""
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def restore_as_numpy(self, step: int) -> PyTree:
        """The pytree saved at a step, whatever it is, as NumPy arrays."""
        metadata = self._manager.item_metadata(step)
        like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), metadata)
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        self.close()
