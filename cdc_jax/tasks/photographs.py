"""A dataset of photographs, and its images as arrays: decoded at access, kept if small."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int, UInt8
from PIL import Image

from cdc_jax.preprocessing import Preprocessing
from cdc_jax.tasks import content, decode
from cdc_jax.tasks.splits import Split
from cdc_jax.wording import Template

KEPT_BYTES = 2**30
"""The decoded images of a split stay in memory if they need at most 1 GiB."""
_TASK = 4  # images of a thread's share: small, so that all threads end together


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset: its split, and the files of its images.

    Attributes:
      split: all of its images.
      contents: an item's path -> path of its file, or the file's content.
      template: the hand-crafted text t^0.
      label_properties: image properties that the labels depend on, see `views.PROPERTIES`.
      note: a remark that tables show beside its figures; "" is none.
      allow_fewer: whether a class may have fewer training images than shots.
      layout: description of its folders or list.
      remarks: sentences about assumptions and files that are left out.
      unusable: unusable images of its folders. They are in no split.
    """

    split: Split
    contents: Callable[[str], Path | bytes]
    template: Template
    label_properties: tuple[str, ...] = ("category",)
    note: str = ""
    allow_fewer: bool = True
    layout: str = ""
    remarks: tuple[str, ...] = ()
    unusable: tuple[decode.UnreadableImage, ...] = ()


class Photographs:
    """Images of one split, for the test and for the view stage.

    `photographs[index]` with an integer array or a slice gives test images: scaled and centre
    cropped by the model's preprocessing, uint8 (images, size, size, 3). Threads decode the images.
    If the decoded split fits into `KEPT_BYTES`, each image is decoded once.

    Args:
      paths: of the images, in their dataset.
      contents: of the dataset.
      size: side of the test images with CLIP's preprocessing, or a preprocessing.
      side: side of the images for the view stage, see `squeezed`.
      workers: number of threads; 0 is one a core.

    Raises:
      ValueError: the side is below 1, or the number of workers is negative.
    """

    def __init__(
        self,
        paths: Sequence[str],
        contents: Callable[[str], Path | bytes],
        size: int | Preprocessing,
        side: int,
        workers: int = 0,
    ):
        if side < 1:
            raise ValueError(f"data.side must be at least 0 (1.5 x the model's), got {side}")
        self._paths, self._contents = paths, contents
        self._preprocessing, self._side = Preprocessing.of(size), side
        self._pool = ThreadPoolExecutor(threads(workers))
        self._aspect_ratios = np.zeros(len(paths), np.float32)
        self._clean: dict[int, np.ndarray] = {}
        self._squeezed: dict[int, np.ndarray] = {}
        self._digests: dict[int, bytes] = {}  # of the bytes that the test's form was decoded from

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(
        self, index: slice | Int[np.ndarray, "images"]
    ) -> UInt8[np.ndarray, "images size size 3"]:
        numbers = np.arange(len(self))[index]
        form = partial(decode.clean_image, size=self._preprocessing)
        return self._read(numbers, form, self._preprocessing.size, self._clean, self._digests)

    def digests(self, numbers: Int[np.ndarray, "images"]) -> list[bytes]:
        """See `content.Encoded`."""

        def digest(number: int) -> bytes:
            file = self._contents(self._paths[number])
            if isinstance(file, bytes):
                return content.of_bytes(file, self._preprocessing)
            return content.of_file(file, self._preprocessing)

        return list(self._pool.map(digest, numbers.tolist()))

    def decoded_digests(self, numbers: Int[np.ndarray, "images"]) -> list[bytes]:
        """See `content.Encoded`."""
        return [self._digests.get(number, b"") for number in numbers.tolist()]

    def squeezed(
        self, numbers: Int[np.ndarray, "images"]
    ) -> tuple[UInt8[np.ndarray, "images side side 3"], Float32[np.ndarray, "images"]]:
        """Whole photographs squeezed into squares, and the width/height of the photographs."""
        form = partial(decode.squeezed_image, size=self._side)
        images = self._read(numbers, form, self._side, self._squeezed)
        return images, self._aspect_ratios[numbers]

    def unusable(self, decoding: bool) -> dict[int, decode.UnreadableImage]:
        """Number -> error of each unusable image.

        Args:
          decoding: whether to decode every image. Else files are only looked up in their folders.
        """
        if not decoding:
            return self._missing()

        def tried(number: int) -> decode.UnreadableImage | None:
            try:
                with self._opened(number):
                    return None
            except decode.UnreadableImage as error:
                return error

        outcomes = enumerate(self._pool.map(tried, range(len(self))))
        return {number: error for number, error in outcomes if error is not None}

    def _missing(self) -> dict[int, decode.UnreadableImage]:
        """Images that are no regular files. Each folder is listed once."""
        regular: dict[Path, frozenset[str]] = {}
        missing = {}
        for number, path in enumerate(self._paths):
            file = self._contents(path)
            if isinstance(file, bytes):
                return {}
            if file.parent not in regular:
                regular[file.parent] = _regular_files(file.parent)
            if file.name not in regular[file.parent] and (reason := decode.irregular(file)):
                missing[number] = decode.UnreadableImage(str(file), reason)
        return missing

    def _read(
        self,
        numbers: np.ndarray,
        form: Callable,
        side: int,
        cache: dict[int, np.ndarray],
        digests: dict[int, bytes] | None = None,
    ) -> np.ndarray:
        """Decodes images in all threads. `cache` keeps views of the result."""
        images = np.empty((len(numbers), side, side, 3), np.uint8)
        keep = 3 * side * side * len(self) <= KEPT_BYTES

        def fill(first: int) -> None:
            for row, number in enumerate(numbers[first : first + _TASK].tolist(), first):
                if number in cache:
                    images[row] = cache[number]
                    continue
                with self._opened(number, digests) as image:
                    self._aspect_ratios[number] = image.width / image.height
                    images[row] = form(image)
                if keep:
                    cache[number] = images[row]

        list(self._pool.map(fill, range(0, len(numbers), _TASK)))
        images.setflags(write=False)
        return images

    def _opened(
        self, number: int, digests: dict[int, bytes] | None = None
    ) -> AbstractContextManager[Image.Image]:
        def note(decoded: bytes) -> None:
            if digests is not None:
                digests[number] = content.of_bytes(decoded, self._preprocessing)

        path = self._paths[number]
        contents = self._contents(path)
        return decode.opened(contents, path if isinstance(contents, bytes) else None, note)


def _regular_files(folder: Path) -> frozenset[str]:
    if not folder.is_dir():
        return frozenset()
    with os.scandir(folder) as entries:
        return frozenset(e.name for e in entries if e.is_file(follow_symlinks=False))


def threads(workers: int) -> int:
    """The number of threads for a setting; 0 is one a core.

    Raises:
      ValueError: the setting is negative.
    """
    if workers < 0:
        raise ValueError(f"data.workers must be at least 0 (one a core), got {workers}")
    return workers or len(os.sched_getaffinity(0))
