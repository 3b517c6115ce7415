"""Digests of images: the keys of features on disk.

A file's digest is computed from its bytes, so that a file whose feature is on disk is not decoded.
The digest of an image in memory is computed from its pixels.
"""

import hashlib
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import PIL
from jaxtyping import Int, UInt8

from cdc_jax.preprocessing import Preprocessing
from cdc_jax.tasks.decode import MAX_BYTES, open_regular
from cdc_jax.tasks.task import Images

_DECODER = 1  # a change of `decode` that changes pixels raises it


@runtime_checkable
class Encoded(Protocol):
    """`Images` that are decoded from files at each access."""

    def __len__(self) -> int: ...

    def digests(self, numbers: Int[np.ndarray, "images"], /) -> list[bytes]:
        """Digests of the current contents of the files; b"" for an unreadable file."""
        ...

    def decoded_digests(self, numbers: Int[np.ndarray, "images"], /) -> list[bytes]:
        """Digests of the bytes that were decoded; b"" for an image that was not decoded."""
        ...


def digests(images: Images, numbers: Int[np.ndarray, "images"]) -> list[bytes]:
    """Keys of images before they are decoded; b"" for an unreadable image."""
    return images.digests(numbers) if isinstance(images, Encoded) else _of_rows(images, numbers)


def decoded_digests(images: Images, numbers: Int[np.ndarray, "images"]) -> list[bytes]:
    """Keys of images from the decoded bytes: a file may have changed since `digests`."""
    if isinstance(images, Encoded):
        return images.decoded_digests(numbers)
    return _of_rows(images, numbers)


def of_pixels(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The digest of an image in memory."""
    sha = hashlib.sha256(f"pixels {pixels.shape}\n".encode())
    sha.update(pixels.tobytes())
    return sha.digest()


def of_bytes(content: bytes, preprocessing: Preprocessing) -> bytes:
    """The digest of a file's content, this version of the decoder and the preprocessing."""
    sha = _start(preprocessing)
    sha.update(content)
    return sha.digest()


def of_file(path: Path, preprocessing: Preprocessing) -> bytes:
    """`of_bytes` of a file; b"" for a file that is unreadable or too large to be decoded."""
    try:
        with open_regular(path.expanduser()) as file:
            if file.seek(0, 2) > MAX_BYTES:
                return b""
            file.seek(0)
            return hashlib.file_digest(file, lambda: _start(preprocessing)).digest()
    except OSError:  # decoding reports the reason
        return b""


def _start(preprocessing: Preprocessing) -> Any:
    return hashlib.sha256(f"file {_DECODER} {PIL.__version__} {preprocessing}\n".encode())


def _of_rows(images: Images, numbers: np.ndarray) -> list[bytes]:
    return [of_pixels(pixels) for pixels in images[numbers]]
