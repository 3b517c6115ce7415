"""What image processors ask for, carried out as transformers does on Pillow."""

import json

import numpy as np
import pytest
import transformers
from PIL import Image
from references import clip_reference as reference

from cdc_jax import views
from cdc_jax.clip import ClipConfig
from cdc_jax.preprocessing import Preprocessing
from cdc_jax.tasks.decode import clean_image
from cdc_jax.tasks.photographs import Photographs

CONFIG = reference.CONFIGS["patch16"]  # images of 48 x 48
CROP = {"crop_size": {"height": 48, "width": 48}}
SQUASH = {"size": {"height": 48, "width": 48}}
SETTINGS = {
    "clip": {"size": {"shortest_edge": 48}, **CROP},
    "numbers": {"size": 48, "crop_size": 48},
    "nulls": {"size": 48, "crop_size": 48, "do_pad": None, "pad_size": None},
    "nulls that switch off": {**SQUASH, "do_center_crop": None, "do_normalize": None},
    "list": {"size": [48, 48], **CROP},
    "squash": {**SQUASH, **CROP},
    "squash without crop": {**SQUASH, "do_center_crop": False},
    "squash to a larger one": {"size": {"height": 60, "width": 52}, **CROP},
    "crop from larger": {"size": {"shortest_edge": 56}, **CROP},
    "crop from smaller": {"size": {"shortest_edge": 40}, **CROP},
    "crop from smaller odd": {"size": {"shortest_edge": 33}, **CROP, "resample": 2},
    **{f"resample {n}": {"size": 48, **CROP, "resample": n} for n in range(6)},
    "bilinear squash": {**SQUASH, **CROP, "resample": 2, "image_mean": [0.5] * 3},
    "rounded factor": {"size": 48, **CROP, "rescale_factor": 0.00392156862},
    "another factor": {"size": 48, **CROP, "rescale_factor": 1 / 127.5},
    "no rescaling": {"size": 48, **CROP, "do_rescale": False, "image_mean": [120, 118, 110.5]},
    "no normalisation": {"size": 48, **CROP, "do_normalize": False},
    "own mean": {"size": 48, **CROP, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]},
    "one mean": {"size": 48, **CROP, "image_mean": 0.5, "image_std": 0.25},
}


@pytest.mark.parametrize("shape", [(48, 48), (61, 90), (90, 61), (200, 31), (47, 49)])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_pixels_are_those_of_transformers(settings, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    processor = transformers.CLIPImageProcessorPil(**json.loads(json.dumps(settings)))
    # A white photograph would be taken for one of pixels in [0, 1].
    theirs = processor(Image.fromarray(image))["pixel_values"][0].transpose(1, 2, 0)
    preprocessing = ClipConfig.from_hf(CONFIG, settings).preprocessing
    square = clean_image(Image.fromarray(image), preprocessing)
    assert square.shape == (48, 48, 3) and square.dtype == np.uint8
    ours = views.clean_view(square[None], preprocessing.mean, preprocessing.std)[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_what_is_read_is_written(settings):
    found = ClipConfig.from_hf(CONFIG, settings)
    again = ClipConfig.from_hf(found.to_hf(), json.loads(json.dumps(found.preprocessor_to_hf())))
    assert again == found
    hash(found)


def test_a_rounded_factor_is_clips():
    rounded = ClipConfig.from_hf(CONFIG, SETTINGS["rounded factor"])
    assert rounded == ClipConfig.from_hf(CONFIG, SETTINGS["clip"])
    assert rounded.preprocessing == Preprocessing(48)


def test_photographs_follow_the_preprocessing(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 90, 3), np.uint8))
    image.save(tmp_path / "a.png")
    squash = Preprocessing(48, (48, 48), 2)
    for size, expected in ((48, Preprocessing(48)), (squash, squash)):
        photographs = Photographs(["a.png"], lambda path: tmp_path / path, size, 72)
        np.testing.assert_array_equal(photographs[:1][0], clean_image(image, expected))
        assert photographs.squeezed(np.array([0]))[0].shape == (1, 72, 72, 3)
    assert (clean_image(image, squash) != clean_image(image, 48)).any()
