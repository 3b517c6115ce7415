"""RandAugment's operations, as Pillow computes them on 8-bit levels (Cubuk et al. 2020).

The operations and their ranges are those of Dassl, on which the field's prompt methods run. An
operation of magnitude m has the value low + (high − low) m / 30 of its range. Rotations, shears and
shifts have a random sign, take the nearest pixel, and leave empty places black. Lengths are for
images of 224 pixels and scale with the side.

Images are rounded to levels first, and every operation returns levels. Each result is Pillow's,
with two exceptions. Pillow computes places of pixels in 16-bit fractions, and factors in double
precision. A place on the border of two pixels may thus fall on the other side, and a level next to
a whole number may be truncated to another level.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, Int, Key

from cdc_jax.views.pixels import Image, Scalar

Levels = Int[Array, "height width 3"]
Place = Float[Array, "2"]
"""A share of the height, and of the width."""

_SIDE = 224
_GREY = (125, 123, 114)  # of a cutout

RANGES: dict[str, tuple[float, float]] = {
    "autocontrast": (0, 1),
    "equalize": (0, 1),
    "invert": (0, 1),
    "rotate": (0, 30),
    "posterize": (4, 8),
    "solarize": (0, 256),
    "add_and_solarize": (0, 110),
    "saturation": (0.1, 1.9),
    "contrast": (0.1, 1.9),
    "brightness": (0.1, 1.9),
    "sharpness": (0.1, 1.9),
    "shear_x": (0, 0.3),
    "shear_y": (0, 0.3),
    "cutout": (0, 40),
    "shift_x": (0, 100),
    "shift_y": (0, 100),
}
"""Operation -> its values at the magnitudes 0 and 30."""


def draw(key: Key[Array, ""], height: int, width: int, *, m: float) -> tuple[Array, Array, Place]:
    """Draws one of `RANGES`, a signed magnitude in units of 30, and a place; all uniform."""
    drawn = random.uniform(key, (4,), jnp.float32)  # one array: XLA compiles each for a second
    operation = jnp.floor(drawn[0] * len(RANGES)).astype(jnp.int32)
    return operation, jnp.where(drawn[1] < 0.5, -m, m) / 30, drawn[2:]


def operate(image: Image, operation: Scalar, magnitude: Scalar, place: Place) -> Image:
    """Applies an operation.

    Args:
      image: the image.
      operation: number of the operation in `RANGES`.
      magnitude: in units of 30; the sign counts for operations that move pixels.
      place: the centre of a cutout.
    """
    levels = jnp.round(image * 255).astype(jnp.int32)
    low, high = jnp.array(list(RANGES.values()), jnp.float32)[operation]
    value, sign = low + (high - low) * jnp.abs(magnitude), jnp.sign(magnitude)
    # All images of a batch pass all parts. Each operation is in one part, and the other parts
    # change nothing.
    levels = _moved(levels, operation, sign * value)
    levels = _mapped(levels, operation, value)
    levels = _blended(levels, operation, value)
    side = jnp.where(operation == list(RANGES).index("cutout"), value, -1)
    return _cut(levels, side * min(levels.shape[:2]) / _SIDE, place).astype(jnp.float32) / 255


def _one_of(
    functions: Mapping[str, Callable[..., Any]], operation: Scalar, default: Callable[..., Any]
) -> Callable[..., Any]:
    """The function of an operation; the default for other operations."""
    numbers = {name: number for number, name in enumerate(functions, 1)}
    which = np.array([numbers.get(name, 0) for name in RANGES])
    branches = [default, *functions.values()]
    return lambda *arguments: jax.lax.switch(jnp.asarray(which)[operation], branches, *arguments)


# ---- Operations that move pixels: the places (down, right), from the centre, that pixels are read
# from. Signs are Pillow's.


def _rotate(down: Array, right: Array, value: Scalar, sides: Array) -> tuple[Array, Array]:
    cos, sin = jnp.cos(jnp.deg2rad(value)), jnp.sin(jnp.deg2rad(value))
    return sin * right + cos * down, cos * right - sin * down


def _pixels(value: Scalar, sides: Array) -> Array:
    return value * sides.min() / _SIDE


_MOVES: dict[str, Callable[..., tuple[Array, Array]]] = {
    "rotate": _rotate,
    "shear_x": lambda down, right, value, sides: (down, right + value * (down + sides[0] / 2)),
    "shear_y": lambda down, right, value, sides: (down + value * (right + sides[1] / 2), right),
    "shift_x": lambda down, right, value, sides: (down, right + _pixels(value, sides)),
    "shift_y": lambda down, right, value, sides: (down + _pixels(value, sides), right),
}


def _moved(levels: Levels, operation: Scalar, value: Scalar) -> Levels:
    height, width = levels.shape[:2]
    centres = jnp.meshgrid(
        jnp.arange(height) + 0.5 - height / 2, jnp.arange(width) + 0.5 - width / 2, indexing="ij"
    )
    sides = jnp.array([height, width], jnp.float32)
    stay = lambda down, right, value, sides: (down, right)  # noqa: E731
    down, right = _one_of(_MOVES, operation, stay)(*centres, value, sides)
    row = jnp.floor(down + height / 2).astype(jnp.int32)
    column = jnp.floor(right + width / 2).astype(jnp.int32)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    picked = levels[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[..., None], picked, 0)


# ---- Operations that map each channel's levels: the table of all 256 levels, from the channel's
# histogram


def _autocontrast(counts: Int[Array, "256"], value: Scalar) -> Int[Array, "256"]:
    """Stretches the channel to all levels."""
    low = jnp.argmax(counts > 0)
    high = 255 - jnp.argmax(counts[::-1] > 0)
    stretched = (jnp.arange(256) - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, stretched, jnp.arange(256))


def _equalize(counts: Int[Array, "256"], value: Scalar) -> Int[Array, "256"]:
    """Gives the channel a flat histogram."""
    high = 255 - jnp.argmax(counts[::-1] > 0)
    step = (counts.sum() - counts[high]) // 255
    below = jnp.cumsum(counts) - counts
    flat = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, flat, jnp.arange(256))


def _posterize(counts: Int[Array, "256"], value: Scalar) -> Int[Array, "256"]:
    """Keeps the highest bits; a fraction of a bit does not count."""
    lost = 8 - jnp.floor(value).astype(jnp.int32)
    return (jnp.arange(256) >> lost) << lost


def _solarized(levels: Int[Array, "256"], threshold: Scalar) -> Int[Array, "256"]:
    return jnp.where(levels < threshold, levels, 255 - levels)


_TABLES: dict[str, Callable[..., Int[Array, "256"]]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": lambda counts, value: 255 - jnp.arange(256),
    "posterize": _posterize,
    "solarize": lambda counts, value: _solarized(jnp.arange(256), value),
    "add_and_solarize": lambda counts, value: _solarized(_truncated(jnp.arange(256) + value), 128),
}


def _mapped(levels: Levels, operation: Scalar, value: Scalar) -> Levels:
    def one(channel: Int[Array, "height width"]) -> Int[Array, "height width"]:
        counts = jnp.zeros(256, jnp.int32).at[channel].add(1)
        stay = lambda counts, value: jnp.arange(256)  # noqa: E731
        return _one_of(_TABLES, operation, stay)(counts, value)[channel]

    return jax.vmap(one, -1, -1)(levels)


# ---- Operations that blend the image with another image


def _luma(levels: Levels) -> Int[Array, "height width 1"]:
    """Pillow's mode "L"."""
    red, green, blue = jnp.split(levels, 3, -1)
    return (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16


def _mean_luma(levels: Levels) -> Levels:
    mean = jnp.floor(_luma(levels).mean() + 0.5).astype(jnp.int32)
    return jnp.broadcast_to(mean, levels.shape)


def _smooth(levels: Levels) -> Levels:
    """The mean of nine pixels, the central pixel with weight 5. The border stays."""
    rows, columns = levels.shape[0] - 2, levels.shape[1] - 2
    nine = [levels[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    total = sum(nine[1:], nine[0]) + 4 * nine[4]
    return levels.at[1:-1, 1:-1].set((2 * total + 13) // 26)  # rounds total / 13


_OTHERS: dict[str, Callable[[Levels], Levels]] = {
    "saturation": lambda levels: jnp.broadcast_to(_luma(levels), levels.shape),
    "contrast": _mean_luma,
    "brightness": jnp.zeros_like,
    "sharpness": _smooth,
}


def _blended(levels: Levels, operation: Scalar, value: Scalar) -> Levels:
    other = _one_of(_OTHERS, operation, lambda levels: levels)(levels)
    return _truncated(other + value * (levels - other))


def _truncated(values: Float[Array, "..."]) -> Int[Array, "..."]:
    return jnp.clip(values, 0, 255).astype(jnp.int32)


def _cut(levels: Levels, side: Scalar, place: Place) -> Levels:
    """Paints a grey square about a place. A negative side paints nothing."""
    height, width = levels.shape[:2]
    sides = jnp.array([height, width])
    low = jnp.floor(jnp.maximum(place * sides - side / 2, 0))
    high = jnp.floor(jnp.minimum(low + side, sides))
    y, x = jnp.arange(height)[:, None], jnp.arange(width)
    painted = (y >= low[0]) & (y <= high[0]) & (x >= low[1]) & (x <= high[1]) & (side >= 0)
    return jnp.where(painted[..., None], jnp.array(_GREY), levels)
