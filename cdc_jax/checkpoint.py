"""Orbax checkpoints of the state of training. They hold no frozen weights."""

import copy
import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from cdc_jax import devices
from cdc_jax.escaping import reason, visible

PyTree = Any

KEPT = 2
"""Number of complete checkpoints that are kept while a further one is written."""


_DIGEST = "sha256"  # key of the notes; older releases wrote no digest


class Checkpoints:
    """The checkpoints of one training run. A restart goes on from the newest one.

    Saves are asynchronous. A half-written checkpoint is never restored: Orbax names a checkpoint
    when it is complete, and the next save removes the files of a killed run. A digest of the arrays
    reveals later damage. Checkpoints hold whole arrays, so that another number of devices or hosts
    can go on. All processes must call the methods; process 0 writes.

    Args:
      path: folder of the checkpoints, which all hosts reach; created if need be.
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
        """The step of the newest complete checkpoint; None without a checkpoint."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def save(self, step: int, state: PyTree, notes: Mapping[str, Any] | None = None) -> None:
        """Starts saving a state under a step's number.

        Args:
          step: number of steps done.
          state: pytree of arrays, the same on every device.
          notes: further values for a restart, of JSON's types.

        Raises:
          OSError: this save can't begin, or the save before it failed.
        """
        # Orbax takes arrays only, and a later step may change what is still being written.
        state = jax.tree.map(np.array, state)
        notes = copy.deepcopy(dict(notes or {})) | {_DIGEST: _digest(state)}
        items = {"state": ocp.args.StandardSave(state), "notes": ocp.args.JsonSave(notes)}
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore_newest(
        self, like: Callable[[int], PyTree]
    ) -> tuple[int, PyTree, dict[str, Any]] | None:
        """The newest whole checkpoint; None without a checkpoint.

        A damaged checkpoint is removed if an older one is whole. A line on stderr says so.

        Args:
          like: from the step of a checkpoint to the argument `like` of `restore`.

        Returns:
          Its step, and the result of `restore`.

        Raises:
          ValueError: no checkpoint can be restored; the message is about the newest.
        """
        self._manager.wait_until_finished()
        steps = sorted(self._manager.all_steps(), reverse=True)
        errors: list[ValueError] = []
        for step in steps:
            try:
                state, notes = self.restore(step, like(step))
            except ValueError as error:
                errors.append(error)
                continue
            for damaged in steps[: len(errors)]:
                self._manager.delete(damaged)
            if errors and devices.is_first():
                message = f"{errors[0]}; the run goes on from the checkpoint of step {step}"
                print(visible(message), file=sys.stderr, flush=True)
            return step, state, notes
        if errors:
            raise errors[0]
        return None

    def restore(self, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """The state as NumPy arrays, and the notes, of a step.

        Args:
          step: number of the checkpoint.
          like: pytree of arrays with the structure, shapes and types to expect.

        Raises:
          ValueError: the checkpoint is damaged, or holds another state.
        """
        like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        items = {"state": ocp.args.StandardRestore(like), "notes": ocp.args.JsonRestore()}
        path = self.path / str(step)
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
            chex.assert_trees_all_equal_shapes_and_dtypes(restored["state"], like)
        except (AssertionError, KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(
                f"{path} does not hold what this run saves: it is damaged or was written by "
                f"another release, delete the run's folder ({reason(error)})"
            ) from error
        state, notes = restored["state"], dict(restored["notes"])
        if notes.pop(_DIGEST, None) not in (None, _digest(state)):
            raise ValueError(f"{path} is damaged: its arrays are not those that were saved")
        return state, notes

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def _digest(state: PyTree) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return digest.hexdigest()
