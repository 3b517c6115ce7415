"""The files of an image folder. Each folder in it is listed once."""

import os
from pathlib import Path

from cdc_jax.tasks import decode

SUFFIXES = decode.suffixes() | decode.HEIC_SUFFIXES
"""Ends of the names of files that are read as images, in lower case."""


def is_image(path: str) -> bool:
    """Whether a file has the suffix of an image."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


class Files:
    """The files below a root.

    The first look-up in a folder resolves and lists it. A million look-ups then cost no system
    calls.

    Args:
      root: the folder.

    Attributes:
      path: the root as the caller wrote it.
      root: the root with all links resolved.
      roots: absolute paths of `path` and of `root`.
    """

    def __init__(self, root: Path):
        self.path, self.root = root, os.path.realpath(root)
        self.roots = (os.path.abspath(root), self.root)
        self._folders: dict[str, tuple[str, dict[str, bool]]] = {}
        self._stems: dict[str, dict[str, list[str]]] = {}

    def real(self, path: str) -> str | None:
        """A path below the root with all links resolved; None if it is no regular file or link.

        Raises:
          ValueError: a link can't be followed.
        """
        parent, _, name = path.rpartition("/")
        folder, names = self._folder(parent)
        is_link = names.get(name)
        if is_link is None:
            return None
        target = f"{folder}/{name}"
        return followed(target) if is_link else target

    def alike(self, path: str) -> list[str]:
        """Paths of files whose names are a path's name and a suffix."""
        parent, slash, name = path.rpartition("/")
        if parent not in self._stems:
            stems: dict[str, list[str]] = {}
            for file in self._folder(parent)[1]:
                stems.setdefault(os.path.splitext(file)[0], []).append(file)
            self._stems[parent] = stems
        files = self._stems[parent].get(name, [])
        return sorted(f"{parent}{slash}{file}" for file in files if file != name)

    def folders(self) -> list[str]:
        """Names of the folders in the root that are not hidden."""
        entries = os.scandir(self.root)
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))

    def _folder(self, path: str) -> tuple[str, dict[str, bool]]:
        """A folder with all links resolved, and its files: name -> whether it is a link."""
        if path not in self._folders:
            real = followed(os.path.join(self.root, path)) or ""
            try:
                listed = os.scandir(real) if real else ()
                entries = {
                    entry.name: entry.is_symlink()
                    for entry in listed
                    if entry.is_symlink() or entry.is_file(follow_symlinks=False)
                }
            except NotADirectoryError:
                entries = {}
            except OSError as error:
                raise ValueError(f"{real} can't be listed: {error.strerror}") from None
            self._folders[path] = (real, entries)
        return self._folders[path]


def followed(path: str) -> str | None:
    """A path with all links resolved; None if nothing is there.

    Raises:
      ValueError: a link can't be followed.
    """
    try:
        return os.path.realpath(path, strict=True)
    except (FileNotFoundError, NotADirectoryError, UnicodeEncodeError):
        return None
    except OSError as error:
        raise ValueError(f"{path} can't be followed: {error.strerror}") from None
