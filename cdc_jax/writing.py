"""Writes files completely and to the disk, or leaves them as they were.

A file is written under another name, flushed to the disk, and then renamed. Links, pipes and
devices are never replaced. The target of a link is written in place of the link. A pipe or a device
gets the bytes. An object store writes each object completely or not at all.
"""

import contextlib
import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_text(path: str | os.PathLike[str], text: str) -> None:
    r"""Writes a text in UTF-8; what can't be encoded becomes an escape such as `\udcff`.

    Raises:
      OSError: see `writing`.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file, or an object such as `gs://bucket/name`.

    Raises:
      OSError: see `writing`.
    """
    if remote(path):
        from etils import epath  # takes a tenth of a second

        epath.Path(path).write_bytes(content)
        return
    with writing(Path(path)) as file:
        file.write(content)


def remote(path: str | os.PathLike[str]) -> bool:
    """Whether a folder or file lies in an object store."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to. An older file stays until all bytes are written.

    Raises:
      OSError: the folder is missing or not writable, the path is a folder, or the disk is full.
    """
    path = checked_path(path)
    if (number := _descriptor(path)) is not None:
        sys.stdout.flush()
        with os.fdopen(os.dup(number), "wb") as file:
            yield file
    elif path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
    else:
        with _replacing(Path(os.path.realpath(path))) as file:
            yield file


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            with contextlib.suppress(FileNotFoundError):  # it is new
                os.chmod(part, stat.S_IMODE(path.stat().st_mode))
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written to and not be read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems can't do it for folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def checked_path(path: str | Path) -> Path:
    """The path, if a file can be written there.

    Raises:
      OSError: the folder is missing or not writable. The path is a folder, a link that leads
        nowhere, or not writable.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    if path.exists() and not path.is_file():  # a pipe or a device
        if not os.access(path, os.W_OK):
            raise PermissionError(f"{path} may not be written to: name another file")
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, f"{path} is a link that leads to itself: name another file")
    if _descriptor(path) is None and not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent} to write {target.name} in")
    if _descriptor(path) is None and not os.access(target.parent, os.W_OK):
        raise PermissionError(f"{target.parent} may not be written to: name another folder")
    return path


def _descriptor(path: Path) -> int | None:
    """The number of the open file of a path such as /dev/stdout or /dev/fd/3.

    To open such a path again would begin at the start of a file that others also write to.
    """
    folders = {os.path.realpath(folder) for folder in ("/proc/self/fd", "/dev/fd")}
    for _ in range(40):  # as many links as Linux follows
        if os.path.realpath(path.parent) in folders and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None
