"""Folders in the user's folder of caches. Processes keep files there for later processes.

All of these files may be deleted.
"""

import os
from pathlib import Path


def path(name: str) -> Path | None:
    """A folder in the folder of all caches.

    CDC_JAX_CACHE names the folder of all caches. Its default is `cdc_jax` in the user's folder of
    caches by the XDG specification.

    Args:
      name: of the folder, such as "features".

    Returns:
      The folder, which need not exist; None for a user without a home.
    """
    if named := os.environ.get("CDC_JAX_CACHE"):
        return Path(named).expanduser() / name
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(caches):
        caches = os.path.expanduser("~/.cache")
    return Path(caches, "cdc_jax", name) if os.path.isabs(caches) else None


def folder(name: str) -> Path | None:
    """The folder `path(name)`, created if need be; None if it can't be written to."""
    location = path(name)
    try:
        if location:
            location.mkdir(parents=True, exist_ok=True)
    except OSError:  # such as a read-only home
        return None
    return location if location and os.access(location, os.W_OK) else None
