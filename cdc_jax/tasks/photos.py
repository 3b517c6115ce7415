"""A user's images for prediction: files, patterns, folders, or pixels in memory."""

import glob
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from cdc_jax.preprocessing import Preprocessing
from cdc_jax.tasks import content, layouts
from cdc_jax.tasks.decode import (
    HEIC_SUFFIXES,
    UnreadableImage,
    clean_image,
    formats,
    irregular,
    opened,
    suffixes,
)

T = TypeVar("T")

ImageLike = str | Path | Image.Image | np.ndarray


class Photo(NamedTuple):
    """An image and its name.

    Attributes:
      name: its path, or its place in the user's list.
      image: a path, an opened image, or uint8 pixels (height, width, 3).
    """

    name: str
    image: ImageLike


class PhotoImages:
    """Photos with the preprocessing of a model, decoded at access.

    Args:
      photos: of `gather`.
      preprocessing: of the model.
      skip: whether an unreadable photo becomes black and its error is kept. Else the error is
        raised.

    Attributes:
      unreadable: number -> error of each unreadable photo so far.
    """

    def __init__(self, photos: list[Photo], preprocessing: Preprocessing, skip: bool = False):
        self._photos, self._preprocessing, self._skip = photos, preprocessing, skip
        self._digests: dict[int, bytes] = {}  # of what was decoded
        self.unreadable: dict[int, UnreadableImage] = {}

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(
        self, index: slice | Int[np.ndarray, "images"]
    ) -> UInt8[np.ndarray, "images size size 3"]:
        return np.stack(_in_threads(self._read, np.arange(len(self))[index]))

    def name(self, number: int) -> str:
        """The name of a photo."""
        return self._photos[number].name

    def digests(self, numbers: Int[np.ndarray, "images"]) -> list[bytes]:
        """See `content.Encoded`."""
        return _in_threads(self._digest, numbers)

    def decoded_digests(self, numbers: Int[np.ndarray, "images"]) -> list[bytes]:
        """See `content.Encoded`."""
        return [self._digests.pop(number, b"") for number in numbers.tolist()]

    def _digest(self, number: int) -> bytes:
        image = self._photos[number].image
        if isinstance(image, str | Path):
            return content.of_file(Path(image), self._preprocessing)
        try:
            return content.of_pixels(self._clean(number))
        except UnreadableImage:  # `__getitem__` raises or keeps it
            return b""

    def _read(self, number: int) -> np.ndarray:
        try:
            return self._clean(number)
        except UnreadableImage as error:
            if not self._skip:
                raise
            self.unreadable[number] = error
            self._digests.pop(number, None)
            return np.zeros((self._preprocessing.size, self._preprocessing.size, 3), np.uint8)

    def _clean(self, number: int) -> np.ndarray:
        def note(decoded: bytes) -> None:
            self._digests[number] = content.of_bytes(decoded, self._preprocessing)

        name, image = self._photos[number]
        if isinstance(image, np.ndarray):
            pixels = clean_image(Image.fromarray(image), self._preprocessing)
        else:
            with opened(image, name, note) as decoded:
                pixels = clean_image(decoded, self._preprocessing)
        if not isinstance(image, str | Path):
            self._digests[number] = content.of_pixels(pixels)
        return pixels


def _in_threads(function: Callable[[int], T], numbers: np.ndarray) -> list[T]:
    with ThreadPoolExecutor() as pool:  # Pillow and hashing release the GIL
        return list(pool.map(function, numbers.tolist()))


def gather(images: Any, on_error: str = "stop") -> list[Photo]:
    """Lists images without decoding them.

    Args:
      images: one or several of: a path; a glob pattern; a folder, which is searched with the
        folders below, except for hidden folders and folders of tools; a Pillow image; uint8 pixels
        (height, width, 3); a `Photo`. Or one array (images, height, width, 3).
      on_error: "stop" raises an error for a path that is missing or no regular file. With "skip",
        decoding reports the error.

    Raises:
      UnreadableImage: a path is missing, or leads to a pipe or a device.
      FileNotFoundError: a pattern fits no file, or a folder has no image. A path that ends with a
        slash is missing.
      ValueError: there is no image, or a value is no image.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f'on_error must be "stop" or "skip", got {on_error!r}')
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    elif isinstance(images, str | Path | Image.Image | Photo | np.ndarray):
        images = [images]
    photos: list[Photo] = []
    for i, image in enumerate(images):
        if isinstance(image, Photo):
            photos.append(image)
        elif isinstance(image, str | Path):
            photos += [Photo(str(path), path) for path in _files(image)]
        elif isinstance(image, Image.Image):
            photos.append(Photo(getattr(image, "filename", "") or f"image {i}", image))
        else:
            photos.append(Photo(f"image {i}", _pixels(image, i)))
    if not photos:
        raise ValueError("no images are given: name files, folders or patterns")
    if on_error == "stop":
        for name, image in photos:
            if isinstance(image, Path) and (reason := irregular(image.expanduser())):
                raise UnreadableImage(name, reason)
    return photos


def share(photos: list[Photo], part: str) -> list[Photo]:
    """One of several equal parts of a list, in its order.

    Args:
      photos: of `gather`.
      part: "2/4" is the second of four parts.

    Raises:
      ValueError: there is no such part, or a part has no photos.
    """
    numbers = re.fullmatch(r"(\d{1,6})/(\d{1,6})", part, re.ASCII)
    number, parts = (int(text) for text in numbers.groups()) if numbers else (0, 0)
    if not 1 <= number <= parts:
        raise ValueError(f"share must be PART/PARTS, such as 2/4, got {part!r}")
    if parts > len(photos):
        raise ValueError(f"share {part}: there are only {len(photos)} images, name fewer parts")
    return photos[len(photos) * (number - 1) // parts : len(photos) * number // parts]


def _files(pattern: str | Path) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        files = sorted(_below(path))
        if not files:
            raise FileNotFoundError(f"folder {path} holds no image ({', '.join(formats())})")
        return files
    if str(pattern).endswith("/") and not path.exists():
        raise FileNotFoundError(
            f"folder {pattern} is not there: name photographs, folders of them, or patterns"
        )
    if path.exists() or not glob.has_magic(str(path)):
        return [Path(pattern)]
    files = [Path(file) for file in sorted(glob.glob(str(path), recursive=True))]
    if not files:
        raise FileNotFoundError(f"no file fits {str(pattern)!r}")
    return files


def _below(folder: Path) -> list[Path]:
    image_suffixes = suffixes() | HEIC_SUFFIXES
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not layouts.ignored(name)]
        files += [
            Path(parent, name)
            for name in names
            if os.path.splitext(name)[1].lower() in image_suffixes and not layouts.ignored(name)
        ]
    return files


def _pixels(image: object, place: int) -> np.ndarray:
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3 and image.size:
            return image
        what = f"{image.dtype} of shape {image.shape}"
    else:
        what = type(image).__name__
    raise ValueError(
        f"image {place} must be a path, a Pillow image or a uint8 array (height, width, 3), "
        f"got {what}"
    )
