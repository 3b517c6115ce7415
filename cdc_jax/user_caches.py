"""What processes keep for later ones, in the user's folder of caches; all of it may be deleted."""

import os
from pathlib import Path


def folder(name: str) -> Path | None:
    """A folder in `cdc_jax` in the user's folder of caches, by the XDG specification.

    Args:
      name: of the folder, which is created if need be.

    Returns:
      The folder; None where it can't be written to, as on a read-only home.
    """
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(caches):
        caches = os.path.expanduser("~/.cache")
    if not os.path.isabs(caches):  # the user has no home
        return None
    path = Path(caches, "cdc_jax", name)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return path if os.access(path, os.W_OK) else None
