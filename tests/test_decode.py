"""Decoding against hand values and transformers' image processor; every bad file by its error."""

import concurrent.futures
import copy
import io
import os
import socket
import struct
import threading
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from transformers import CLIPImageProcessorPil

from cdc_jax.tasks import decode as decode_lib
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


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "JPEG2000", "AVIF"])
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


# ---- 16-bit values that use fewer bits


def png(levels, kind):
    """A 16-bit PNG by the specification: kind 0 is grey, 2 RGB, 6 RGBA."""

    def chunk(name, data):
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    height, width = levels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(levels, order, bits=16):
    """A TIFF of one strip by the specification, uncompressed."""
    height, width = levels.shape[:2]
    samples = 1 if levels.ndim == 2 else levels.shape[2]
    if bits == 12:  # two values in three bytes, rows padded
        pairs = levels.reshape(height, width // 2, 2).astype(int)
        a, b = pairs[..., 0], pairs[..., 1]
        packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8)
        data = packed.tobytes()
    else:
        data = levels.astype(f"{order}u2").tobytes()
    tags = [
        (256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1),
        (262, 3, 1 if samples == 1 else 2), (273, 4, 8), (277, 3, samples), (278, 3, height),
        (279, 4, len(data)),
    ]  # fmt: skip
    end = 8 + len(data)
    depths = end + 2 + 12 * len(tags) + 4
    entries = b""
    for tag, kind, value in tags:
        if tag == 258 and samples == 3:
            entries += struct.pack(f"{order}HHII", tag, 3, 3, depths)
        elif kind == 3:
            entries += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
        else:
            entries += struct.pack(f"{order}HHII", tag, 4, 1, value)
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    table = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)
    extra = struct.pack(f"{order}3H", bits, bits, bits)
    return mark + struct.pack(f"{order}I", end) + data + table + extra


RANGES = {255: 0, 200: 0, 256: 4, 4095: 4, 1023: 4, 4096: 8, 65535: 8}
"""Largest value -> by how many bits its image is shifted down to 8."""


def levels_up_to(largest, *shape):
    levels = np.random.default_rng(largest).integers(0, largest + 1, shape, np.uint16)
    levels.flat[0] = largest
    return levels


@pytest.mark.parametrize("largest", RANGES)
@pytest.mark.parametrize(
    ("shape", "make"),
    [
        ((4, 6), lambda x: png(x, 0)),
        ((4, 6, 3), lambda x: png(x, 2)),
        ((4, 6), lambda x: tiff(x, "<")),
        ((4, 6), lambda x: tiff(x, ">")),
        ((4, 6, 3), lambda x: tiff(x, "<")),
        ((4, 6, 3), lambda x: tiff(x, ">")),
        ((4, 6), lambda x: encoded(Image.fromarray(x), "TIFF", compression="tiff_adobe_deflate")),
    ],
    ids=["png", "png_rgb", "tiff_le", "tiff_be", "tiff_rgb_le", "tiff_rgb_be", "tiff_deflate"],
)  # fmt: skip
def test_sixteen_bit_values_by_their_range(largest, shape, make):
    levels = levels_up_to(largest, *shape)
    expected = (levels >> RANGES[largest]).astype(np.uint8)
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=-1)
    assert np.array_equal(decode(make(levels)), expected)


def test_sixteen_bit_colour_with_alpha():
    levels = levels_up_to(4095, 4, 6, 4)
    levels[..., 3] = 65535
    levels[0, 1, 3] = 0
    expected = (levels[..., :3] >> 4).astype(np.uint8)
    expected[0, 1] = 255
    assert np.array_equal(decode(png(levels, 6)), expected)


def test_a_tiff_may_say_its_bits():
    levels = levels_up_to(100, 4, 6)  # dark, but of 12 bits
    assert np.array_equal(np.asarray(decode(tiff(levels, "<", 12)))[..., 0], levels >> 4)


@pytest.mark.parametrize("largest", [4095, 1023, 65535])
def test_a_pgm_says_its_largest_value(largest):
    levels = levels_up_to(largest, 3, 5) // 2
    content = b"P5 5 3 %d\n" % largest + levels.astype(">u2").tobytes()
    shown = np.asarray(decode(content))[..., 0]
    assert np.abs(shown - levels / largest * 255).max() <= 1


# ---- EXIF blocks


def exif_jpeg(rgb, orientation, rational):
    """A JPEG whose EXIF block has an orientation, and a rational that lies outside of it if cut."""
    entries = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    entries += struct.pack(">HHII", 0x011A, 5, 1, 60 if rational == "cut" else 38)
    value = {"cut": b"\0", "sound": struct.pack(">II", 72, 1), "zero": struct.pack(">II", 1, 0)}
    block = b"MM\0*" + struct.pack(">IH", 8, 2) + entries + struct.pack(">I", 0) + value[rational]
    content = encoded(Image.fromarray(rgb), "JPEG", quality=100, subsampling=0)
    payload = b"Exif\0\0" + block
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + content[2:]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells of what is cut
@pytest.mark.parametrize("rational", ["sound", "cut", "zero"])
@pytest.mark.parametrize("orientation", [1, 6, 8, 9, 0])
def test_a_damaged_exif_block_costs_no_photo(rational, orientation):
    rgb = np.full((8, 16, 3), 90, np.uint8)
    rgb[:, 8:] = 200
    shown = np.asarray(decode(exif_jpeg(rgb, orientation, rational)), int)
    assert np.abs(shown - UPRIGHT.get(orientation, UPRIGHT[1])(rgb)).max() <= 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", [b"", b"\0", b"MM", b"II*\0\xff\xff\xff\xff", b"x" * 40])
def test_an_exif_block_that_is_none(block):
    content = encoded(Image.fromarray(noise(8, 8)), "JPEG")
    payload = b"Exif\0\0" + block
    marker = b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload
    assert np.array_equal(decode(content[:2] + marker + content[2:]), decode(content))


# ---- HEIC


@pytest.fixture
def no_heif(monkeypatch):
    monkeypatch.setattr(decode_lib, "formats", lambda: decode_lib.FORMATS)


def test_heic_bytes_are_called_so(no_heif, tmp_path):
    head = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic"
    file = tmp_path / "photo.jpg"
    file.write_bytes(head + bytes(200))
    message = r"photo.jpg can't .*: it is a HEIC file, .*: pip install -e '.\[heif\]' reads HEIC$"
    with pytest.raises(UnreadableImage, match=message):
        decode(file)


def test_heic_is_read_where_its_reader_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    assert "HEIF" in decode_lib.formats() and ".heic" in decode_lib.suffixes()
    rgb = np.full((64, 96, 3), (200, 100, 50), np.uint8)
    rgb[:, 48:] = (20, 30, 220)
    file = tmp_path / "photo.heic"
    heif.from_pillow(Image.fromarray(rgb)).save(file, quality=95)
    assert np.abs(np.subtract(decode(file), rgb, dtype=int)).max() < 12
    turned = Image.Exif()
    turned[0x0112] = 6
    heif.from_pillow(Image.fromarray(rgb)).save(file, quality=95, exif=turned.tobytes())
    upright = np.asarray(decode(file), int)  # by the file's own rotation, once
    expected = heif.open_heif(file).to_pillow()
    assert np.abs(upright - np.asarray(ImageOps.exif_transpose(expected), int)).max() <= 2


# ---- what is no file, and what is too large


def _pipe(path):
    os.mkfifo(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)


@pytest.mark.parametrize(
    "make",
    [_pipe, _socket, lambda path: path.symlink_to("/dev/zero")],
    ids=["pipe", "socket", "zero"],
)
def test_only_regular_files_are_opened(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    make(tmp_path / "x.png")
    done = []
    thread = threading.Thread(
        target=lambda: done.append(pytest.raises(UnreadableImage, decode, tmp_path / "x.png")),
        daemon=True,
    )
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits"
    assert done[0].value.reason == "it is a pipe, a socket or a device, not a regular file"
    assert decode_lib.irregular(tmp_path / "x.png") == done[0].value.reason


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/dev/stdin", "/proc/self/mem"])
def test_devices(path):
    with pytest.raises(UnreadableImage):
        decode(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "x.png", "wb") as file:
        file.truncate(decode_lib.MAX_BYTES + 1)  # takes no room on the disk
    tracemalloc.start()
    with pytest.raises(UnreadableImage, match="it has 537 MB, and at most 537 are read"):
        decode(tmp_path / "x.png")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_of_too_many_pixels_is_not_decoded():
    content = png(np.zeros((1, 1), np.uint16), 0)
    header = struct.pack(">II", 13_000, 13_000) + content[24:29]
    content = content[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + content[33:]
    message = "13000 x 13000 pixels, and at most 89 million are read at once: scale it down"
    with pytest.raises(UnreadableImage, match=message):
        decode(content)


def test_a_large_jpeg_is_decoded_at_a_smaller_size(monkeypatch):
    rgb = np.repeat(np.repeat(noise(8, 12), 8, 0), 8, 1)
    content = encoded(Image.fromarray(rgb), "JPEG", quality=100, subsampling=0)
    monkeypatch.setattr(decode_lib, "MAX_PIXELS", 64 * 96 // 5)
    small = np.asarray(decode(content), int)
    assert small.shape == (16, 24, 3)
    assert np.abs(small - rgb[::4, ::4].astype(int)).max() < 40


def test_threads_share_a_budget():
    budget = decode_lib._Budget(10)
    held, most, lock = [], [], threading.Lock()

    def work(amount):
        with budget.share(amount):
            with lock:
                held.append(min(amount, 10))
                most.append(sum(held))
            threading.Event().wait(0.001)
            with lock:
                held.remove(min(amount, 10))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [1, 3, 7, 10, 25, 2, 4, 9] * 6))
    assert max(most) == 10 and not held and budget._free == 10


def test_an_error_gives_its_share_back():
    before = decode_lib._PIXELS._free, decode_lib._BYTES._free
    for content, _ in BAD.values():
        with pytest.raises(UnreadableImage):
            decode(content)
    with pytest.raises(ZeroDivisionError):
        with decode_lib.opened(PHOTO):
            raise ZeroDivisionError
    assert (decode_lib._PIXELS._free, decode_lib._BYTES._free) == before


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
