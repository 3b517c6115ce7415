"""Compiled programs are kept for later processes, in the user's folder of caches."""

import jax

from cdc_jax import user_caches

_LARGEST = 2**30  # bytes of all programs; those that were used least recently go first
_SHORTEST = 0.2  # seconds of compilation below which a program is compiled again


def keep() -> None:
    """Turns JAX's persistent compilation cache on; scripts call it before they compute.

    The folder is `cdc_jax/programs` in the user's folder of caches. A folder that the user gave
    JAX stays, as by JAX_COMPILATION_CACHE_DIR. JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    if folder := user_caches.folder("programs"):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", _LARGEST)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST)
