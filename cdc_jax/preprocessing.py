"""Preprocessing of an image: scaling, a square crop and normalisation."""

import dataclasses

from PIL import Image

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean colour of OpenAI's CLIP, of pixels in [0, 1]."""
STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of the colours of OpenAI's CLIP, of pixels in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Scaling, a crop of the centre, and normalisation. The defaults are those of OpenAI's CLIP.

    Attributes:
      size: side of the square, in pixels.
      resize: size of the image before the crop: a number is its short side, a pair (height, width)
        squeezes it; None is a short side of `size`.
      resample: Pillow's number of the interpolation.
      mean: colour that is subtracted from pixels in [0, 1].
      std: standard deviation that divides them.
    """

    size: int
    resize: int | tuple[int, int] | None = None
    resample: int = int(Image.Resampling.BICUBIC)
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    @classmethod
    def of(cls, size: "int | Preprocessing") -> "Preprocessing":
        """CLIP's preprocessing for a size; a preprocessing stays as it is."""
        return size if isinstance(size, Preprocessing) else cls(size)

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of an image after scaling, before the crop."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        short, edge = min(width, height), self.resize or self.size
        return int(edge * width / short), int(edge * height / short)
