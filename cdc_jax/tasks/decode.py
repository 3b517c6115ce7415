"""Image files -> upright RGB images -> uint8 arrays of the size that a CLIP takes."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from cdc_jax.preprocessing import Preprocessing

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
"""What files may hold; Pillow alone would also start Ghostscript for a PostScript file."""
_LONGEST = 1000  # times the short side: scaling the short side up must not exhaust the memory


class UnreadableImage(ValueError):
    """An image that can't be used.

    Attributes:
      name: the file's path, or what the caller calls it.
      reason: what is wrong with it, in one line.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)  # as arguments, so that it crosses processes
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name} can't be read as an image: {self.reason}"


def decode(source: str | Path | bytes | Image.Image, name: str | None = None) -> Image.Image:
    """An image in RGB, whatever its colours are stored as; of an animation, the first frame.

    It is turned as its EXIF orientation says. Transparent parts become white, as on a page.
    (Dropping alpha, as CoOp and transformers do, would show whatever colour the file hides there.)
    Of 16-bit channels the high byte is kept, as Pillow does for 16-bit colour. CMYK goes to RGB by
    Pillow's formula and colour profiles are ignored, as in CLIP's own preprocessing.

    Args:
      source: path of a file of one of `FORMATS`, such a file's contents, or an image that Pillow
        opened.
      name: what errors call it; None is the path.

    Raises:
      UnreadableImage: the file is missing, empty, truncated, damaged, a folder, no image, one
        without pixels, over a thousand times longer than wide, of more pixels than Pillow takes
        for harmless (twice `PIL.Image.MAX_IMAGE_PIXELS`, 179 million), or of pixels whose range is
        unknown: floating point, or integers beyond 16 bits.
    """
    try:
        if isinstance(source, Image.Image):
            name = name or getattr(source, "filename", "") or "the image"
            return _rgb(source.copy())
        if isinstance(source, bytes):
            name = name or "the image"
        else:
            name = name or str(source)
            source = Path(source).expanduser().read_bytes()
        if not source:
            raise ValueError("it is empty")
        with Image.open(io.BytesIO(source), formats=FORMATS) as image:
            return _rgb(image)
    except UnidentifiedImageError:
        reason = f"it is damaged, or none of {', '.join(FORMATS)}"
    # Damaged files make Pillow's parsers stumble in many ways, by no common class of errors.
    except Exception as error:
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = " ".join(told.split())
    raise UnreadableImage(name or str(source), reason)


def _rgb(image: Image.Image) -> Image.Image:
    short, long = sorted(image.size)
    if not short:
        raise ValueError("it has no pixels")
    if long > _LONGEST * short:
        raise ValueError(
            f"{image.width} x {image.height} pixels: one side is over {_LONGEST} times the other"
        )
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range: store them in 8 or 16 bits")
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"pixels {levels.min()}..{levels.max()} do not fit in 16 bits")
        image = Image.fromarray((levels >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def clean_image(image: Image.Image, size: int | Preprocessing) -> UInt8[np.ndarray, "side side 3"]:
    """Scales an image by antialiased interpolation and crops the centre.

    What transformers' CLIPImageProcessor does on Pillow, except for the normalisation; what a crop
    lacks is black. torchvision's Resize and CenterCrop differ by one pixel of offset where 4k + 3
    pixels of the long side are cropped.

    Args:
      image: in RGB.
      size: side of the result for CLIP's preprocessing (short side, bicubic), or another.
    """
    preprocessing = Preprocessing.of(size)
    side, (width, height) = preprocessing.size, preprocessing.scaled(*image.size)
    image = image.resize((width, height), Image.Resampling(preprocessing.resample))
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def squeezed_image(image: Image.Image, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Scales the whole image to a square by antialiased bicubic interpolation."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
