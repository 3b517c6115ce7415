"""Images that a user names for prediction: files, patterns, folders, or pixels at hand."""

import glob
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cdc_jax.tasks import layouts
from cdc_jax.tasks.decode import HEIC_SUFFIXES, UnreadableImage, formats, irregular, suffixes

ImageLike = str | Path | Image.Image | np.ndarray


class Photo(NamedTuple):
    """An image and what to call it.

    Attributes:
      name: its path, or its place in what was given.
      image: a path, an opened image, or uint8 pixels (height, width, 3).
    """

    name: str
    image: ImageLike


def gather(images: Any, on_error: str = "stop") -> list[Photo]:
    """Lists images without decoding them.

    Args:
      images: one or several of: a path; a glob pattern; a folder, searched for images, those in
        folders below as well unless hidden or made by tools; a Pillow image; uint8 pixels (height,
        width, 3); a `Photo`. Or one array (images, height, width, 3).
      on_error: "stop" raises an error for a path that is not there, or no regular file; "skip"
        leaves that to whoever decodes it.

    Raises:
      UnreadableImage: a path that is not there, or leads to a pipe or a device.
      FileNotFoundError: a pattern that fits no file, or a folder without an image.
      ValueError: no image, or something that is none.
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
        raise ValueError("no images are given")
    if on_error == "stop":
        for name, image in photos:
            if isinstance(image, Path) and (reason := irregular(image.expanduser())):
                raise UnreadableImage(name, reason)
    return photos


def _files(given: str | Path) -> list[Path]:
    path = Path(given).expanduser()
    if path.is_dir():
        files = sorted(_below(path))
        if not files:
            raise FileNotFoundError(f"folder {path} holds no image ({', '.join(formats())})")
        return files
    if path.exists() or not glob.has_magic(str(path)):
        return [Path(given)]
    files = [Path(file) for file in sorted(glob.glob(str(path), recursive=True))]
    if not files:
        raise FileNotFoundError(f"no file fits {str(given)!r}")
    return files


def _below(folder: Path) -> list[Path]:
    known = suffixes() | HEIC_SUFFIXES
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not layouts.ignored(name)]
        files += [
            Path(parent, name)
            for name in names
            if os.path.splitext(name)[1].lower() in known and not layouts.ignored(name)
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
