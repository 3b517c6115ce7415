"""Devices and hosts: the start of a run, the placement of arrays, the work of process 0."""

import contextlib
import functools
import importlib.util
import itertools
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

PyTree = Any
P = ParamSpec("P")

AXES = ("data", "model")
_START_SECONDS = 300  # for all processes to find each other
_FIRST_SECONDS = 3600  # for what process 0 does while the others wait, such as a download
_EXIT_SECONDS = 60  # for the others to follow one that ends
_MESSAGE = 4096  # bytes
_entered = itertools.count()


def start(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins the processes of a run, one a host or one a GPU; called before anything is computed.

    A run of one process needs no call, and a second call does nothing. A missing argument is read
    from CDC_COORDINATOR, CDC_PROCESSES or CDC_PROCESS. TPU hosts, and the tasks of a Slurm or Open
    MPI step, need no arguments.

    Args:
      coordinator: host:port of process 0, with a port that is free there. "auto" lets JAX find the
        processes of TPU pods, Slurm, Open MPI and Kubernetes.
      processes: number of processes.
      process: number of this process, from 0.

    Raises:
      ValueError: some but not all arguments are missing, or an argument has an impossible value.
    """
    if jax.distributed.is_initialized():
        return
    coordinator = coordinator or os.environ.get("CDC_COORDINATOR")
    processes = _number(processes, "CDC_PROCESSES")
    process = _number(process, "CDC_PROCESS")
    join = functools.partial(
        jax.distributed.initialize,
        initialization_timeout=_START_SECONDS,
        shutdown_timeout_seconds=_EXIT_SECONDS,
    )
    if coordinator == "auto" or (coordinator is None and _in_cluster()):
        join()
        return
    if coordinator is None and processes is None and process is None:
        return
    if coordinator is None or processes is None or process is None:
        raise ValueError(
            "several processes need all of coordinator (host:port of process 0), processes (how "
            f"many) and process (this one's number); got {coordinator}, {processes}, {process}"
        )
    if not coordinator.rpartition(":")[2].isdecimal() or not 0 <= process < processes:
        raise ValueError(
            "expected coordinator as host:port and 0 <= process < processes, got "
            f"{coordinator}, process {process} of {processes}"
        )
    join(coordinator, processes, process)


def _number(value: int | None, variable: str) -> int | None:
    text = os.environ.get(variable)
    if value is not None or text is None:
        return value
    if not text.isdecimal():
        raise ValueError(f"{variable} must be a number, got {text!r}")
    return int(text)


def _in_cluster() -> bool:
    """Whether this is one of several tasks of a step, or a TPU host."""
    tasks = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    if any(int(os.environ.get(name, 1)) > 1 for name in tasks):
        return True
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev").glob("vfio/[0-9]*")]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def is_first() -> bool:
    """Whether this is process 0, which logs and writes."""
    return jax.process_index() == 0


def first_only(function: Callable[P, None]) -> Callable[P, None]:
    """Runs the function on process 0 only."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        if is_first():
            function(*args, **kwargs)

    return wrapped


@contextlib.contextmanager
def first_goes_first() -> Iterator[None]:
    """Other processes enter after process 0 has left, and use the files that it downloaded.

    Raises:
      RuntimeError: process 0 needed more than an hour.
    """
    from orbax.checkpoint import multihost  # takes a second, and predictions need none of it

    barrier = functools.partial(
        multihost.get_barrier_sync_fn(),
        key=f"first_goes_first {next(_entered)}",  # a name serves once
        timeout_ms=1000 * _FIRST_SECONDS,
    )
    if not is_first():
        barrier()
    try:
        yield
    finally:
        if is_first():
            barrier()


def first_decides(check: Callable[[], None]) -> None:
    """Process 0 calls the function. If it raises, all processes raise, so that none waits.

    Raises:
      ValueError, OSError: the error of `check`. On other processes a ValueError with its message.
    """
    error, message = None, b""
    if is_first():
        try:
            check()
        except (ValueError, OSError) as raised:
            error, message = raised, str(raised).encode(errors="backslashreplace")[:_MESSAGE]
    buffer = np.frombuffer(message.ljust(_MESSAGE, b"\0"), np.uint8)
    problem = bytes(multihost_utils.broadcast_one_to_all(buffer)).rstrip(b"\0")
    if error is not None:
        raise error
    if problem:
        raise ValueError(problem.decode(errors="replace"))


def require_shared(file: epath.Path) -> None:
    """Raises ValueError on all processes if one of them does not see a file of process 0."""
    visible = multihost_utils.process_allgather(np.array([file.exists()])).ravel()
    if not visible.all():
        raise ValueError(
            f"processes {np.flatnonzero(~visible).tolist()} do not see {file}: all hosts need the "
            "same --workdir, on a network disk or in a bucket (gs://…)"
        )


def make_mesh(devices: int | None = None, images: int | None = None) -> Mesh:
    """A mesh of two axes, `data` x `model`.

    The images of a batch are split over `data`, their views over `model`, classes over both. With
    one view, `model` repeats the image side: it is longer than 1 only where a batch has fewer
    images than there are devices, or a number that they do not divide.

    Args:
      devices: number of devices to use; None takes all.
      images: number of images in a batch. The length of `data` divides it. None puts all devices
        on `data`.
    """
    # By process, so that a host's rows of a batch lie side by side.
    mesh_devices = sorted(jax.devices(), key=lambda device: device.process_index)[:devices]
    data = len(mesh_devices) if images is None else math.gcd(images, len(mesh_devices))
    return Mesh(np.array(mesh_devices).reshape(data, -1), AXES, (AxisType.Auto,) * 2)


def everywhere(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """A copy on every device of arrays that every process has."""
    sharding = everywhere(mesh)

    def copy(leaf):
        host = np.asarray(leaf)
        return jax.make_array_from_process_local_data(sharding, host, host.shape)

    return jax.tree.map(copy, tree)


def rows(images: int) -> slice:
    """This process's share of a batch. The number of processes must divide the batch."""
    share = images // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def gather(share: PyTree) -> PyTree:
    """Gathers the `rows` of every process. Each process gets the whole arrays, in NumPy."""
    if jax.process_count() == 1:
        return share
    return multihost_utils.process_allgather(share, tiled=True)


def shard(batch: PyTree, mesh: Mesh, axes: str | tuple[str, ...] = "data") -> PyTree:
    """Global arrays from the `rows` of every process. The leading axis is split over `axes`."""
    sharding = NamedSharding(mesh, PartitionSpec(axes))
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), batch)


def split(array: jax.Array | np.ndarray, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """Inside jit: splits an array's leading axes over axes of the mesh in `jax.set_mesh`.

    The compiler pads an axis that the mesh does not divide. Without axes the array is whole on
    every device. Arguments from outside jit are best split so at first: for those that are not on
    the mesh, XLA may otherwise choose a padded layout, which JAX refuses. Without such a mesh, or
    under `jax.pmap`, which has its own mesh, the array stays as it is.
    """
    if jax.sharding.get_abstract_mesh().axis_names != AXES:
        return jnp.asarray(array)
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*axes))


def sharers() -> int:
    """Number of devices among which `split` divides an array over all axes."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.size if mesh.axis_names == AXES else 1


def pad(batch: PyTree, size: int) -> PyTree:
    """Repeats the last row of every array until there are `size` rows."""

    def padded(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.repeat(array[-1:], size - len(array), 0)])

    return jax.tree.map(padded, batch)
