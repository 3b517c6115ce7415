"""Compiled programs are kept for later processes, in the user's folder of caches."""

import os
from pathlib import Path

import jax

_LARGEST = 2**30  # bytes of all programs; those that were used least recently go first


def keep() -> None:
    """Turns JAX's persistent compilation cache on; called by scripts before they compute.

    The folder is `cdc_jax/programs` in the user's folder of caches, by the XDG specification. A
    folder that the user gave JAX stays, as by JAX_COMPILATION_CACHE_DIR; nothing is kept with
    JAX_ENABLE_COMPILATION_CACHE=false, or where the folder can't be written to.
    """
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(caches):
        caches = os.path.expanduser("~/.cache")
    folder = Path(caches, "cdc_jax", "programs")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home, or none: every process compiles for itself
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
