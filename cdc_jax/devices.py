"""The device mesh, and where arrays go on it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

PyTree = Any


def make_mesh(devices: int | None = None) -> Mesh:
    """A mesh of one axis, `data`, over which the images of a batch are split.

    Args:
      devices: how many of the devices to use; None takes all.
    """
    chosen = jax.devices()[:devices]
    return jax.make_mesh((len(chosen),), ("data",), (AxisType.Auto,), devices=chosen)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """A copy of every array on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard(batch: PyTree, mesh: Mesh) -> PyTree:
    """Splits the leading axis of every array over the mesh.

    Raises:
      ValueError: the leading axis is not a multiple of the number of devices.
    """
    for leaf in jax.tree.leaves(batch):
        if len(leaf) % mesh.size:
            raise ValueError(
                f"a batch of {len(leaf)} can't be split over {mesh.size} devices: make the batch "
                "size a multiple, or use fewer devices"
            )
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))


def pad(batch: PyTree, size: int) -> PyTree:
    """Repeats the last row of every array until there are `size` rows."""

    def padded(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.repeat(array[-1:], size - len(array), 0)])

    return jax.tree.map(padded, batch)
