"""Options of compilation, and the cache of compiled programs for later processes."""

import functools
import platform
import warnings
from pathlib import Path
from typing import Any

import filelock
import jax

from cdc_jax import user_caches

_LARGEST = 2**30  # bytes of all programs; those that were used least recently go first
_SHORTEST = 0.2  # seconds of compilation below which a program is compiled again

_ONEDNN = {
    "xla_cpu_use_onednn": True,
    "xla_cpu_experimental_onednn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
}


def options(dtype: str) -> dict[str, Any] | None:
    """Options for `jax.jit` of a program that runs a backbone.

    On x86 CPUs with AMX, oneDNN computes products of bfloat16. XLA's own products take about twice
    as long there. XLA offers oneDNN from JAX 0.12 on. It can't write such programs to a file, so
    that the cache does not hold them.

    Args:
      dtype: of the weights.
    """
    if dtype == "bfloat16" and jax.default_backend() == "cpu" and _has_fast_onednn():
        warnings.filterwarnings("ignore", "(?s)Error writing persistent compilation cache.*onednn")
        return _ONEDNN
    return None


@functools.cache
def _has_fast_onednn() -> bool:
    cpu = Path("/proc/cpuinfo")
    return (
        jax.__version_info__ >= (0, 12)
        and platform.machine() == "x86_64"
        and cpu.exists()
        and "amx_bf16" in cpu.read_text()
    )


def keep() -> None:
    """Turns JAX's persistent compilation cache on; scripts call it before they compute.

    The folder is `cdc_jax/programs` in the user's folder of caches. If the user has set a folder
    for JAX, such as by JAX_COMPILATION_CACHE_DIR, that folder stays.
    JAX_ENABLE_COMPILATION_CACHE=false turns the cache off.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    if folder := user_caches.folder("programs"):
        try:
            discard_unfinished(folder)
        except OSError:  # a folder without locks, or locked for long: JAX could not use it either
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", _LARGEST)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST)


def discard_unfinished(folder: Path) -> None:
    """Removes the programs that a process was writing when it was killed.

    JAX writes a program and then, under the same lock, the time of its last use. A program without
    that time may be cut short, and keeps JAX before 0.12 from writing any other.

    Args:
      folder: a persistent compilation cache of bounded size.

    Raises:
      OSError: the folder can't be locked.
    """
    with filelock.FileLock(folder / ".lockfile", timeout=10):
        for program in folder.glob("*-cache"):
            used = program.with_name(program.name.removesuffix("-cache") + "-atime")
            if not used.exists():
                program.unlink()
