"""Augmentations against Pillow, SciPy, colorsys and torchvision's published code; draws; sets.

Where CDC_JAX_PHOTOS names a folder of JPEG photographs, every oracle runs on six of them, too.
"""

import colorsys
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from cdc_jax import views
from cdc_jax.views import augmentations, pixels

HEIGHT, WIDTH = 96, 80
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FILL = np.array(MEAN, np.float32)


def synthetic_image(seed, height=HEIGHT, width=WIDTH):
    """As in photographs: a 1/f spectrum, correlated channels, hard edges, black, white and grey."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequency[0, 0] = 1
    noise = np.fft.fft2(rng.normal(size=(4, height, width))) / frequency
    planes = np.fft.ifft2(noise).real
    planes /= planes.std(axis=(1, 2), keepdims=True)
    image = 0.5 + 0.2 * (planes[:1] + 0.6 * planes[1:])
    image[:, 10:30, 20:50] = rng.random((3, 1, 1))
    image[:, 40:50, :] = np.array([0.0, 0.5, 1.0]).repeat(math.ceil(width / 3))[:width]
    return (255 * image.clip(0, 1)).round().astype(np.uint8).transpose(1, 2, 0)


def photographs():
    folder = os.environ.get("CDC_JAX_PHOTOS")
    if not folder:
        pytest.skip("set CDC_JAX_PHOTOS to a folder of JPEG photographs")
    paths = sorted(Path(folder).rglob("*.jp*g"))
    opened = [Image.open(p).convert("RGB") for p in paths[:: max(1, len(paths) // 6)][:6]]
    return [np.asarray(ImageOps.fit(image, (WIDTH, HEIGHT))) for image in opened]


@pytest.fixture(params=["synthetic", "photographs"], scope="module")
def images(request):
    """Uint8 images of one size."""
    if request.param == "photographs":
        return photographs()
    return [synthetic_image(seed) for seed in range(3)]


def run(function, image, *parameters, **static):
    """One of `pixels`' functions on a uint8 image, jitted, in levels of 255."""
    jitted = jax.jit(function, static_argnames=list(static))
    parameters = [jnp.asarray(p) for p in parameters]
    return np.asarray(jitted(jnp.float32(image) / 255, *parameters, **static)) * 255


def per_channel(function, image):
    """A float oracle: Pillow's mode "F", one channel at a time."""
    channels = [Image.fromarray(np.float32(image[..., c]), "F") for c in range(3)]
    return np.stack([np.asarray(function(channel, c)) for c, channel in enumerate(channels)], -1)


# ---- the pixels


BOXES = [
    (0, 0, HEIGHT, WIDTH),
    (5, 7, 31, 42),  # enlarged
    (10, 0, 86, 64),
    (90, 79, 6, 1),  # one pixel wide
    (3, 20, 33, 33),
]


@pytest.mark.parametrize("size", [32, 56])
@pytest.mark.parametrize("box", BOXES)
def test_resized_crop_is_pillows(images, box, size):
    top, left, height, width = box
    corners = (left, top, left + width, top + height)
    for image in images:
        got = run(pixels.resized_crop, image, box, size=size)

        def exact(channel, _):
            return channel.crop(corners).resize((size, size), Image.Resampling.BICUBIC)

        np.testing.assert_allclose(got, per_channel(exact, image).clip(0, 255), atol=2e-3)
        rounded = (
            Image.fromarray(image).crop(corners).resize((size, size), Image.Resampling.BICUBIC)
        )
        difference = np.abs(got - np.float32(rounded))
        # Pillow rounds and clips to 8 bits between the two passes.
        assert difference.mean() < 0.5
        assert np.quantile(difference, 0.99) < 1.5


def test_centre_crop(images):
    top = (HEIGHT - WIDTH) // 2
    for image in images:
        same = image[top : top + WIDTH]
        np.testing.assert_allclose(run(pixels.centre_crop, image, size=WIDTH), same, atol=2e-3)
        got = run(pixels.centre_crop, same, size=32)
        pillow = per_channel(lambda c, _: c.resize((32, 32), Image.Resampling.BICUBIC), same)
        np.testing.assert_allclose(got, pillow.clip(0, 255), atol=2e-3)


def test_flip_is_pillows(images):
    for image in images:
        mirrored = np.asarray(ImageOps.mirror(Image.fromarray(image)))
        np.testing.assert_allclose(run(pixels.flip, image), mirrored, atol=1e-4)


def test_grayscale_is_pillows(images):
    for image in images:
        luma = np.float32(Image.fromarray(image).convert("L"))[..., None]
        np.testing.assert_allclose(run(pixels.grayscale, image) - luma, 0, atol=0.505)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize("step", ["Brightness", "Contrast", "Color"])
def test_jitter_steps_are_pillows(images, step, factor):
    factors = [factor if name == step else 1.0 for name in ("Brightness", "Contrast", "Color")]
    for image in images:
        got = run(pixels.jitter, image, *factors, 0.0)
        pillow = getattr(ImageEnhance, step)(Image.fromarray(image)).enhance(factor)
        # Pillow truncates the result, and rounds the luma that it blends with.
        tolerance = 1.01 + 0.51 * abs(1 - factor)
        np.testing.assert_allclose(got, np.float32(pillow), atol=tolerance)


def test_jitter_order(images):
    brightness, contrast, saturation, hue = 1.3, 0.7, 1.4, -0.08
    for image in images:
        expected = np.clip(brightness * (image / 255.0), 0, 1)
        weights = [0.299, 0.587, 0.114]
        mean = (expected @ weights).mean()
        expected = np.clip(mean + contrast * (expected - mean), 0, 1)
        luma = (expected @ weights)[..., None]
        expected = 255 * np.clip(luma + saturation * (expected - luma), 0, 1)
        expected = run(pixels.shift_hue, expected, hue)
        got = run(pixels.jitter, image, brightness, contrast, saturation, hue)
        np.testing.assert_allclose(got, expected, atol=5e-2)


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.037, 1 / 3, 0.5])
def test_shift_hue_is_colorsys(images, turns):
    def shift(rgb):
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
        return colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)

    corners = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)])
    for image in [corners[:, None], *(image[::7, ::5] for image in images)]:
        expected = 255 * np.apply_along_axis(shift, -1, image / 255)
        np.testing.assert_allclose(run(pixels.shift_hue, image, turns), expected, atol=5e-3)


@pytest.mark.parametrize("sigma", [0.02, 0.4, 2.0, 7.5])
def test_blur_is_scipys(images, sigma):
    for image in images:
        expected = np.float64(image)
        for axis in (0, 1):
            expected = scipy.ndimage.gaussian_filter1d(
                expected, sigma, axis=axis, mode="mirror", radius=min(HEIGHT, WIDTH) // 2
            )
        np.testing.assert_allclose(run(pixels.blur, image, sigma), expected, atol=2e-3)


AFFINES = [(15.0, 0.0, 0.0, 1.0), (-7.3, 4.25, -3.6, 0.9), (0.0, 0.4, 9.7, 1.1), (180.0, 0, 0, 1)]


@pytest.mark.parametrize("parameters", AFFINES)
def test_affine_is_pillows(images, parameters):
    degrees, down, right, zoom = parameters
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    centre = np.array([[1, 0, WIDTH / 2], [0, 1, HEIGHT / 2], [0, 0, 1]])
    shift = np.array([[1, 0, right], [0, 1, down], [0, 0, 1]])
    # y points down, so that this turns clockwise on the screen.
    turn = np.array([[zoom * cos, -zoom * sin, 0], [zoom * sin, zoom * cos, 0], [0, 0, 1]])
    inverse = np.linalg.inv(shift @ centre @ turn @ np.linalg.inv(centre))
    for image in images:
        got = run(pixels.affine, image, *parameters, FILL)

        def exact(channel, c):
            return channel.transform(
                (WIDTH, HEIGHT),
                Image.Transform.AFFINE,
                inverse[:2].ravel(),
                Image.Resampling.BILINEAR,
                fillcolor=float(255 * FILL[c]),
            )

        difference = np.abs(got - per_channel(exact, image))
        assert (difference > 0.1).mean() < 1e-3  # a place on the very border may fall either side
        assert difference.mean() < 0.01


@pytest.mark.parametrize("box", [(3, 5, 20, 7), (0, 0, HEIGHT, WIDTH), (9, 9, 0, 30)])
def test_erase(images, box):
    top, left, height, width = box
    for image in images:
        expected = np.float32(image)
        expected[top : top + height, left : left + width] = 255 * FILL
        np.testing.assert_allclose(run(pixels.erase, image, box, FILL), expected, atol=1e-4)


# ---- the draws


def draws(name, height=HEIGHT, width=WIDTH, number=4000, **options):
    augmentation = views.AUGMENTATIONS[name]
    options = {k: v for k, v in (augmentation.options | options).items() if k != "p"}
    keys = jax.random.split(jax.random.key(0), number)
    drawn = jax.jit(jax.vmap(lambda key: augmentation.draw(key, height, width, **options)))(keys)
    return np.stack([np.asarray(d) for d in drawn], axis=-1).squeeze()


def torchvision_crop(rng, height, width, scale, ratio):
    """RandomResizedCrop.get_params, as torchvision 0.20 has it."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect_ratio = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect_ratio)), round(math.sqrt(area / aspect_ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def torchvision_erase(rng, height, width, scale, ratio):
    """RandomErasing.get_params, likewise."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect_ratio = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area * aspect_ratio)), round(math.sqrt(area / aspect_ratio))
        if h < height and w < width:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    return 0, 0, 0, 0


@pytest.mark.parametrize(
    "name, reference, height, width, options",
    [
        ("crop", torchvision_crop, 224, 224, {}),
        ("crop", torchvision_crop, 32, 32, {}),
        ("crop", torchvision_crop, 40, 90, {"scale": (0.3, 1.0), "ratio": (0.75, 4 / 3)}),
        ("erase", torchvision_erase, 224, 224, {}),
        ("erase", torchvision_erase, 40, 90, {"scale": (0.1, 0.2), "ratio": (0.5, 1.0)}),
    ],
)
def test_boxes_are_distributed_as_torchvisions(name, reference, height, width, options):
    got = draws(name, height, width, **options)
    options = {k: v for k, v in (views.AUGMENTATIONS[name].options | options).items() if k != "p"}
    rng = random.Random(0)
    expected = np.array([reference(rng, height, width, **options) for _ in range(len(got))])
    top, left, box_height, box_width = got.T
    assert (top >= 0).all() and (top + box_height <= height).all()
    assert (left >= 0).all() and (left + box_width <= width).all()
    area, ratio = box_height * box_width, box_width / box_height
    low, high = options["ratio"]
    if name == "erase":
        low, high = 1 / high, 1 / low
    slack = 1 + 1 / box_height + 1 / box_width  # each side is rounded to a pixel
    assert (area >= options["scale"][0] * height * width / slack).all()
    assert (area <= options["scale"][1] * height * width * slack).all()
    assert (ratio >= low / slack).all() and (ratio <= high * slack).all()
    for a, b in [*zip(got.T, expected.T, strict=True), (area, expected[:, 2] * expected[:, 3])]:
        assert scipy.stats.ks_2samp(a, b, method="asymp").pvalue > 1e-4


@pytest.mark.parametrize("height, width", [(8, 64), (64, 8), (40, 44)])
def test_crop_without_a_fitting_box_is_torchvisions(height, width):
    never = {"scale": (3.0, 3.0), "ratio": (0.75, 4 / 3)}
    expected = torchvision_crop(random.Random(0), height, width, **never)
    assert (draws("crop", height, width, number=2, **never) == expected).all()


@pytest.mark.parametrize(
    "name, ranges",
    [
        ("jitter", [(0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1)]),
        ("blur", [(0.1 * math.sqrt(80 / 224), 2.0 * math.sqrt(80 / 224))]),
        ("affine", [(-15, 15), (-9.6, 9.6), (-8, 8), (0.9, 1.1)]),
    ],
)
def test_draws_are_uniform(name, ranges):
    drawn = draws(name).reshape(4000, -1)
    assert drawn.shape[1] == len(ranges)
    for values, (low, high) in zip(drawn.T, ranges, strict=True):
        assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6
        assert scipy.stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-4
    if len(ranges) > 1:  # and independent
        correlation = np.corrcoef(drawn.T) - np.eye(len(ranges))
        assert np.abs(correlation).max() < 0.07


def test_probability():
    white_left = np.zeros((400, 8, 8, 3), np.uint8)
    white_left[:, :, :4] = 255
    for p in (0.0, 0.3, 1.0):
        got = build(f"flip(p={p})", size=8)(0, 0, jnp.arange(400), white_left)
        share = np.mean(np.asarray(got)[0, :, 0, 7, 0] > 0)
        assert share == p if p in (0, 1) else abs(share - p) < 0.07


# ---- photographs squeezed into squares

SQUEEZED, FORMS = 336, [(450, 300), (300, 400), (240, 480), (333, 333)]


def photograph(width, height):
    """Smooth and with edges, at the size of a photograph on disk, and squeezed."""
    image = Image.fromarray(synthetic_image(width, height, width))
    return image, image.resize((SQUEEZED, SQUEEZED), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("width, height", FORMS)
def test_boxes_are_distributed_as_in_the_photograph(width, height):
    """Drawn in a square, they are torchvision's in the photograph, as parts of its sides."""
    got = draws("crop", SQUEEZED, SQUEEZED, aspect_ratio=np.float32(width / height)) / SQUEEZED
    rng = random.Random(0)
    options = views.AUGMENTATIONS["crop"].options
    expected = [torchvision_crop(rng, height, width, **options) for _ in range(len(got))]
    expected = np.array(expected) / [height, width, height, width]
    ratio = [box[:, 3] / box[:, 2] * width / height for box in (got, expected)]
    assert 0.74 < ratio[0].min() < 0.76 and 1.32 < ratio[0].max() < 1.35
    for a, b in [*zip(got.T, expected.T, strict=True), ratio]:
        assert scipy.stats.ks_2samp(a, b, method="asymp").pvalue > 1e-4


@pytest.mark.parametrize("width, height", [(640, 80), (80, 640), (440, 400)])
def test_crop_without_a_fitting_box_in_a_photograph(width, height):
    never = {"scale": (3.0, 3.0), "ratio": (0.75, 4 / 3)}
    expected = torchvision_crop(random.Random(0), height, width, **never)
    got = draws(
        "crop", SQUEEZED, SQUEEZED, number=2, aspect_ratio=np.float32(width / height), **never
    )
    expected = np.array(expected) / [height, width, height, width] * SQUEEZED
    assert np.abs(got - expected).max() <= 1.5


@pytest.mark.parametrize("width, height", FORMS)
def test_views_of_a_photograph_are_pillows(width, height):
    """Crops and centred squares, within 2.5 levels of 255 in the mean: squeezing blurs a little."""
    image, squeezed = photograph(width, height)
    aspect_ratio = np.float32(width / height)
    pixel = np.array([height, width, height, width]) / SQUEEZED
    for box in [(20, 30, 200, 180), (100, 5, 236, 300), (40, 120, 90, 90)]:
        top, left, tall, wide = box * pixel
        corners = (left, top, left + wide, top + tall)
        expected = image.resize((56, 56), Image.Resampling.BICUBIC, box=corners)
        got = run(pixels.resized_crop, np.asarray(squeezed), box, size=56)
        assert np.abs(got - np.float32(expected)).mean() < 2.5
    got = run(pixels.centre_crop, np.asarray(squeezed), size=56, aspect_ratio=aspect_ratio)
    side = min(width, height)
    corners = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    expected = image.resize((56, 56), Image.Resampling.BICUBIC, box=corners)
    assert np.abs(got - np.float32(expected)).mean() < 2.5


@pytest.mark.slow
def test_aspects_reach_every_first_step():
    images = np.stack([np.asarray(photograph(*form)[1].resize((48, 48))) for form in FORMS])
    aspect_ratios = np.array([width / height for width, height in FORMS], np.float32)
    made = np.asarray(
        build("flip(p=0); crop", templates=2)(5, 6, np.arange(4), images, aspect_ratios)
    )
    for row, (image, aspect_ratio) in enumerate(zip(images, aspect_ratios, strict=True)):
        clean = run(pixels.centre_crop, image, size=24, aspect_ratio=aspect_ratio)
        np.testing.assert_allclose(made[0, row], (clean / 255 - FILL) / STD, atol=1e-4)
        key = jax.random.fold_in(jax.random.key(5, impl="threefry2x32"), 6)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, row), 1), 0)
        options = views.AUGMENTATIONS["crop"].options
        (box,) = augmentations.draw_crop(
            jax.random.split(key)[0], 48, 48, aspect_ratio=jnp.float32(aspect_ratio), **options
        )
        crop = run(pixels.resized_crop, image, box, size=24)
        np.testing.assert_allclose(made[1, row], (crop / 255 - FILL) / STD, atol=1e-4)


@pytest.mark.parametrize("aspect_ratio", [60.0, 1 / 60, 900.0, 1 / 900])
def test_very_long_photographs_have_views(aspect_ratio):
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
    make = build("flip; crop", templates=2)
    made = np.asarray(make(5, 6, np.arange(3), images, np.full(3, aspect_ratio, np.float32)))
    assert np.isfinite(made).all()


@pytest.mark.slow
def test_squares_need_no_aspects():
    ones = np.ones(6, np.float32)
    make = build("crop | flip", templates=1)
    np.testing.assert_array_equal(make(1, 2, INDICES, BATCH), make(1, 2, INDICES, BATCH, ones))
    with pytest.raises(ValueError, match=r"got aspect_ratios of shape \(2,\) for 6 images"):
        make(1, 2, INDICES, BATCH, ones[:2])


# ---- the sets


def build(spec, *, templates=4, size=24, mean=MEAN, std=STD, **options):
    return views.build(spec, templates=templates, size=size, mean=mean, std=std, **options)


def batch_of(number, side=32):
    return np.stack([synthetic_image(seed, max(side, 50), side)[-side:] for seed in range(number)])


BATCH, INDICES = batch_of(6), np.array([11, 3, 500, 0, 123456, 42])
SPEC = "crop | flip | jitter; crop | grayscale(p=0.5) | erase(p=1); affine | blur"


@pytest.fixture(scope="module")
def make():
    """Three views that between them have every augmentation."""
    return build(SPEC, templates=3)


def names(spec, **options):
    chosen = views.compositions(spec, **{"templates": 4, **options})
    return [" ".join(name for name, _ in view) for view in chosen]


def test_named_sets():
    assert names("clean") == [""]
    assert names("shared") == ["crop flip"]
    assert names("crop_flip") == ["crop flip"] * 4
    assert names("set1") == ["flip", "jitter", "grayscale blur", "affine"]
    assert names("set1", templates=2) == ["flip", "jitter"]
    assert names("set1", templates=6) == names("set1") + ["flip", "jitter"]
    for without, cropped in zip(
        views.compositions("set1", templates=8),
        views.compositions("set2", templates=8),
        strict=True,
    ):
        assert cropped[0] == ("crop", {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)})
        assert cropped[1:] == without


@pytest.mark.parametrize(
    "label_properties, expected",
    [
        (("category",), "crop flip jitter grayscale blur affine"),
        (("shape", "fill"), "crop flip jitter grayscale affine"),
        (("colour",), "crop flip blur affine"),
        (("position",), "jitter grayscale blur"),
        (("position", "background"), "blur"),
        (("rotation",), "crop jitter grayscale blur"),
        (("colour", "position", "fill"), ""),
    ],
)
def test_composed_keeps_the_properties_of_the_label(label_properties, expected):
    assert names("composed", label_properties=label_properties) == [expected]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("clean", False),
        ("grayscale | flip(p=1)", False),
        ("clean; flip(p=0)", False),
        ("clean; flip", True),
        ("grayscale(p=0.5)", True),
        ("jitter", True),
    ],
)
def test_random_views_differ_from_step_to_step_and_no_others(spec, expected):
    images = np.stack([synthetic_image(seed, 12, 12) for seed in range(16)])
    make = views.build(spec, templates=2, size=12, mean=MEAN, std=STD)
    first, second = (np.asarray(make(0, step, np.arange(16), images)) for step in (0, 1))
    assert (first != second).any() == expected
    assert views.are_random(spec, templates=2) == expected


def test_spec_options():
    (view,) = views.compositions(" crop ( scale=(0.5, 1) )|blur(p=0.25)", templates=1)
    assert view == (
        ("crop", {"scale": (0.5, 1), "ratio": (3 / 4, 4 / 3)}),
        ("blur", {"sigma": (0.1, 2.0), "p": 0.25}),
    )
    assert names("clean; crop | flip", templates=4) == ["", "crop flip"] * 2


def test_clean_views():
    images = batch_of(3)
    expected = (images / 255 - MEAN) / STD
    np.testing.assert_allclose(views.clean_view(images, MEAN, STD), expected, atol=1e-5)
    got = build("clean", size=32)(0, 0, jnp.arange(3), images)
    np.testing.assert_allclose(got, expected[None], atol=1e-5)


@pytest.mark.slow
def test_a_view_is_its_steps_applied_in_turn(make):
    """The pixels of view 1 from the parameters that its own keys draw."""
    images, indices = BATCH, INDICES
    got = np.asarray(make(3, 5, indices, images))[1]
    options = {
        name: {option: value for option, value in augmentation.options.items() if option != "p"}
        for name, augmentation in views.AUGMENTATIONS.items()
    }
    changed = []
    for image, index, expected in zip(images, indices, got, strict=True):
        key = jax.random.key(3, impl="threefry2x32")
        for number in (5, index, 1):
            key = jax.random.fold_in(key, number)
        keys = [jax.random.split(jax.random.fold_in(key, step)) for step in range(3)]
        (box,) = augmentations.draw_crop(keys[0][0], 32, 32, **options["crop"])
        image = run(pixels.resized_crop, image, box, size=24)
        changed.append(bool(jax.random.bernoulli(keys[1][1], 0.5)))
        if changed[-1]:
            image = run(pixels.grayscale, image)
        (box,) = augmentations.draw_erase(keys[2][0], 24, 24, **options["erase"])
        image = run(pixels.erase, image, box, FILL)
        np.testing.assert_allclose(expected, (image / 255 - FILL) / STD, atol=1e-4)
        assert (np.abs(expected).max(axis=-1) < 1e-6).any()  # erased: 0 to the encoder
    assert len(set(changed)) == 2


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(6)))
def test_pixels_depend_on_the_image_not_its_neighbours(make, order):
    got = make(1, 2, INDICES, BATCH)
    assert got.shape == (3, 6, 24, 24, 3) and got.dtype == jnp.float32
    order = np.array(order)
    np.testing.assert_allclose(make(1, 2, INDICES[order], BATCH[order]), got[:, order], atol=2e-5)


@pytest.mark.slow
def test_pixels_of_a_smaller_batch(make):
    alone = make(1, 2, INDICES[4:5], BATCH[4:5])
    np.testing.assert_allclose(alone, make(1, 2, INDICES, BATCH)[:, 4:5], atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "templates", "templates_views", "further_views"),
    [
        ("flip", 3, ["flip"], ["flip", "flip"]),
        ("flip; jitter", 1, ["flip"], ["jitter", "flip"]),
        ("flip; jitter", 3, ["flip", "jitter", "flip"], ["jitter", "flip"]),
        ("set1", 2, ["flip", "jitter"], ["grayscale blur", "affine"]),
    ],
)
def test_further_views_follow_and_change_no_others(spec, templates, templates_views, further_views):
    listed = names(spec, templates=templates, further=2)
    assert listed == templates_views + further_views
    all_views = build(spec, templates=templates, further=2)(3, 4, INDICES, BATCH)
    if spec != "flip; jitter" or templates > 1:
        plain = build(spec, templates=templates)(3, 4, INDICES, BATCH)
        np.testing.assert_allclose(all_views[:-2], plain, atol=2e-5)
    assert all_views.shape[0] == len(listed)
    assert np.abs(all_views[-1] - all_views[-2]).max() > 0.1
    assert np.abs(all_views[-1] - all_views[0]).max() > 0.1
    assert views.are_random("clean; flip", templates=1, further=1)


@pytest.mark.slow
def test_seed_step_index_and_view_all_matter():
    same = np.repeat(BATCH[:1], 2, axis=0)
    make = build("crop_flip", templates=3)

    def draw(seed, step):
        return np.asarray(make(seed, step, jnp.array([0, 1]), same))

    differing = [
        *draw(1, 2).reshape(6, -1),
        *(draw(s, t)[0, 0].ravel() for s, t in [(2, 2), (1, 3), (2, 1)]),
    ]
    for i, a in enumerate(differing):
        for b in differing[:i]:
            assert np.abs(a - b).max() > 0.1
    np.testing.assert_array_equal(draw(1, 2), draw(1, 2))
    shared = build("shared")(1, 2, jnp.array([0, 1]), same)
    np.testing.assert_allclose(shared, draw(1, 2)[:1], atol=2e-5)


def test_nothing_is_compiled_again(make):
    make(0, 0, INDICES, BATCH)
    compiled = make._cache_size()
    make(7, 1000, INDICES + 900, BATCH[::-1].copy())
    assert make._cache_size() == compiled


def test_default_generator_does_not_matter():
    expected = build("flip", templates=1)(0, 0, INDICES, BATCH)
    with jax.default_prng_impl("rbg"):
        got = build("flip", templates=1)(0, 0, INDICES, BATCH)
    np.testing.assert_array_equal(got, expected)


SHARDED = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from cdc_jax import views

file, spec = sys.argv[1:]
images, indices = np.load(file)["images"], np.arange(16) * 37
make = views.build(spec, templates=3, size=24, mean={mean}, std={std})
outputs = []
for devices in (1, 8):
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    put = lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    compiled = make.lower(3, 4, put(indices), put(images)).compile()
    made = compiled(3, 4, put(indices), put(images))
    if devices == 8:
        assert made.addressable_shards[0].data.shape == (3, 2, 24, 24, 3), made.sharding
        assert "all-gather" not in compiled.as_text(), "the devices exchange images"
    outputs.append(np.asarray(made))
print(np.abs(outputs[0] - outputs[1]).max())
"""


@pytest.mark.slow
def test_same_pixels_on_1_and_8_devices(tmp_path):
    file = tmp_path / "images.npz"
    np.savez(file, images=batch_of(16))
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    program = SHARDED.format(mean=MEAN, std=STD)
    done = subprocess.run(
        [sys.executable, "-c", program, str(file), SPEC],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2e-5


# ---- what is refused


@pytest.mark.parametrize(
    "spec, message",
    [
        ("set3", "unknown view or augmentation 'set3', did you mean 'set2'"),
        ("crop | flap", "did you mean 'flip'"),
        ("crop | jitter(hues=0.1)", "unknown option of jitter 'hues', did you mean 'hue'"),
        ("crop | jitter(hue=0.7)", r"jitter\(hue=0.7\): must be a number from 0 to 0.5"),
        ("blur(sigma=2)", r"blur\(sigma=2\): must be a rising pair from 0.01 to 20"),
        ("blur(sigma=(2, 1))", "must be a rising pair"),
        ("flip(p=(0, 1))", "must be a number"),
        ("flip(p=True)", "must be a number"),
        ("flip | crop", "must come first"),
        ("crop | set1", "the set 'set1' can't be part of a chain"),
        ("crop | flip(0.5)", "can't read the view 'crop | flip"),
        ("crop | flip(p=x)", "can't read"),
        ("crop + flip", "can't read"),
        ("", "can't read the view ''"),
        ("flip; flip; flip; flip; flip", "5 views for 4 templates"),
        ("composed", "needs the properties that the label depends on"),
    ],
)
def test_unusable_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        build(spec)


def test_more_views_than_templates_and_further_views():
    with pytest.raises(ValueError, match="got 3 views for 1 templates and 1 further views: 'flip;"):
        build("flip; flip; flip", templates=1, further=1)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"label_properties": ("color",)},
            "unknown property of a label 'color', did you mean 'colour'",
        ),
        ({"templates": 0}, "templates must be at least 1, got 0"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"std": (1.0, 0.0, 1.0)}, "3 positive deviations"),
        ({"mean": (0.5,)}, "expected 3 means"),
    ],
)
def test_unusable_options(options, message):
    with pytest.raises(ValueError, match=message):
        build("composed", **{"label_properties": ("shape",), **options})


def test_unusable_batches(make):
    images = batch_of(2)
    with pytest.raises(ValueError, match="expected uint8 images .* got float32"):
        make(0, 0, jnp.arange(2), np.float32(images))
    with pytest.raises(ValueError, match=r"indices of shape \(3,\) for 2 images"):
        make(0, 0, jnp.arange(3), images)
