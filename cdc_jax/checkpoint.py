"""Orbax checkpoints of what training changes; frozen weights are never among it."""

import copy
from collections.abc import Mapping
from typing import Any

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

PyTree = Any

KEPT = 2
"""So many of the newest checkpoints are kept, while a further one is written."""


class Checkpoints:
    """The checkpoints of one training run, the newest of which a restart goes on from.

    Saves are asynchronous; a half-written one is never picked up, since Orbax gives a checkpoint
    its name only when it is complete, and what a killed run left is removed before the next save.
    Arrays are whole in them, whatever the devices were, so that another number of devices or hosts
    can go on. Of several processes all must call; process 0 writes.

    Args:
      path: folder of the checkpoints, which all hosts reach; made when missing.
    """

    def __init__(self, path: epath.PathLike):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, create=True, cleanup_tmp_directories=True
        )
        self.path = epath.Path(path).expanduser()
        if not self.path.is_absolute():  # a bucket's is: of it, etils would make a local folder
            self.path = self.path.absolute()
        self._manager = ocp.CheckpointManager(self.path, options=options)

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, None where there is none."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def save(self, step: int, state: PyTree, notes: Mapping[str, Any] | None = None) -> None:
        """Starts saving a state under a step's number.

        Args:
          step: number of steps done.
          state: pytree of arrays, the same on every device.
          notes: what else a restart needs, in types that JSON has.

        Raises:
          OSError: this save could not be begun, or the one before it not be finished.
        """
        # Orbax takes arrays only, and a later step may change what is still being written.
        state, notes = jax.tree.map(np.array, state), copy.deepcopy(notes or {})
        items = {"state": ocp.args.StandardSave(state), "notes": ocp.args.JsonSave(notes)}
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """What was saved at a step: the state as NumPy arrays, and the notes.

        Args:
          step: number of the checkpoint.
          like: pytree of arrays with the structure, shapes and types to expect.

        Raises:
          ValueError: something else was saved.
        """
        like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        items = {"state": ocp.args.StandardRestore(like), "notes": ocp.args.JsonRestore()}
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
            chex.assert_trees_all_equal_shapes_and_dtypes(restored["state"], like)
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.path / str(step)} does not hold what this run saves: it was written by "
                f"another release, delete the run's folder ({error})"
            ) from error
        return restored["state"], restored["notes"]

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
