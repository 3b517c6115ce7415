"""Image features on disk: an image is encoded once for all runs that share a folder.

Each encoder (weights, dtype, settings, kind of device) has a folder. In it each image has a key,
the digest of its content. A changed image or model has another key, so nothing stale is ever read.
Features that are read are the bits that were written. Features that are encoded in batches of
another size differ from them by rounding.

Every batch becomes one file, whose name is the digest of its bytes. The file gets its name when it
is whole, and its bytes are checked against the name before a feature is used. Any number of
processes and hosts may therefore write at once, and be killed at any moment. Small files are
merged. When all files together exceed the bound, the least recently used files are removed.

A file holds `_HEAD`, a key of 32 bytes for each image, and the features: little-endian float32 of
shape (images, width). The digests detect damage, but no forgery: a user who may write to the folder
can change what others read.
"""

import contextlib
import hashlib
import math
import os
import re
import secrets
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from cdc_jax import user_caches
from cdc_jax.escaping import visible

GIGABYTES = 4.0
"""The default bound of a cache, in 10^9 bytes on disk."""
_VERSION = 1  # a change of code that changes features by more than rounding raises it
_HEAD, _MAGIC = struct.Struct("<8sII"), b"cdcfeat1"  # magic, images, width
_KEY = 32  # bytes
_ENCODER, _FILE = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{64}\.features")
_PART = re.compile(r"\.[0-9a-f]{16}\.part")
_SMALL, _MANY = 2**17, 64  # bytes of a small file, and how many small files are merged
_OPEN = 8  # files whose features stay in memory
_USED_EVERY = 3600  # seconds between marks that a file is used
_ABANDONED = 3600  # seconds after which a part belongs to no living process


def check(folder: str, gigabytes: float) -> None:
    """Checks the settings of a cache.

    Raises:
      ValueError: the size is negative or not finite, or the folder is a file or a bucket.
    """
    if not (math.isfinite(gigabytes) and gigabytes >= 0):
        raise ValueError(f"cache.gigabytes must be at least 0 (no cache), got {gigabytes}")
    if "://" in folder:
        raise ValueError(f"cache.folder must be a folder on a disk, got {folder!r}: mount it first")
    path = Path(folder).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError(f"cache.folder must be a folder, and {path} is a file: name a folder")


class FeatureCache:
    """Features of all encoders in a folder.

    Args:
      folder: of the features, created if need be; "" is the folder of `user_caches.path`.
      gigabytes: bound of their size on disk, in 10^9 bytes; 0 reads and writes nothing.

    Raises:
      ValueError: see `check`.
    """

    def __init__(self, folder: str | Path = "", gigabytes: float = GIGABYTES):
        check(str(folder), gigabytes)
        # A user without a home gets a folder that can't be written to, see `EncoderFeatures.write`.
        default = user_caches.path("features") or Path(os.devnull, "features")
        self._folder = Path(folder).expanduser() if str(folder) else default
        self._bound = int(gigabytes * 1e9)

    def of(self, encoder: str, width: int) -> "EncoderFeatures | None":
        """The features of one encoder; None where the cache is off.

        Args:
          encoder: a name of everything that a feature depends on beside the image.
          width: of a feature.
        """
        if not self._bound:
            return None
        name = hashlib.sha256(f"{_VERSION} {width} {encoder}".encode()).hexdigest()
        return EncoderFeatures(self._folder / name, width, self._bound)


class EncoderFeatures:
    """Features of images by one encoder.

    Args:
      folder: of this encoder alone, beside the folders of others.
      width: of a feature.
      bound: bytes that the files of all encoders may take.
    """

    def __init__(self, folder: Path, width: int, bound: int):
        self._folder, self._width, self._bound = folder, width, bound
        self._files: dict[str, list[bytes]] = {}  # name -> keys, in the order of the features
        self._places: dict[bytes, tuple[str, int]] = {}  # key -> file and row
        self._open: dict[str, np.ndarray] = {}  # name -> features
        self._writes = True

    def read(
        self, keys: Sequence[bytes]
    ) -> tuple[Float32[np.ndarray, "images width"], Bool[np.ndarray, "images"]]:
        """Features of images, and a mask of the images that have a feature.

        Args:
          keys: of the images; b"" for an image without a key.
        """
        features = np.zeros((len(keys), self._width), np.float32)
        present = np.zeros(len(keys), bool)
        for _ in range(2):  # once more, where another process merged a file meanwhile
            self._list()
            rows_by_file: dict[str, list[int]] = {}
            for i, key in enumerate(keys):
                if not present[i] and key in self._places:
                    rows_by_file.setdefault(self._places[key][0], []).append(i)
            for name, rows in rows_by_file.items():
                places = [self._places[keys[i]][1] for i in rows]
                if (file_features := self._features(name)) is not None:
                    features[rows], present[rows] = file_features[places], True
            if rows_by_file.keys() <= self._files.keys():
                break
        return features, present

    def write(self, keys: Sequence[bytes], features: Float32[np.ndarray, "images width"]) -> None:
        """Keeps features. The first failure to write prints one line on stderr.

        Args:
          keys: of the images; b"" for an image whose feature is not kept.
          features: of the images.
        """
        new = {key: i for i, key in enumerate(keys) if key and key not in self._places}
        if not new or not self._writes:
            return
        try:
            self._write(list(new), features[list(new.values())])
            self._merge()
            self._make_room()
        except OSError as error:
            self._writes = False
            line = (
                f"the cache of image features in {self._folder.parent} can't be written to "
                f"({error.strerror or error}): the run goes on and adds nothing to it; name "
                "another folder, or set its gigabytes to 0"
            )
            print(visible(line), file=sys.stderr, flush=True)

    def _list(self) -> None:
        """Updates the index of files: new files are added, removed files are dropped."""
        there = {entry.name for entry in _files(self._folder, _FILE)}
        for name in self._files.keys() - there:
            self._forget(name)
        for name in sorted(there - self._files.keys()):
            try:
                keys = self._keys(self._folder / name)
            except OSError:  # another process removed it, or this one may not read it
                continue
            if keys is None:
                self._remove(name)
                continue
            self._files[name] = keys
            for row, key in enumerate(keys):
                self._places.setdefault(key, (name, row))

    def _keys(self, path: Path) -> list[bytes] | None:
        """The keys of a file, whose bytes are not checked yet; None if its size is wrong."""
        with path.open("rb") as file:
            head, size = file.read(_HEAD.size), os.fstat(file.fileno()).st_size
            if len(head) < _HEAD.size:
                return None
            magic, images, width = _HEAD.unpack(head)
            whole = _HEAD.size + images * (_KEY + 4 * width)
            if (magic, width, size) != (_MAGIC, self._width, whole):
                return None
            keys = file.read(images * _KEY)
        return [keys[start : start + _KEY] for start in range(0, len(keys), _KEY)]

    def _features(self, name: str) -> np.ndarray | None:
        """The features of a file, whose bytes are checked; None if it is missing or damaged."""
        if name not in self._open:
            path, images = self._folder / name, len(self._files[name])
            try:
                content = path.read_bytes()
            except OSError:
                self._forget(name)
                return None
            if _name(content) != name:
                self._remove(name)
                return None
            while len(self._open) >= _OPEN:
                del self._open[next(iter(self._open))]
            flat = np.frombuffer(content, "<f4", offset=_HEAD.size + images * _KEY)
            self._open[name] = flat.reshape(images, self._width)
            with contextlib.suppress(OSError):  # a cache that this process only reads
                if time.time() - path.stat().st_mtime > _USED_EVERY:
                    os.utime(path)
        return self._open[name]

    def _remove(self, name: str) -> None:
        self._forget(name)
        with contextlib.suppress(OSError):  # another process was faster, or only this one may not
            (self._folder / name).unlink()

    def _forget(self, name: str) -> None:
        self._open.pop(name, None)
        for key in self._files.pop(name, ()):
            if self._places[key][0] == name:
                del self._places[key]

    def _write(self, keys: Sequence[bytes], features: np.ndarray) -> None:
        """Writes a file and then renames it. A file that exceeds the bound is not written."""
        head = _HEAD.pack(_MAGIC, len(keys), self._width)
        content = head + b"".join(keys) + np.asarray(features, "<f4").tobytes()
        if len(content) > self._bound:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f".{secrets.token_hex(8)}.part"
        try:
            part.write_bytes(content)
            part.replace(self._folder / _name(content))
        finally:
            part.unlink(missing_ok=True)

    def _merge(self) -> None:
        """Merges many small files into one."""
        small = sorted(e.name for e in _files(self._folder, _FILE) if _size(e) < _SMALL)
        if len(small) < _MANY:
            return
        self._list()
        merged: dict[bytes, np.ndarray] = {}
        for name in small:
            if name in self._files and (features := self._features(name)) is not None:
                merged.update(zip(self._files[name], features, strict=True))
        if merged:
            self._write(list(merged), np.stack(list(merged.values())))
        for name in small:
            self._remove(name)

    def _make_room(self) -> None:
        """Removes the least recently used files until the rest is within the bound."""
        whole, total = [], 0
        for encoder in _entries(self._folder.parent, _ENCODER):
            for entry in _files(Path(encoder.path), _FILE, _PART):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    part = bool(_PART.fullmatch(entry.name))
                    if part and time.time() - status.st_mtime > _ABANDONED:
                        os.unlink(entry.path)
                        continue
                    total += status.st_size
                    whole += [] if part else [(status.st_mtime, entry.path, status.st_size)]
        for _, path, size in sorted(whole):
            if total <= self._bound:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size


def _name(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()}.features"


def _entries(folder: Path, *names: re.Pattern[str]) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder whose names match; none for a folder that can't be read."""
    try:
        with os.scandir(folder) as entries:
            children = list(entries)
    except OSError:
        return
    yield from (e for e in children if any(name.fullmatch(e.name) for name in names))


def _files(folder: Path, *names: re.Pattern[str]) -> Iterator[os.DirEntry[str]]:
    """The regular files among `_entries`."""
    return (e for e in _entries(folder, *names) if e.is_file(follow_symlinks=False))


def _size(entry: os.DirEntry[str]) -> int:
    """Bytes of a file; 0 once another process has removed it."""
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0
