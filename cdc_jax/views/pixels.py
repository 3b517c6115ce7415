"""What each augmentation does to an image: deterministic functions of the image and parameters.

Images are float32 in [0, 1] and stay in this range. A box is (top, left, height, width) in pixels.

Resizing and blurring are separable: two dense matrix products an image suit accelerators better
than gathers. `jax.image.scale_and_translate` is as fast, but it also reads pixels beyond the box.
The field's pipelines crop first.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int, Num

Image = Float[Array, "height width 3"]
Box = Int[Array, "4"]
Colour = Float[Array, "3"]
Scalar = Num[Array, ""] | float | np.floating


def resized_crop(image: Image, box: Num[Array, "4"], size: int) -> Float[Array, "{size} {size} 3"]:
    """Cuts `box` out of the image and resizes it to a square: bicubic (a = -0.5), antialiased.

    Args:
        image: the image.
        box: inside the image, at least one pixel. A pixel is read if the box contains its centre.
        size: side of the result.

    Returns:
        Pillow's `image.crop(...).resize((size, size), BICUBIC)` without its rounding to 8 bits.
    """
    top, left, height, width = box
    rows = _bicubic_matrix(top, height, image.shape[0], size)
    columns = _bicubic_matrix(left, width, image.shape[1], size)
    return jnp.clip(_separable(rows, image, columns), 0, 1)  # bicubic overshoots at edges


def squeeze(image: Image, size: int) -> Float[Array, "{size} {size} 3"]:
    """Resizes the whole image to a square, whatever its form."""
    return resized_crop(image, jnp.array([0, 0, *image.shape[:2]]), size)


def centre_crop(
    image: Image, size: int, aspect_ratio: Scalar | None = None
) -> Float[Array, "{size} {size} 3"]:
    """Resizes the largest centred square. An image of that size stays as it is.

    Args:
        image: the image.
        size: side of the result.
        aspect_ratio: width/height of the photograph that was squeezed into this image; the square
            is a square in the photograph. None for an image that was not squeezed.
    """
    height, width = image.shape[:2]
    if aspect_ratio is not None:
        squeeze = width / height / aspect_ratio  # of a square's width
        # Two pixels hold a pixel's centre. In a very long photograph they exceed the square.
        box_height = jnp.clip(width / squeeze, 2, height)
        box_width = jnp.clip(box_height * squeeze, 2, width)
        box = jnp.stack([(height - box_height) / 2, (width - box_width) / 2, box_height, box_width])
        return resized_crop(image, box, size)
    if height == width == size:
        return image
    side = min(height, width)
    box = jnp.array([(height - side) // 2, (width - side) // 2, side, side])
    return resized_crop(image, box, size)


def flip(image: Image) -> Image:
    """Mirrors left and right."""
    return image[:, ::-1]


def affine(
    image: Image, degrees: Scalar, down: Scalar, right: Scalar, zoom: Scalar, fill: Colour
) -> Image:
    """Rotates and zooms about the centre, then shifts: torchvision's `affine`, bilinear.

    Args:
        image: the image.
        degrees: angle, clockwise.
        down: shift in pixels.
        right: shift in pixels.
        zoom: magnification, positive.
        fill: colour of the places that no part of the image reaches.

    Returns:
        Pillow's `image.transform(..., AFFINE, BILINEAR)` without its rounding to 8 bits.
    """
    height, width = image.shape[:2]
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    y = (jnp.arange(height) + 0.5 - height / 2 - down)[:, None]
    x = jnp.arange(width) + 0.5 - width / 2 - right
    source_y = cos * y - sin * x + height / 2
    source_x = sin * y + cos * x + width / 2
    inside = (source_y >= 0) & (source_y < height) & (source_x >= 0) & (source_x < width)
    at = [source_y - 0.5, source_x - 0.5]
    moved = [map_coordinates(image[..., c], at, order=1, mode="nearest") for c in range(3)]
    return jnp.where(inside[..., None], jnp.stack(moved, axis=-1), fill)


def jitter(
    image: Image, brightness: Scalar, contrast: Scalar, saturation: Scalar, hue: Scalar
) -> Image:
    """Changes brightness, contrast, saturation, hue, in this order (torchvision shuffles it).

    Args:
        image: the image.
        brightness: factor, at least 0: a blend with black; 1 changes nothing.
        contrast: likewise, a blend with the image's mean luma.
        saturation: likewise, a blend with each pixel's luma.
        hue: shift in turns of the colour circle; 0 changes nothing.

    Returns:
        What Pillow's `ImageEnhance` returns, clipped after each step, with its hue shifted.
    """
    image = _blend(0.0, image, brightness)
    image = _blend(_luma(image).mean(), image, contrast)
    image = _blend(_luma(image), image, saturation)
    return shift_hue(image, hue)


def shift_hue(image: Image, turns: Scalar) -> Image:
    """Turns the hue in exact HSV, as `colorsys` defines it (Pillow's HSV has only 8 bits)."""
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value = image.max(axis=-1)
    chroma = value - image.min(axis=-1)
    # argmax finds the largest channel. `value == red` may hold for no channel: the compiler may
    # compute the image twice and round it differently.
    largest = image.argmax(axis=-1)
    difference = jnp.choose(largest, [green - blue, blue - red, red - green], mode="clip")
    sextant = 2 * largest + difference / jnp.where(chroma > 0, chroma, 1)
    angle = sextant[..., None] + 6 * turns + jnp.array([5.0, 3.0, 1.0])
    angle = angle - 6 * jnp.floor(angle / 6)  # the % operator takes several times as long on a CPU
    ramp = jnp.clip(jnp.minimum(angle, 4 - angle), 0, 1)
    return value[..., None] - chroma[..., None] * ramp


def grayscale(image: Image) -> Image:
    """Puts the luma of ITU-R 601 (Pillow's mode "L") into all three channels."""
    return jnp.broadcast_to(_luma(image), image.shape)


def blur(image: Image, sigma: Scalar) -> Image:
    """Blurs by a Gaussian, its kernel not truncated, the image reflected about its edge pixels.

    Args:
        image: the image.
        sigma: standard deviation in pixels, positive, at most a tenth of the image's short side.

    Returns:
        The blurred image.
    """
    height, width = image.shape[:2]
    return _separable(_gaussian_matrix(sigma, height), image, _gaussian_matrix(sigma, width))


def erase(image: Image, box: Box, fill: Colour) -> Image:
    """Paints `box`. A box of height or width 0 erases nothing."""
    top, left, height, width = box
    y, x = jnp.arange(image.shape[0])[:, None], jnp.arange(image.shape[1])
    erased = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
    return jnp.where(erased[..., None], fill, image)


def _blend(other: Float[Array, "..."] | float, image: Image, factor: Scalar) -> Image:
    return jnp.clip(other + factor * (image - other), 0, 1)


def _luma(image: Image) -> Float[Array, "height width 1"]:
    return (image * jnp.array([0.299, 0.587, 0.114])).sum(axis=-1, keepdims=True)


def _separable(
    rows: Float[Array, "out_height height"], image: Image, columns: Float[Array, "out_width width"]
) -> Float[Array, "out_height out_width 3"]:
    # The default precision of accelerators rounds both factors to bfloat16 or TF32.
    return jnp.einsum("yh,hwc,xw->yxc", rows, image, columns, precision=lax.Precision.HIGHEST)


def _bicubic_matrix(
    start: Scalar, length: Scalar, size_in: int, size_out: int
) -> Float[Array, "{size_out} {size_in}"]:
    """Weights of the pixels of [start, start + length), one row for each of `size_out` outputs."""
    step = length / size_out
    centre = start + (jnp.arange(size_out)[:, None] + 0.5) * step
    pixel = jnp.arange(size_in) + 0.5
    d = jnp.abs(pixel - centre) / jnp.maximum(step, 1)  # shrinking widens the kernel
    near = (1.5 * d - 2.5) * d**2 + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    weights = jnp.where(d < 1, near, jnp.where(d < 2, far, 0))
    weights = jnp.where((pixel > start) & (pixel < start + length), weights, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _gaussian_matrix(sigma: Scalar, size: int) -> Float[Array, "{size} {size}"]:
    """Row i weighs pixel j by its distance and by the distances of its mirror images."""
    i, j = jnp.arange(size)[:, None], jnp.arange(size)

    def bell(source: Array) -> Array:
        return jnp.exp(-0.5 * ((i - source) / sigma) ** 2)

    left = jnp.where(j > 0, bell(-j), 0)  # an edge pixel is its own mirror image
    right = jnp.where(j < size - 1, bell(2 * (size - 1) - j), 0)
    weights = bell(j) + left + right
    return weights / weights.sum(axis=1, keepdims=True)
