"""Draws scenes of the bundled world: factors -> 32 x 32 images.

Shapes are drawn once by Pillow into an atlas of anti-aliased masks; a batch of scenes is then one
vectorised look-up (rotation, size, position) and a few blends, a few thousand images a second.
"""

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cdc_jax.tasks.world.factors import VALUES, Factors, Seed, index

SIZE = 32
"""Side of an image in pixels."""

_COLOURS = np.array(
    [(220, 30, 30), (245, 140, 20), (240, 225, 40), (30, 160, 50), (40, 205, 215),
     (35, 60, 220), (130, 40, 170), (245, 130, 190), (120, 70, 30), (175, 175, 180)],
    np.float32) / 255  # fmt: skip
_BACKGROUNDS = np.array(
    [(245, 245, 245), (15, 15, 15), (20, 30, 80), (110, 115, 40),
     (20, 110, 105), (110, 20, 40), (225, 205, 165), (190, 170, 225)],
    np.float32) / 255  # fmt: skip
_POSITIONS = np.array([[0, 0], [-0.28, 0], [0.28, 0], [0, -0.28], [0, 0.28]], np.float32)
_SIZES = np.array([0.46, 0.60, 0.76], np.float32)  # half the side, in half images
_ROTATIONS = np.array([0, 0.42, np.pi / 2], np.float32)

_CHUNK = 256  # scenes drawn at a time: what fits the cache


def render(factors: Factors, seed: Seed) -> np.ndarray:
    """Draws a batch of scenes.

    Args:
      factors: the scenes.
      seed: any seed of `numpy.random.default_rng`, for small shifts of position, size, angle and
        colour, phases of patterns, and pixel noise.

    Returns:
      uint8 images of shape (scenes, 32, 32, 3).
    """
    return render_with_masks(factors, seed)[0]


def render_with_masks(factors: Factors, seed: Seed) -> tuple[np.ndarray, np.ndarray]:
    """`render`, and where the object is: booleans of shape (scenes, 32, 32)."""
    rng = np.random.default_rng(seed)
    count = len(factors["shape"])
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    masks = np.empty((count, SIZE, SIZE), bool)
    for start in range(0, count, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        images[chunk], masks[chunk] = _draw({k: v[chunk] for k, v in factors.items()}, rng)
    return images, masks


def _draw(scene: Factors, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    mask, inner, x, y, half = _place(scene, rng)
    image = _background(scene, rng)
    _add_distractor(image, scene, rng)
    hollow = scene["fill"] == index("fill", "hollow")
    ink = np.where(_each(hollow), mask * (1 - inner), mask)[..., None]
    image += ink * (_object(scene, x, y, half, rng) - image)
    _add_marks(image, scene)
    _apply_style(image, scene, rng)
    image += rng.standard_normal(image.shape, np.float32) * 0.02
    return (np.clip(image, 0, 1) * 255).astype(np.uint8), mask > 0.5


def _each(values: np.ndarray) -> np.ndarray:
    """One value a scene, broadcast over the pixels."""
    return values[:, None, None]


@functools.cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres from -1 to 1: (column, row) coordinates of shape (32, 32)."""
    centres = ((np.arange(SIZE) + 0.5) / SIZE * 2 - 1).astype(np.float32)
    column, row = np.meshgrid(centres, centres)
    return column, row


def _place(scene: Factors, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """The object's mask, its interior, and object coordinates of every pixel."""
    count = len(scene["shape"])
    jitter = rng.uniform(-1, 1, (count, 4)).astype(np.float32)
    centre = _POSITIONS[scene["position"]] + 0.07 * jitter[:, :2]
    half = _SIZES[scene["size"]] * (1 + 0.07 * jitter[:, 2])
    angle = _ROTATIONS[scene["rotation"]] + 0.14 * jitter[:, 3]
    column, row = _grid()
    dx, dy = column - _each(centre[:, 0]), row - _each(centre[:, 1])
    cos, sin = _each(np.cos(angle)), _each(np.sin(angle))
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    atlas = _atlas()
    side = atlas.shape[1]
    u = np.clip((x / _each(half) + 1) * (side / 2), 0, side - 1).astype(np.int32)
    v = np.clip((y / _each(half) + 1) * (side / 2), 0, side - 1).astype(np.int32)
    coverage = atlas[_each(scene["shape"]), v, u]
    return coverage[..., 0], coverage[..., 1], x, y, half


def _jittered(colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(colours.shape, np.float32)
    return np.clip(colours + 0.035 * noise, 0, 1)


def _two_tone(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Blends two colours a scene by a weight a pixel."""
    first, second = first[:, None, None], second[:, None, None]
    return first + (second - first) * weight[..., None]


def _object(
    scene: Factors, x: np.ndarray, y: np.ndarray, half: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The object's colour at every pixel: its main tone and the second tone of its fill."""
    weight = np.zeros_like(x)
    for name, tone in {
        "striped": lambda x, y, h: np.sin(19 * x) > 0,
        "checkered": lambda x, y, h: (np.sin(13 * x) > 0) ^ (np.sin(13 * y) > 0),
        "dotted": lambda x, y, h: np.cos(17 * x) * np.cos(17 * y) > 0.35,
        "shaded": lambda x, y, h: np.clip(0.5 + y / (1.6 * h), 0, 1),
    }.items():
        mask = scene["fill"] == index("fill", name)
        weight[mask] = tone(x[mask], y[mask], _each(half[mask]))
    colour = _jittered(_COLOURS[scene["colour"]], rng)
    bright = colour.mean(1, keepdims=True) > 0.45
    second = np.where(bright, 0.3 * colour, np.clip(0.35 * colour + 0.62, 0, 1))
    return _two_tone(colour, second, weight)


def _background(scene: Factors, rng: np.random.Generator) -> np.ndarray:
    column, row = _grid()
    phase = _each(rng.uniform(0, 2 * np.pi, len(scene["shape"])).astype(np.float32))
    weight = np.zeros((len(phase), SIZE, SIZE), np.float32)
    for name, tone in {
        "lined": lambda p: np.sin(16 * row + p) > 0,
        "speckled": lambda p: rng.random((len(p), SIZE, SIZE), np.float32) < 0.16,
        "tiled": lambda p: (np.sin(9 * column + p) > 0) ^ (np.sin(9 * row + p) > 0),
    }.items():
        mask = scene["pattern"] == index("pattern", name)
        weight[mask] = tone(phase[mask])
    colour = _jittered(_BACKGROUNDS[scene["background"]], rng)
    bright = colour.mean(1, keepdims=True) > 0.5
    return _two_tone(colour, np.where(bright, 0.72 * colour, 0.75 * colour + 0.22), weight)


def _add_distractor(image: np.ndarray, scene: Factors, rng: np.random.Generator) -> None:
    """A small thing near one of the corners, behind the object."""
    column, row = _grid()
    for name, inside in {
        "dot": lambda x, y: x * x + y * y < 0.034,
        "box": lambda x, y: np.maximum(abs(x), abs(y)) < 0.17,
        "stick": lambda x, y: (abs(x) < 0.08) & (abs(y) < 0.28),
    }.items():
        mask = scene["distractor"] == index("distractor", name)
        corner = rng.choice(np.array([-0.68, 0.68], np.float32), (int(mask.sum()), 2))
        covered = inside(column - _each(corner[:, 0]), row - _each(corner[:, 1]))[..., None]
        colour = _jittered(_COLOURS[scene["distractor_colour"][mask]], rng)[:, None, None]
        image[mask] = np.where(covered, colour, image[mask])


def _add_marks(image: np.ndarray, scene: Factors) -> None:
    """Small squares in the first and the last corner."""
    for name, value in {"white": 1.0, "black": 0.0}.items():
        mask = scene["marks"] == index("marks", name)
        image[mask, :4, :4] = value
        image[mask, -4:, -4:] = value


def _apply_style(image: np.ndarray, scene: Factors, rng: np.random.Generator) -> None:
    def noisy(x: np.ndarray) -> np.ndarray:
        return x + 0.17 * rng.standard_normal(x.shape, np.float32)

    def blurry(x: np.ndarray) -> np.ndarray:
        for axis in (1, 2, 1, 2):
            x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
        return x

    def sketch(x: np.ndarray) -> np.ndarray:
        grey = x.mean(-1)
        edges = abs(np.diff(grey, axis=2, append=grey[:, :, -1:]))
        edges += abs(np.diff(grey, axis=1, append=grey[:, -1:]))
        return np.repeat(1 - np.clip(2.2 * edges, 0, 1)[..., None], 3, axis=-1)

    styles: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "noisy": noisy,
        "blurry": blurry,
        "faded": lambda x: 0.38 * x + 0.42,
        "sketch": sketch,
    }
    for name, change in styles.items():
        mask = scene["style"] == index("style", name)
        image[mask] = change(image[mask])


@functools.cache
def _atlas(side: int = 96) -> np.ndarray:
    """Masks and interiors of all shapes: float32 in [0, 1], (shapes, side, side, 2)."""
    fine = 4 * side
    pairs = []
    for name in VALUES["shape"]:
        image = Image.new("L", (fine, fine), 0)
        _SHAPES[name](_Pen(image))
        # Blurred to the image's own resolution, so that look-ups don't alias; the interior is the
        # shape eroded by a wide blur and a high threshold.
        edge = ImageFilter.GaussianBlur(1.2 * fine / side)
        eroded = image.filter(ImageFilter.GaussianBlur(fine / 21))
        eroded = eroded.point([255 if v > 215 else 0 for v in range(256)])
        masks = [
            im.filter(edge).resize((side, side), Image.Resampling.BOX) for im in (image, eroded)
        ]
        pairs.append(np.stack([np.asarray(m, np.float32) / 255 for m in masks], -1))
    atlas = np.stack(pairs)
    # Look-ups outside the shape's square are clamped to its border, which must be empty.
    atlas[:, [0, -1]] = atlas[:, :, [0, -1]] = 0
    return atlas


class _Pen:
    """Draws white (or black) figures on a square whose coordinates run from -1 to 1."""

    def __init__(self, image: Image.Image):
        self._draw = ImageDraw.Draw(image)
        self._half = image.width / 2

    def _points(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [((x + 1) * self._half, (y + 1) * self._half) for x, y in points]

    def polygon(self, *points: tuple[float, float]) -> None:
        self._draw.polygon(self._points(list(points)), fill=255)

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, ink: int = 255) -> None:
        self._draw.ellipse(self._points([(x0, y0), (x1, y1)]), fill=ink)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, ink: int = 255) -> None:
        self._draw.rectangle(self._points([(x0, y0), (x1, y1)]), fill=ink)

    def radial(self, radius: Callable[[float], float], corners: int = 240) -> None:
        angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) - np.pi / 2
        self.polygon(*[(radius(a) * np.cos(a), radius(a) * np.sin(a)) for a in angles])


def _cross(pen: _Pen) -> None:
    pen.rectangle(-0.28, -0.92, 0.28, 0.92)
    pen.rectangle(-0.92, -0.28, 0.92, 0.28)


def _heart(pen: _Pen) -> None:
    pen.ellipse(-0.9, -0.8, 0.05, 0.15)
    pen.ellipse(-0.05, -0.8, 0.9, 0.15)
    pen.polygon((-0.85, -0.1), (0.85, -0.1), (0, 0.92))


def _ring(pen: _Pen) -> None:
    pen.ellipse(-0.92, -0.92, 0.92, 0.92)
    pen.ellipse(-0.48, -0.48, 0.48, 0.48, ink=0)


def _moon(pen: _Pen) -> None:
    pen.ellipse(-0.9, -0.92, 0.9, 0.92)
    pen.ellipse(-0.3, -0.85, 1.25, 0.85, ink=0)


def _star(pen: _Pen) -> None:
    corners = [(0.98 if i % 2 == 0 else 0.4, np.pi * i / 5) for i in range(10)]
    pen.polygon(*[(r * np.sin(a), -r * np.cos(a)) for r, a in corners])


def _tee(pen: _Pen) -> None:
    pen.rectangle(-0.85, -0.85, 0.85, -0.35)
    pen.rectangle(-0.26, -0.4, 0.26, 0.9)


def _ell(pen: _Pen) -> None:
    pen.rectangle(-0.7, -0.9, -0.15, 0.9)
    pen.rectangle(-0.7, 0.35, 0.8, 0.9)


def _fork(pen: _Pen) -> None:
    pen.rectangle(-0.85, -0.9, -0.4, 0.1)
    pen.rectangle(0.4, -0.9, 0.85, 0.1)
    pen.rectangle(-0.85, 0, 0.85, 0.4)
    pen.rectangle(-0.24, 0.3, 0.24, 0.95)


def _saltire(pen: _Pen) -> None:
    pen.polygon((-0.95, -0.6), (-0.6, -0.95), (0.95, 0.6), (0.6, 0.95))
    pen.polygon((-0.95, 0.6), (-0.6, 0.95), (0.95, -0.6), (0.6, -0.95))


def _dome(pen: _Pen) -> None:
    pen.ellipse(-0.92, -0.6, 0.92, 1.24)
    pen.rectangle(-1, 0.4, 1, 1, ink=0)


def _gear(pen: _Pen) -> None:
    pen.radial(lambda a: 0.92 if np.cos(8 * a) > 0 else 0.62)
    pen.ellipse(-0.26, -0.26, 0.26, 0.26, ink=0)


def _tree(pen: _Pen) -> None:
    pen.polygon(
        (0, -0.95), (0.75, 0), (0.35, 0), (0.85, 0.55), (-0.85, 0.55), (-0.35, 0), (-0.75, 0)
    )
    pen.rectangle(-0.17, 0.5, 0.17, 0.95)


def _fish(pen: _Pen) -> None:
    pen.ellipse(-0.95, -0.45, 0.5, 0.45)
    pen.polygon((0.3, 0), (0.95, -0.55), (0.95, 0.55))


def _arch(pen: _Pen) -> None:
    pen.ellipse(-0.85, -0.9, 0.85, 0.8)
    pen.rectangle(-0.85, -0.05, 0.85, 0.9)
    pen.ellipse(-0.42, -0.45, 0.42, 0.4, ink=0)
    pen.rectangle(-0.42, -0.02, 0.42, 1, ink=0)


def _drop(pen: _Pen) -> None:
    pen.ellipse(-0.65, -0.35, 0.65, 0.95)
    pen.polygon((0, -0.98), (0.6, 0.1), (-0.6, 0.1))


def _flag(pen: _Pen) -> None:
    pen.rectangle(-0.75, -0.95, -0.5, 0.95)
    pen.polygon((-0.6, -0.95), (0.85, -0.45), (-0.6, 0.1))


def _key(pen: _Pen) -> None:
    pen.ellipse(-0.5, -0.95, 0.5, 0.05)
    pen.ellipse(-0.2, -0.65, 0.2, -0.25, ink=0)
    pen.rectangle(-0.14, 0, 0.14, 0.95)
    pen.rectangle(0, 0.6, 0.5, 0.9)
    pen.rectangle(0, 0.2, 0.4, 0.42)


_SHAPES: dict[str, Callable[[_Pen], None]] = {
    "circle": lambda pen: pen.ellipse(-0.88, -0.88, 0.88, 0.88),
    "square": lambda pen: pen.rectangle(-0.78, -0.78, 0.78, 0.78),
    "triangle": lambda pen: pen.polygon((0, -0.92), (0.95, 0.75), (-0.95, 0.75)),
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "ring": _ring,
    "moon": _moon,
    "hexagon": lambda pen: pen.radial(lambda a: 0.95, corners=6),
    "arrow": lambda pen: pen.polygon(
        (-0.95, -0.25), (0, -0.25), (0, -0.75), (0.95, 0), (0, 0.75), (0, 0.25), (-0.95, 0.25)
    ),
    "house": lambda pen: pen.polygon(
        (0, -0.95), (0.9, -0.15), (0.65, -0.15), (0.65, 0.85), (-0.65, 0.85), (-0.65, -0.15),
        (-0.9, -0.15),
    ),
    "bolt": lambda pen: pen.polygon(
        (0.2, -0.95), (-0.65, 0.15), (-0.1, 0.15), (-0.25, 0.95), (0.65, -0.25), (0.08, -0.25),
        (0.55, -0.95),
    ),
    "tee": _tee,
    "ell": _ell,
    "fork": _fork,
    "saltire": _saltire,
    "oval": lambda pen: pen.ellipse(-0.95, -0.52, 0.95, 0.52),
    "bar": lambda pen: pen.rectangle(-0.95, -0.3, 0.95, 0.3),
    "dome": _dome,
    "hourglass": lambda pen: pen.polygon((-0.8, -0.9), (0.8, -0.9), (-0.8, 0.9), (0.8, 0.9)),
    "flower": lambda pen: pen.radial(lambda a: 0.62 + 0.33 * np.cos(5 * a)),
    "gear": _gear,
    "tree": _tree,
    "fish": _fish,
    "arch": _arch,
    "drop": _drop,
    "flag": _flag,
    "key": _key,
}  # fmt: skip
