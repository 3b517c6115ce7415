"""Where the images of a folder are: its folders are listed once each, whatever they hold."""

import os
from pathlib import Path

from cdc_jax.tasks import decode

SUFFIXES = decode.suffixes() | decode.HEIC_SUFFIXES
"""Ends of the names of files that are read as images, in lower case."""


def is_image(path: str) -> bool:
    """Whether a file is called as an image is."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


class Files:
    """The files below a root.

    A folder is followed and listed when it is first asked for, so that a million paths cost as
    many look-ups and no system call each.

    Args:
      root: the folder.

    Attributes:
      path: the root as the caller wrote it.
      root: where it leads in the end.
      roots: absolute paths of the root, as it was given and where it leads.
    """

    def __init__(self, root: Path):
        self.path, self.root = root, os.path.realpath(root)
        self.roots = (os.path.abspath(root), self.root)
        self._folders: dict[str, tuple[str, dict[str, bool]]] = {}
        self._stems: dict[str, dict[str, list[str]]] = {}

    def real(self, path: str) -> str | None:
        """Where a path below the root leads in the end; None where no regular file or link is.

        Raises:
          ValueError: a link that can't be followed.
        """
        parent, _, name = path.rpartition("/")
        folder, names = self._folder(parent)
        is_link = names.get(name)
        if is_link is None:
            return None
        target = f"{folder}/{name}"
        return followed(target) if is_link else target

    def alike(self, path: str) -> list[str]:
        """Paths of files that are called as a path is, with a suffix added."""
        parent, slash, name = path.rpartition("/")
        if parent not in self._stems:
            stems: dict[str, list[str]] = {}
            for file in self._folder(parent)[1]:
                stems.setdefault(os.path.splitext(file)[0], []).append(file)
            self._stems[parent] = stems
        files = self._stems[parent].get(name, [])
        return sorted(f"{parent}{slash}{file}" for file in files if file != name)

    def folders(self) -> list[str]:
        """Names of the folders in the root, without hidden ones."""
        entries = os.scandir(self.root)
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))

    def _folder(self, path: str) -> tuple[str, dict[str, bool]]:
        """Where a folder leads in the end, and its regular files and links: name -> is a link."""
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
    """Where a path leads in the end; None where nothing is.

    Raises:
      ValueError: a link that can't be followed.
    """
    try:
        return os.path.realpath(path, strict=True)
    except (FileNotFoundError, NotADirectoryError, UnicodeEncodeError):
        return None
    except OSError as error:
        raise ValueError(f"{path} can't be followed: {error.strerror}") from None
