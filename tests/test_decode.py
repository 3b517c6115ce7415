"""Decoding against hand values and transformers' image processor; every bad file by its error."""

import copy
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from cdc_jax.tasks.decode import UnreadableImage, clean_image, decode, squeezed_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def pixels(*colours, mode="RGB"):
    """An image of one row."""
    image = Image.new(mode, (len(colours), 1))
    image.putdata(colours)
    return image


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_back_the_pixels(tmp_path, format):
    rgb = noise(5, 7)
    path = tmp_path / "image.jpg"  # what counts is the content
    Image.fromarray(rgb).save(path, format)
    for source in (path, str(path), path.read_bytes()):
        assert np.array_equal(decode(source), rgb)


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "JPEG2000"])
def test_lossy_formats_come_close(format):
    rgb = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    decoded = decode(encoded(Image.fromarray(rgb), format))
    assert np.abs(np.subtract(decoded, rgb, dtype=int)).max() <= 4


# For each orientation, how the stored array is turned to be upright (EXIF 2.3, 4.6.4).
UPRIGHT = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(orientation):
    rgb = noise(2, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encoded(Image.fromarray(rgb), exif=exif)
    assert np.array_equal(decode(stored), UPRIGHT[orientation](rgb))


def test_an_image_given_by_the_user_stays_as_it_is():
    rgb = noise(2, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    mine = Image.open(io.BytesIO(encoded(Image.fromarray(rgb), exif=exif)))
    assert np.array_equal(decode(mine), UPRIGHT[6](rgb))
    assert np.array_equal(mine, rgb)


def palette(transparent=None):
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([2, 0, 1])
    return encoded(image, **({} if transparent is None else {"transparency": transparent}))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (palette(), (BLUE, RED, GREEN)),
        (palette(0), (BLUE, WHITE, GREEN)),
        (palette(bytes([255, 0, 51])), ((204, 204, 255), RED, WHITE)),
        (encoded(pixels((10, 20, 30, 255), (0, 0, 0, 0), mode="RGBA")), ((10, 20, 30), WHITE)),
        # 0.2 * colour + 0.8 * 255
        (encoded(pixels((255, 0, 100, 51), mode="RGBA")), ((255, 204, 224),)),
        (encoded(pixels((0, 51), (7, 255), mode="LA")), ((204,) * 3, (7,) * 3)),
        (encoded(pixels(RED, BLUE), transparency=BLUE), (RED, WHITE)),
        (encoded(pixels(0, 255, mode="1")), ((0,) * 3, WHITE)),
        (encoded(pixels(0, 7, 255, mode="L")), ((0,) * 3, (7,) * 3, WHITE)),
        (encoded(pixels(0, 300, 65535, mode="I;16")), ((0,) * 3, (1,) * 3, WHITE)),
        (encoded(pixels(513, 65535, mode="I"), "TIFF"), ((2,) * 3, WHITE)),
        (b"P5 1 1 65535\n\x80\x01", ((128,) * 3,)),
        # (1 - ink) (1 - black), of 255
        (encoded(pixels((255, 0, 0, 51), mode="CMYK"), "TIFF"), ((0, 204, 204),)),
    ],
)  # fmt: skip
def test_colours_by_hand(content, expected):
    assert np.array_equal(decode(content), [expected])


def test_cmyk_jpeg():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(np.subtract(decode(encoded(image, "JPEG")), RED, dtype=int)).max() <= 3


def test_sixteen_bit_colour_keeps_the_high_byte():
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    row = zlib.compress(b"\0" + struct.pack(">3H", 0x1234, 0xFFFF, 0x00FF))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")
    assert np.array(decode(png)).tolist() == [[[0x12, 0xFF, 0]]]


def test_of_an_animation_the_first_frame():
    frames = [pixels(colour) for colour in (RED, GREEN)]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.array_equal(decode(animation), [[RED]])


PHOTO = encoded(Image.fromarray(noise(64, 64)), "JPEG")
NO_IMAGE = "it is damaged, or none of JPEG, PNG, .*"
BAD = {
    "empty": (b"", "it is empty"),
    "text": (b"not a photograph\n" * 20, NO_IMAGE),
    "html": (b"<!DOCTYPE html><html>404</html>", NO_IMAGE),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NO_IMAGE),
    "header": (PHOTO[:20], NO_IMAGE),
    "truncated": (PHOTO[: len(PHOTO) // 2], r"image file is truncated \(\d+ bytes not processed\)"),
    "cut_png": (encoded(Image.fromarray(noise(64, 64)))[:-2000], ".*truncated.*"),
    "bad_png": (palette().replace(b"IDAT", b"IDAX"), NO_IMAGE),
    "bomb": (b"P6 20000 10000 255\n", r"Image size \(200000000 pixels\) exceeds limit .*"),
    "no_pixels": (b"P6 0 8 255\n", NO_IMAGE),
    "sliver": (encoded(Image.new("L", (2001, 2))), "2001 x 2 pixels: .*"),
    "float": (encoded(Image.new("F", (2, 2)), "TIFF"), "floating-point pixels have no known .*"),
    "deep": (encoded(pixels(70000, mode="I"), "TIFF"), "pixels 70000..70000 do not fit in 16 bits"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_with_the_reason(tmp_path, kind):
    content, reason = BAD[kind]
    path = tmp_path / f"{kind}.jpg"
    path.write_bytes(content)
    message = rf"^{path} can't be read as an image: {reason}$"
    with pytest.raises(UnreadableImage, match=message) as caught:
        decode(path)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.reason
    with pytest.raises(UnreadableImage, match="^photo 7 can't be read as an image: "):
        decode(content, name="photo 7")


def test_a_path_that_is_no_file_is_named_with_the_reason(tmp_path):
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for path, reason in {
        tmp_path / "missing.jpg": "No such file or directory",
        tmp_path: "Is a directory",
        tmp_path / "loop.jpg": "Too many levels of symbolic links",
        tmp_path / "nul\0.jpg": "embedded null ",
    }.items():
        with pytest.raises(UnreadableImage) as caught:
            decode(path)
        assert caught.value.name == str(path)
        assert reason in caught.value.reason


def test_a_copy_of_the_error_says_the_same():
    # As processes do that hand errors on: by the error's arguments.
    error = copy.copy(UnreadableImage("a.jpg", "it is empty"))
    assert (error.name, error.reason) == ("a.jpg", "it is empty")
    assert str(error) == "a.jpg can't be read as an image: it is empty"


def test_an_opened_image_is_converted_likewise(tmp_path):
    assert np.array_equal(decode(pixels((0, 0, 0, 0), mode="RGBA")), [[WHITE]])
    with pytest.raises(
        UnreadableImage, match="^the image can't be read as an image: it has no pixels"
    ):
        decode(Image.new("RGB", (0, 0)))
    (tmp_path / "cut.jpg").write_bytes(BAD["truncated"][0])
    with Image.open(tmp_path / "cut.jpg") as image:
        with pytest.raises(UnreadableImage, match="cut.jpg can't be read as an image: .*trunc"):
            decode(image)


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("shape", [(48, 64), (67, 32), (41, 40), (7, 19), (32, 32), (211, 101)])
def test_clean_image_is_what_transformers_makes(shape, size):
    rgb = noise(*shape)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        do_rescale=False,
        do_normalize=False,
    )
    (expected,) = processor(Image.fromarray(rgb))["pixel_values"]
    assert np.array_equal(clean_image(Image.fromarray(rgb), size), np.moveaxis(expected, 0, -1))


def test_squeezed_image_is_what_transformers_makes():
    rgb = noise(50, 75)
    processor = CLIPImageProcessorPil(
        size={"height": 32, "width": 32}, do_center_crop=False, do_rescale=False, do_normalize=False
    )
    (expected,) = processor(Image.fromarray(rgb))["pixel_values"]
    assert np.array_equal(squeezed_image(Image.fromarray(rgb), 32), np.moveaxis(expected, 0, -1))
