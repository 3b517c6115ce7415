"""Image files -> upright RGB images -> uint8 arrays of the model's size."""

import contextlib
import ctypes
import errno
import functools
import io
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from cdc_jax.escaping import reason
from cdc_jax.preprocessing import Preprocessing

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF")
"""The formats that are read. Without this list Pillow would start Ghostscript for PostScript."""
HEIC_SUFFIXES = frozenset((".heic", ".heif", ".hif", ".heics", ".heifs"))
HEIC_REMEDY = "pip install -e '.[heif]' reads HEIC"
MAX_BYTES = 2**29
"""The bound of a file, and of all files that threads hold in memory at a time: 512 MiB."""
MAX_PIXELS = 89_478_485
"""The bound of an image's pixels, and of all images that threads decode at a time.

Pillow warns above this number. Converting colours takes at most 16 bytes a pixel, so that any
number of threads takes at most 1.4 GB.
"""
_LARGE = 2**24  # pixels
_LONGEST = 1000  # times the short side: scaling the short side up must not exhaust the memory
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that turns the image upright."""


class UnreadableImage(ValueError):
    """An image that can't be used.

    Attributes:
      name: the file's path, or the caller's name for the image.
      reason: the problem, in one line.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)  # as arguments, so that it crosses processes
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name} can't be read as an image: {self.reason}"


class _Budget:
    """An amount that threads share. A thread waits until its share is free.

    Args:
      total: the whole amount.
    """

    def __init__(self, total: int):
        self._total = self._free = total
        self._returned = threading.Condition()

    @contextlib.contextmanager
    def share(self, amount: int) -> Iterator[None]:
        """Holds an amount, at most the total."""
        amount = min(amount, self._total)
        with self._returned:
            self._returned.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._returned:
                self._free += amount
                self._returned.notify_all()


# Every thread takes bytes first and pixels second, so that no two threads block each other.
_BYTES, _PIXELS = _Budget(MAX_BYTES), _Budget(MAX_PIXELS)


@functools.cache
def formats() -> tuple[str, ...]:
    """`FORMATS`, and HEIF if the package for it is installed."""
    try:
        import pillow_heif
    except ModuleNotFoundError:
        return FORMATS
    pillow_heif.register_heif_opener(thumbnails=False)
    return (*FORMATS, "HEIF")


@functools.cache
def suffixes() -> frozenset[str]:
    """File name suffixes of `formats`, in small letters, each with its dot."""
    names = formats()  # registers HEIF first
    return frozenset(s for s, kind in Image.registered_extensions().items() if kind in names)


def decode(source: str | Path | bytes | Image.Image, name: str | None = None) -> Image.Image:
    """An image in RGB. See `opened`, which also bounds the memory of all threads.

    Raises:
      UnreadableImage: see `opened`.
    """
    with contextlib.ExitStack() as resources:
        return _named(source, name, resources, lambda content: None)


@contextlib.contextmanager
def opened(
    source: str | Path | bytes | Image.Image,
    name: str | None = None,
    note: Callable[[bytes], None] = lambda content: None,
) -> Iterator[Image.Image]:
    """An image in RGB, from any colour mode. Of an animation, the first frame.

    The image is turned by its EXIF orientation, unless the EXIF block is damaged. Transparent parts
    become white, as on a page. (CoOp and transformers drop alpha, which shows the hidden colours of
    transparent pixels.) CMYK becomes RGB by Pillow's formula, and colour profiles are ignored, as
    in CLIP's own preprocessing. A JPEG of more than `MAX_PIXELS` is decoded at a half, a quarter or
    an eighth of its size.

    The file decides how many bits a 16-bit value has: TIFF by BitsPerSample, PPM by its largest
    value. If the file only says 16, the largest pixel decides: up to 255 means 8 bits, up to 4095
    means 12 bits, more means 16 bits. The highest 8 of these bits are kept. Cameras store 8 and 12
    bits without a shift (GenICam's Pixel Format Naming Convention, Mono12).

    While the context is open, the image counts within the bounds for all threads.

    Args:
      source: path of a regular file of one of `formats`, the contents of such a file, or an image
        that Pillow opened.
      name: name of the image in errors; None is the path.
      note: called with the contents of the file before they are decoded.

    Raises:
      UnreadableImage: the file is missing, empty, truncated, damaged, not regular, larger than
        `MAX_BYTES`, or no image. The image has no pixels, is over a thousand times longer than
        wide, or has more than `MAX_PIXELS` (a JPEG, twice as many). The range of its pixels
        is unknown: floating point, or integers beyond 16 bits.
    """
    with contextlib.ExitStack() as resources:
        image = _named(source, name, resources, note)
        large = image.width * image.height > _LARGE
        try:
            yield image
        finally:
            image.close()  # its memory goes back before its share does
            if large:
                _trim()


def irregular(path: str | Path) -> str:
    """The reason why a path is no regular file; "" for a regular file. Nothing is opened."""
    try:
        _require_regular(os.stat(path))
    except FileNotFoundError:
        if os.path.islink(path):
            return f"it is a link to {os.readlink(path)}, which is not there: get that file first"
        return "no such file"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def open_regular(path: str | Path) -> io.BufferedReader:
    """Opens a regular file for reading. Pipes and devices, which could block, are refused.

    Raises:
      OSError: the file can't be opened or is not regular.
    """
    _require_regular(os.stat(path))  # opening a device may do something
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _require_regular(os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return file


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a regular file")


def _named(
    source: str | Path | bytes | Image.Image,
    name: str | None,
    resources: contextlib.ExitStack,
    note: Callable[[bytes], None],
) -> Image.Image:
    """The decoded image. Errors name it."""
    if isinstance(source, Image.Image):
        name = name or getattr(source, "filename", "") or "the image"
    elif isinstance(source, bytes):
        name = name or "the image"
    try:
        return _decoded(source, resources, note)
    # Damaged files make Pillow's parsers stumble in many ways, by no common class of errors.
    except Exception as error:
        problem = getattr(error, "strerror", None) or reason(error)
    raise UnreadableImage(name or str(source), problem)  # out here, it keeps no pixels alive


def _trim() -> None:
    """Returns freed memory to the system. glibc would keep the freed memory of each thread."""
    if release := getattr(ctypes.CDLL(None), "malloc_trim", None):
        release(0)


def _decoded(
    source: str | Path | bytes | Image.Image,
    resources: contextlib.ExitStack,
    note: Callable[[bytes], None],
) -> Image.Image:
    if isinstance(source, Image.Image):
        _check_size(source)
        resources.enter_context(_PIXELS.share(source.width * source.height))
        return _rgb(source.copy())
    content = source if isinstance(source, bytes) else _read(Path(source).expanduser(), resources)
    if not content:
        raise ValueError("it is empty")
    note(content)
    try:
        file = Image.open(io.BytesIO(content), formats=formats())
    except UnidentifiedImageError:
        heic = content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS
        if heic and "HEIF" not in formats():
            raise ValueError(f"it is a HEIC file, whatever its name says: {HEIC_REMEDY}") from None
        raise ValueError(f"it is damaged, or none of {', '.join(formats())}") from None
    with file as image:
        if image.format in ("JPEG", "MPO") and image.width * image.height > MAX_PIXELS:
            # The transform of 8 x 8 pixels gives the smaller sizes without the large one.
            pixels = image.width * image.height
            part = min((part for part in (2, 4) if pixels <= MAX_PIXELS * part**2), default=8)
            image.draft(None, (image.width // part, image.height // part))
        _check_size(image)
        resources.enter_context(_PIXELS.share(image.width * image.height))
        _use_low_bits(image, content)
        return _rgb(image)


def _read(path: Path, resources: contextlib.ExitStack) -> bytes:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= MAX_BYTES:
            resources.enter_context(_BYTES.share(size))
            content = file.read(size + 1)
            if len(content) <= size:
                return content
            raise ValueError("it grows while it is read")
    raise ValueError(f"it has {size / 1e6:.0f} MB, and at most {MAX_BYTES / 1e6:.0f} are read")


def _check_size(image: Image.Image) -> None:
    short, long = sorted(image.size)
    if not short:
        raise ValueError("it has no pixels")
    if long > _LONGEST * short:
        raise ValueError(
            f"{image.width} x {image.height} pixels: one side is over {_LONGEST} times the other"
        )
    if short * long > MAX_PIXELS:
        raise ValueError(
            f"{image.width} x {image.height} pixels, and at most {MAX_PIXELS / 1e6:.0f} million "
            "are read at once: scale it down"
        )


def _rgb(image: Image.Image) -> Image.Image:
    image = _upright(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range: store them in 8 or 16 bits")
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"pixels {levels.min()}..{levels.max()} do not fit in 16 bits")
        bits = _stated_bits(image) or _bits(int(levels.max()))
        image = Image.fromarray((levels >> (bits - 8)).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # TIFF is turned here, and PNG may have its EXIF block behind the pixels
    try:
        turned = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # see `_named`; the pixels are sound, only the EXIF block is damaged
        turned = None
    return image if turned is None else image.transpose(turned)


def _bits(largest: int) -> int:
    return next(bits for bits in (8, 12, 16) if largest < 1 << bits)


def _stated_bits(image: Image.Image) -> int:
    """Bits that a file of 16-bit values states; 0 for a file that states none."""
    if image.format == "PPM":
        return 16  # Pillow scales by the file's largest value
    if image.format == "TIFF":
        (bits, *_) = image.tag_v2.get(258, (16,))  # type: ignore[attr-defined]
        return bits if 8 <= bits < 16 else 0
    return 0


def _use_low_bits(image: Image.Image, content: bytes) -> None:
    """Corrects the pixels of 16-bit colours that hold 8 or 12 bits.

    Pillow gives only the high byte of each colour. With swapped bytes it gives the low byte.
    """
    tiles = getattr(image, "tile", None)
    if not tiles:
        return
    args = tiles[0].args
    raw, *others = args if isinstance(args, tuple) else (args,)
    if str(raw)[:-1] not in ("RGB;16", "RGBA;16"):
        return
    high = np.array(image)
    if high[..., :3].max() > 15:
        return
    order = raw[-1].replace("N", "L" if sys.byteorder == "little" else "B")
    swapped = raw[:-1] + {"L": "B", "B": "L"}[order]
    with Image.open(io.BytesIO(content), formats=formats()) as again:
        changed = (swapped, *others) if isinstance(args, tuple) else swapped
        again.tile = [tile._replace(args=changed) for tile in tiles]
        low = np.asarray(again)
    levels = (high[..., :3].astype(np.uint16) << 8) | low[..., :3]
    high[..., :3] = levels >> (_bits(int(levels.max())) - 8)
    image.paste(Image.fromarray(high))


def clean_image(image: Image.Image, size: int | Preprocessing) -> UInt8[np.ndarray, "side side 3"]:
    """Scales an image by antialiased interpolation and crops the centre.

    The result equals transformers' CLIPImageProcessor on Pillow without normalisation. Places of
    the crop outside the image are black. torchvision's Resize and CenterCrop differ by one pixel of
    offset if 4k + 3 pixels of the long side are cropped.

    Args:
      image: in RGB.
      size: side of the result with CLIP's preprocessing (short side, bicubic), or a preprocessing.
    """
    preprocessing = Preprocessing.of(size)
    side, (width, height) = preprocessing.size, preprocessing.scaled(*image.size)
    image = image.resize((width, height), Image.Resampling(preprocessing.resample))
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def squeezed_image(image: Image.Image, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Scales the whole image to a square by antialiased bicubic interpolation."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
