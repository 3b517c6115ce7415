"""Orbax checkpoints of what training changes; frozen weights are never among it."""

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
"""So many of the newest checkpoints are kept, while a further one is written."""


_DIGEST = "sha256"  # among the notes; older releases kept none


class Checkpoints:
    """The checkpoints of one training run, the newest of which a restart goes on from.

    Saves are asynchronous; a half-written one is never picked up, since Orbax gives a checkpoint
    its name only when it is complete, and what a killed run left is removed before the next save.
    A digest of the arrays tells one that a disk lost or changed afterwards.
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
        state = jax.tree.map(np.array, state)
        notes = copy.deepcopy(dict(notes or {})) | {_DIGEST: _digest(state)}
        items = {"state": ocp.args.StandardSave(state), "notes": ocp.args.JsonSave(notes)}
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore_newest(
        self, like: Callable[[int], PyTree]
    ) -> tuple[int, PyTree, dict[str, Any]] | None:
        """The newest whole checkpoint; None where there is none at all.

        One that can't be read is removed, and said, if an older one can be.

        Args:
          like: from the number of a checkpoint to what `restore` expects of it.

        Returns:
          Its step, and what `restore` returns.

        Raises:
          ValueError: none can be restored; the message is that of the newest.
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
        """What was saved at a step: the state as NumPy arrays, and the notes.

        Args:
          step: number of the checkpoint.
          like: pytree of arrays with the structure, shapes and types to expect.

        Raises:
          ValueError: it is damaged, or something else was saved.
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
