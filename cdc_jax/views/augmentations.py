"""The named augmentations: their options, their random draws, and the properties they change.

Names, options and defaults are torchvision's if it has the augmentation. The `zoom` of `affine` is
torchvision's `scale`. A step `randaugment` is one operation of RandAugment: repeat it for more.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Bool, Key

from cdc_jax.views import pixels, randaugment
from cdc_jax.views.pixels import Box, Scalar

PRNGKey = Key[Array, ""]
Pair = tuple[float, float]


class Augmentation(NamedTuple):
    """One augmentation: apply(image, *draw(key, height, width, **options)).

    Attributes:
        draw: (key, height, width, options) -> tuple of parameters.
        apply: (image, parameters) -> image.
        options: default values. `p` is the augmentation's probability; `draw` does not take it.
        changes: properties of an image that it may change (this project's choice). It does not
            preserve a label that depends on one of them.
        needs: further arguments of `apply`: the view's "size", or "fill", the colour of empty
            places. An augmentation that needs the size sets it, and comes first.
    """

    draw: Callable[..., tuple[Any, ...]]
    apply: Callable[..., pixels.Image]
    options: Mapping[str, float | Pair]
    changes: frozenset[str]
    needs: tuple[str, ...] = ()


def draw_nothing(key: PRNGKey, height: int, width: int) -> tuple[()]:
    """Draws no parameters."""
    return ()


def draw_crop(
    key: PRNGKey,
    height: int,
    width: int,
    *,
    scale: Pair,
    ratio: Pair,
    aspect_ratio: Scalar | None = None,
) -> tuple[Box]:
    """Draws the box of torchvision's RandomResizedCrop.

    Args:
        key: random key.
        height: of the image.
        width: of the image.
        scale: range of the box's area as a part of the image's; uniform.
        ratio: range of the box's width/height; its logarithm is uniform.
        aspect_ratio: width/height of the photograph that was squeezed into this image; None for an
            image that was not squeezed. `ratio` holds for the box in the photograph.

    Returns:
        The first of ten boxes that fits, else the largest centred box whose ratio is in range.
    """
    # Squeezing changes the ratio of every box by the same factor, and keeps its share of the area.
    squeeze = 1 if aspect_ratio is None else width / height / aspect_ratio
    low, high = ratio[0] * squeeze, ratio[1] * squeeze
    box, fits = _draw_box(key, height, width, scale, low, ratio[1] / ratio[0])
    largest_height = jnp.clip(jnp.round(width / low).astype(jnp.int32), 1, height)
    largest_width = jnp.clip(jnp.round(height * high).astype(jnp.int32), 1, width)
    top, left = (height - largest_height) // 2, (width - largest_width) // 2
    return (jnp.where(fits, box, jnp.stack([top, left, largest_height, largest_width])),)


def draw_affine(
    key: PRNGKey, height: int, width: int, *, degrees: float, translate: float, zoom: Pair
) -> tuple[Scalar, ...]:
    """Draws an angle, two shifts (`translate` is a part of each side) and a zoom, all uniform."""
    reach = jnp.array([degrees, translate * height, translate * width], jnp.float32)
    low, high = jnp.append(-reach, zoom[0]), jnp.append(reach, zoom[1])
    return tuple(random.uniform(key, (4,), jnp.float32, low, high))


def draw_jitter(
    key: PRNGKey,
    height: int,
    width: int,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> tuple[Scalar, ...]:
    """Draws three factors around 1 and a shift of hue around 0, uniform within their options."""
    reach = jnp.array([brightness, contrast, saturation, hue], jnp.float32)
    centre = jnp.array([1, 1, 1, 0])
    return tuple(random.uniform(key, (4,), jnp.float32, centre - reach, centre + reach))


def draw_blur(key: PRNGKey, height: int, width: int, *, sigma: Pair) -> tuple[Scalar]:
    """Draws sigma uniformly. The range is for 224 pixels and scales with the root of the side.

    On photographs the largest sigma then changes values by 5 to 6 of 255 levels at 224 and at 32
    pixels alike; a sigma in proportion to the side (0.29 at 32) would do nothing to small images.
    """
    root = math.sqrt(min(height, width) / 224)
    return (random.uniform(key, (), jnp.float32, sigma[0] * root, sigma[1] * root),)


def draw_erase(key: PRNGKey, height: int, width: int, *, scale: Pair, ratio: Pair) -> tuple[Box]:
    """Draws the box of torchvision's RandomErasing, empty if none of ten fits.

    See `draw_crop`; here `ratio` is height/width.
    """
    box, fits = _draw_box(key, height, width, scale, 1 / ratio[1], ratio[1] / ratio[0])
    return (jnp.where(fits, box, 0),)


def _draw_box(
    key: PRNGKey, height: int, width: int, scale: Pair, lowest: Scalar, spread: float
) -> tuple[Box, Bool[Array, ""]]:
    """The first of ten boxes that fits, their width/height in [lowest, lowest · spread]."""
    # Drawn flat: XLA's CPU compiler takes seconds for a random array of two axes.
    area, shape, down, right = random.uniform(key, (40,), jnp.float32).reshape(4, 10)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    box_ratio = lowest * jnp.exp(math.log(spread) * shape)
    box_height = jnp.round(jnp.sqrt(area / box_ratio))
    box_width = jnp.round(jnp.sqrt(area * box_ratio))
    top = jnp.floor(down * (height - box_height + 1))
    left = jnp.floor(right * (width - box_width + 1))
    fits = (1 <= box_height) & (box_height <= height) & (1 <= box_width) & (box_width <= width)
    boxes = jnp.stack([top, left, box_height, box_width]).astype(jnp.int32)
    top, left, box_height, box_width = boxes[:, jnp.argmax(fits)]
    # Changes no box that fits. A compiler may round a side twice, once for `fits` and once for the
    # box, and to different pixels.
    box_height, box_width = jnp.clip(box_height, 1, height), jnp.clip(box_width, 1, width)
    top, left = jnp.clip(top, 0, height - box_height), jnp.clip(left, 0, width - box_width)
    return jnp.stack([top, left, box_height, box_width]), fits.any()


AUGMENTATIONS = {
    "crop": Augmentation(
        draw_crop,
        pixels.resized_crop,
        options={"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)},
        changes=frozenset({"position", "size", "marks", "distractor"}),
        needs=("size",),
    ),
    "squeeze": Augmentation(
        draw_nothing,
        pixels.squeeze,
        options={},
        changes=frozenset({"size"}),
        needs=("size",),
    ),
    "flip": Augmentation(
        draw_nothing,
        pixels.flip,
        options={"p": 0.5},
        changes=frozenset({"position", "rotation"}),
    ),
    "affine": Augmentation(
        draw_affine,
        pixels.affine,
        options={"degrees": 15.0, "translate": 0.1, "zoom": (0.9, 1.1), "p": 1.0},
        changes=frozenset({"position", "size", "rotation", "marks"}),
        needs=("fill",),
    ),
    "jitter": Augmentation(
        draw_jitter,
        pixels.jitter,
        options={"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 1.0},
        changes=frozenset({"colour", "background", "style"}),
    ),
    "grayscale": Augmentation(
        draw_nothing,
        pixels.grayscale,
        options={"p": 1.0},
        changes=frozenset({"colour", "background", "style"}),
    ),
    "blur": Augmentation(
        draw_blur,
        pixels.blur,
        options={"sigma": (0.1, 2.0), "p": 1.0},
        changes=frozenset({"fill", "pattern", "texture", "style"}),
    ),
    "erase": Augmentation(
        draw_erase,
        pixels.erase,
        options={"scale": (0.02, 0.33), "ratio": (0.3, 3.3), "p": 0.5},
        changes=frozenset({"marks", "distractor"}),
        needs=("fill",),
    ),
    "randaugment": Augmentation(
        randaugment.draw,
        randaugment.operate,
        options={"m": 10.0},
        changes=frozenset(
            {"position", "rotation", "marks", "distractor", "colour", "background", "style"}
            | {"fill", "pattern", "texture"}
        ),
    ),
}
