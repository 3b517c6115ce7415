"""Digests of what images hold: the keys of features that are kept on disk.

The digest of a file is that of its bytes, so that a file whose feature is known need not be
decoded. The digest of an image in memory is that of its pixels.
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
    """`Images` that are decoded from files when they are asked for."""

    def __len__(self) -> int: ...

    def digests(self, numbers: Int[np.ndarray, "images"], /) -> list[bytes]:
        """Digests of what the files hold now; b"" for a file that can't be read."""
        ...

    def decoded_digests(self, numbers: Int[np.ndarray, "images"], /) -> list[bytes]:
        """Digests of the bytes that were decoded; b"" for an image that was not."""
        ...


def digests(images: Images, numbers: Int[np.ndarray, "images"]) -> list[bytes]:
    """Keys of images before they are decoded; b"" for one that can't be read."""
    return images.digests(numbers) if isinstance(images, Encoded) else _of_rows(images, numbers)


def decoded_digests(images: Images, numbers: Int[np.ndarray, "images"]) -> list[bytes]:
    """Keys of images as they were decoded: a file may have changed since `digests`."""
    if isinstance(images, Encoded):
        return images.decoded_digests(numbers)
    return _of_rows(images, numbers)


def of_pixels(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The digest of an image in memory."""
    sha = hashlib.sha256(f"pixels {pixels.shape}\n".encode())
    sha.update(pixels.tobytes())
    return sha.digest()


def of_bytes(content: bytes, preprocessing: Preprocessing) -> bytes:
    """The digest of what a file holds, decoded by this version and scaled and cropped so."""
    sha = _start(preprocessing)
    sha.update(content)
    return sha.digest()


def of_file(path: Path, preprocessing: Preprocessing) -> bytes:
    """`of_bytes` of a file; b"" for a file that can't be read, or is too large to be decoded."""
    try:
        with open_regular(path.expanduser()) as file:
            if file.seek(0, 2) > MAX_BYTES:
                return b""
            file.seek(0)
            return hashlib.file_digest(file, lambda: _start(preprocessing)).digest()
    except OSError:  # whoever decodes it says why
        return b""


def _start(preprocessing: Preprocessing) -> Any:
    return hashlib.sha256(f"file {_DECODER} {PIL.__version__} {preprocessing}\n".encode())


def _of_rows(images: Images, numbers: np.ndarray) -> list[bytes]:
    return [of_pixels(pixels) for pixels in images[numbers]]
