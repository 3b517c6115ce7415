"""RandAugment's operations against Pillow, and the draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from test_views import MEAN, STD, run, synthetic_image

from cdc_jax import views
from cdc_jax.views import pixels, randaugment

PLACE = (0.9, 0.3)
SIDE = 224


@pytest.fixture(scope="module")
def operate():
    return jax.jit(randaugment.operate)


def pillow(name, image, value, sign):
    """What Dassl does with Pillow; `value` is a magnitude's."""
    photo, signed = Image.fromarray(image), sign * value
    if name == "cutout":
        corner = [int(max(0, share * SIDE - value / 2)) for share in PLACE[::-1]]
        opposite = [min(SIDE, place + value) for place in corner]
        ImageDraw.Draw(photo).rectangle((*corner, *opposite), (125, 123, 114))
        return photo
    moves = {
        "shear_x": (1, signed, 0, 0, 1, 0), "shear_y": (1, 0, 0, signed, 1, 0),
        "shift_x": (1, 0, signed, 0, 1, 0), "shift_y": (1, 0, 0, 0, 1, signed),
    }  # fmt: skip
    if name in moves:
        return photo.transform(photo.size, Image.Transform.AFFINE, moves[name])
    enhancers = {
        "saturation": ImageEnhance.Color, "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness, "sharpness": ImageEnhance.Sharpness,
    }  # fmt: skip
    if name in enhancers:
        return enhancers[name](photo).enhance(value)
    if name == "rotate":
        return photo.rotate(signed)
    if name == "posterize":
        return ImageOps.posterize(photo, int(value))
    if name == "solarize":
        return ImageOps.solarize(photo, value)
    if name == "add_and_solarize":
        added = np.clip(image + value, 0, 255).astype(np.uint8)
        return ImageOps.solarize(Image.fromarray(added), 128)
    plain = {"autocontrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}
    return (plain | {"invert": ImageOps.invert})[name](photo)


@pytest.mark.parametrize("magnitude", [10, -10, 27, 0])
@pytest.mark.parametrize("name", randaugment.RANGES)
def test_operations_are_pillows(operate, name, magnitude):
    low, high = randaugment.RANGES[name]
    number = list(randaugment.RANGES).index(name)
    image = synthetic_image(number, SIDE, SIDE)
    if name == "autocontrast":
        image = 40 + image // 2
    value, sign = low + (high - low) * abs(magnitude) / 30, np.sign(magnitude)
    expected = np.float32(pillow(name, image, value, sign))
    got = np.asarray(operate(image / np.float32(255), number, magnitude / 30, jnp.array(PLACE)))
    difference = np.abs(255 * got - expected)
    if name == "rotate":  # few places fall on the other side of a border
        assert (difference > 1e-3).mean() < 0.005
    else:  # few levels are truncated to the next one
        assert difference.max() < 1.001 and (difference > 1e-3).mean() < 0.03
    assert magnitude != 10 or np.abs(expected - image).max() > 1


@pytest.mark.parametrize("levels", [(7,), (0, 255), (3, 200)])
def test_a_channel_of_few_levels(operate, levels):
    """Pillow leaves a channel alone that it can't stretch."""
    image = np.random.default_rng(0).choice(np.array(levels, np.uint8), (SIDE, SIDE, 3))
    for number, function in enumerate((ImageOps.autocontrast, ImageOps.equalize)):
        got = operate(image / np.float32(255), number, 1.0, jnp.array(PLACE))
        expected = np.float32(function(Image.fromarray(image)))
        np.testing.assert_allclose(255 * np.asarray(got), expected, atol=1e-3)


def test_lengths_scale_with_the_side(operate):
    image = synthetic_image(0, 32, 32)
    number = list(randaugment.RANGES).index("shift_x")
    got = 255 * np.asarray(operate(image / np.float32(255), number, 0.3, jnp.array(PLACE)))
    np.testing.assert_allclose(got[:, :28], image[:, 4:], atol=1e-3)  # 30 of 224 pixels: 4.3 of 32
    assert not got[:, 28:].any()


def test_operations_signs_and_places_are_drawn_uniformly():
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = jax.jit(jax.vmap(lambda key: randaugment.draw(key, 32, 32, m=10.0)))
    operations, magnitudes, places = map(np.asarray, draw(keys))
    counts = np.bincount(operations, minlength=16)
    assert len(counts) == 16 and scipy.stats.chisquare(counts).pvalue > 1e-4
    np.testing.assert_allclose(np.abs(magnitudes), 1 / 3, rtol=1e-6)
    assert scipy.stats.binomtest(int((magnitudes > 0).sum()), 4000).pvalue > 1e-4
    for place in places.T:
        assert scipy.stats.kstest(place, "uniform").pvalue > 1e-4
    table = np.histogram2d(operations, magnitudes > 0, (16, 2))[0]
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-4


def test_squeeze_is_pillows():
    image = synthetic_image(0)
    expected = Image.fromarray(image).resize((56, 56), Image.Resampling.BICUBIC)
    assert np.abs(run(pixels.squeeze, image, size=56) - np.float32(expected)).mean() < 0.5


@pytest.mark.slow
def test_views_of_randaugment_differ_by_step_and_view():
    images = np.stack([synthetic_image(seed, 40, 32) for seed in range(8)])
    options = {"templates": 1, "size": 24, "mean": MEAN, "std": STD}
    make = views.build("squeeze | randaugment | randaugment", further=1, **options)
    plain = views.build("squeeze", **options)(0, 0, np.arange(8), images)
    first, second = (np.asarray(make(0, step, np.arange(8), images)) for step in (0, 1))
    assert first.shape == second.shape == (2, 8, 24, 24, 3)
    for one, other in ((first[0], first[1]), (first, second), (first[:1], plain)):
        assert (np.abs(one - other).reshape(*one.shape[:-3], -1).max(-1) > 0.05).mean() > 0.8
    with pytest.raises(ValueError, match="squeeze sets the view's size, so it must come first"):
        views.build("randaugment | squeeze", **options)
    with pytest.raises(ValueError, match=r"randaugment\(m=31\): must be a number from 0 to 30"):
        views.build("randaugment(m=31)", **options)
