"""What a user names for prediction."""

import os

import numpy as np
import pytest
from PIL import Image

from cdc_jax.tasks.decode import UnreadableImage, decode
from cdc_jax.tasks.photos import Photo, gather

PIXELS = np.zeros((4, 5, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    for name in ("b.JPG", "a.png", "below/c.webp", ".hidden.jpg", "notes.txt", "d[1].gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(photos, folder):
    return [photo.name.removeprefix(f"{folder}/") for photo in photos]


def test_a_folder_gives_its_images_in_order(folder):
    assert names(gather(folder), folder) == ["a.png", "b.JPG", "below/c.webp", "d[1].gif"]


def test_a_pattern_gives_what_fits_and_a_file_is_no_pattern(folder):
    assert names(gather(f"{folder}/*.*[gG]"), folder) == ["a.png", "b.JPG"]
    assert names(gather(f"{folder}/**/*.webp"), folder) == ["below/c.webp"]
    assert names(gather(f"{folder}/d[1].gif"), folder) == ["d[1].gif"]


def test_all_kinds_may_be_mixed(folder):
    opened = Image.new("RGB", (2, 2))
    photos = gather([folder / "notes.txt", opened, PIXELS, Photo("mine", PIXELS), folder / "below"])
    assert names(photos, folder) == ["notes.txt", "image 1", "image 2", "mine", "below/c.webp"]
    assert photos[1].image is opened


def test_one_image_is_a_list_of_one_and_a_stack_one_of_many():
    assert [photo.name for photo in gather(PIXELS)] == ["image 0"]
    assert [photo.name for photo in gather(np.stack([PIXELS] * 3))] == [
        f"image {i}" for i in range(3)
    ]
    assert len(gather(Image.new("L", (2, 2)))) == 1


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "no images are given"),
        ("{}/none", UnreadableImage, "none can't be read as an image: no such file"),
        ("{}/*.bmp", FileNotFoundError, r"no file fits '.*/\*.bmp'"),
        ("{}/empty", FileNotFoundError, "folder .*empty holds no image"),
        (PIXELS[..., 0], ValueError, r"image 0 must be .*, got uint8 of shape \(4, 5\)"),
        ([PIXELS, PIXELS / 255], ValueError, "image 1 must be .*, got float64 of shape"),
        ([7], ValueError, "image 0 must be .*, got int"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused(folder, images, error, message):
    (folder / "empty").mkdir()
    images = images.format(folder) if isinstance(images, str) else images
    with pytest.raises(error, match=message):
        gather(images)


def test_a_missing_file_may_wait(tmp_path):
    assert len(gather(tmp_path / "none.jpg", on_error="skip")) == 1
    with pytest.raises(ValueError, match='on_error must be "stop" or "skip", got \'ignore\''):
        gather(tmp_path, on_error="ignore")


@pytest.mark.parametrize(
    "path", [".thumbnails/x.jpg", "__MACOSX/x.jpg", "below/@eaDir/x.jpg", "._a.png", ".git/x.png"]
)
def test_hidden_and_tools_folders_hold_no_images(folder, path):
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).touch()
    assert names(gather(folder), folder) == ["a.png", "b.JPG", "below/c.webp", "d[1].gif"]


def test_heic_photos_are_named(folder):
    (folder / "e.HEIC").touch()
    assert names(gather(folder), folder)[-1] == "e.HEIC"


@pytest.mark.parametrize("given", ["{}/x.png", "{}/x*", "{}", "/dev/zero"])
def test_what_is_no_regular_file_is_refused(folder, given):
    os.mkfifo(folder / "x.png")
    with pytest.raises(UnreadableImage, match="(x.png|zero) can't .*: it is a pipe, a socket or a"):
        gather(given.format(folder))
    photos = gather(given.format(folder), on_error="skip")
    with pytest.raises(UnreadableImage, match="it is a pipe, a socket or a device"):
        for photo in photos:
            if photo.name.endswith(("x.png", "zero")):
                decode(photo.image)
