"""Batches of photographs: what is in them, hosts, threads, positions; images for evaluation."""

import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from cdc_jax.tasks import Examples
from cdc_jax.tasks.batches import TrainingBatches
from cdc_jax.tasks.decode import UnreadableImage
from cdc_jax.tasks.photographs import Photographs

SIZES = [(40, 30), (30, 40), (36, 36), (90, 20), (25, 60), (31, 47), (64, 48)]


@pytest.fixture
def files(tmp_path):
    """Smooth photographs, of seven forms in turn."""
    paths = []
    for i in range(23):
        coarse = np.random.default_rng(i).integers(0, 256, (5, 5, 3), np.uint8)
        path = tmp_path / f"{i}.png"
        Image.fromarray(coarse).resize(SIZES[i % 7], Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


@pytest.fixture
def examples(files):
    return examples_of(files)


def examples_of(files, workers=3):
    names = [file.name for file in files]
    images = Photographs(names, files[0].parent.joinpath, size=16, side=24, workers=workers)
    return Examples(images, np.arange(len(files)) % 3, ("a", "b", "c"), tuple(names))


def pillow_clean(file, size):
    image = Image.open(file).convert("RGB")
    scale = size / min(image.size)
    width, height = (max(size, int(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], strict=True)


# ---- images for evaluation


def test_evaluation_images_are_pillows(files, examples):
    expected = np.stack([pillow_clean(file, 16) for file in files])
    images = examples.images
    np.testing.assert_array_equal(images[:], expected, strict=True)
    np.testing.assert_array_equal(images[np.array([5, 2, 5])], expected[[5, 2, 5]])
    assert images[3:3].shape == (0, 16, 16, 3)
    for size in (1, 4, 23, 100):
        parts = [images[i : i + size] for i in range(0, len(images), size)]
        np.testing.assert_array_equal(np.concatenate(parts), expected)


@pytest.mark.parametrize(("limit", "again"), [(2**30, 0), (0, 23)])
def test_small_splits_are_decoded_once(files, monkeypatch, limit, again):
    monkeypatch.setattr("cdc_jax.tasks.photographs.KEPT_BYTES", limit)
    touched = []

    def contents(path):
        touched.append(path)
        return files[0].parent / path

    images = Photographs([file.name for file in files], contents, size=16, side=24, workers=2)
    first = images[:]
    touched.clear()
    np.testing.assert_array_equal(images[:], first)
    assert len(touched) == again


def test_unusable_images(files):
    files[4].write_bytes(b"")
    files[9].unlink()
    images = examples_of(files).images
    assert set(images.unusable(decoding=False)) == {9}
    found = images.unusable(decoding=True)
    assert set(found) == {4, 9} and str(files[4]) in str(found[4])
    with pytest.raises(UnreadableImage, match=r"4\.png"):
        images[3:6]


# ---- training batches


def test_rows_are_squeezed_photographs(files, examples):
    batch = TrainingBatches(examples, 8, seed=1)[0]
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "images": ((8, 24, 24, 3), "uint8"),
        "labels": ((8,), "int32"),
        "indices": ((8,), "int32"),
        "aspect_ratios": ((8,), "float32"),
    }
    for row, index in enumerate(batch["indices"]):
        image = Image.open(files[index])
        squeezed = np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(batch["images"][row], squeezed)
        assert batch["aspect_ratios"][row] == np.float32(image.width / image.height)
        assert batch["labels"][row] == index % 3


@pytest.mark.parametrize("kind", ["photographs", "array"])
def test_the_stream_is_the_batches_from_any_step_on(examples, kind):
    if kind == "array":
        examples = Examples(examples.images[:], examples.labels, examples.class_names)
    batches = TrainingBatches(examples, 5, seed=3)
    assert batches.per_epoch == 4
    expected = [batches[step] for step in range(11)]
    for first in (0, 3, 10):
        streamed = list(batches.stream(first, 11, put=lambda batch: batch))
        assert len(streamed) == 11 - first
        for got, wanted in zip(streamed, expected[first:], strict=True):
            same(got, wanted)
    assert list(batches.stream(11, 11, put=lambda batch: batch)) == []


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_share_the_batches_of_one_host(examples, hosts):
    whole = TrainingBatches(examples, 8, seed=2, host=0, hosts=1)
    shares = [TrainingBatches(examples, 8, seed=2, host=h, hosts=hosts) for h in range(hosts)]
    for step in (0, 1, 5):
        parts = [share[step] for share in shares]
        assert all(len(part["labels"]) == 8 // hosts for part in parts)
        same({k: np.concatenate([p[k] for p in parts]) for k in parts[0]}, whole[step])


def test_a_host_decodes_only_its_own_rows(files):
    touched = []

    def contents(path):
        touched.append(path)
        return files[0].parent / path

    images = Photographs([file.name for file in files], contents, size=16, side=24, workers=2)
    labels = np.zeros(len(files), int)
    batches = TrainingBatches(Examples(images, labels, ("a",)), 8, seed=2, host=1, hosts=2)
    streamed = list(batches.stream(0, 2, put=lambda batch: batch))
    own = {f"{i}.png" for batch in streamed for i in batch["indices"]}
    assert len(own) == 8 and set(touched) == own


def test_batches_are_put_ahead(examples):
    put = []

    def place(batch):
        put.append(batch["labels"][0])
        return jax.device_put(batch)

    batches = TrainingBatches(examples, 4, seed=0).stream(0, 20, place)
    first = next(batches)
    deadline = time.monotonic() + 10
    while len(put) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(put) > 1  # though only one was asked for
    assert isinstance(first["images"], jax.Array)
    assert sum(1 for _ in batches) == 19 and len(put) == 20


@pytest.mark.parametrize("workers", [1, 4])
def test_what_goes_wrong_in_a_thread_is_told(files, workers):
    files[7].write_bytes(files[7].read_bytes()[:60])
    batches = TrainingBatches(examples_of(files, workers), 23, seed=0)
    with pytest.raises(UnreadableImage, match=r"7\.png can't be read as an image"):
        next(batches.stream(0, 1, put=lambda batch: batch))

    def refuse(batch):
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        next(TrainingBatches(examples_of(files[:4]), 4, seed=0).stream(0, 1, refuse))


def test_what_is_refused(examples):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        TrainingBatches(examples, 0, seed=0)
    with pytest.raises(ValueError, match="a batch of 8 images can't be shared by 3 hosts"):
        TrainingBatches(examples, 8, seed=0, host=0, hosts=3)
    with pytest.raises(ValueError, match="the training set is empty"):
        TrainingBatches(Examples(examples.images[:0], np.zeros(0, int), ("a",)), 4, seed=0)


# ---- cached features


@pytest.mark.parametrize("size", [5, 8, 23, 40])
def test_the_steps_of_an_epoch_are_those_of_its_batches(examples, size):
    batches = TrainingBatches(examples, size, seed=3)
    for epoch in range(3):
        steps = batches.steps(epoch)
        assert steps.shape == (23,)
        last = (epoch + 1) * batches.per_epoch - 1
        expected = np.full(23, last)  # of those that the epoch leaves out
        for step in range(epoch * batches.per_epoch, last + 1):
            expected[batches.indices(step)] = step
        np.testing.assert_array_equal(steps, expected)


def test_features_take_the_place_of_images_and_nothing_is_decoded(files):
    def contents(path):
        raise AssertionError(f"{path} is read")

    images = Photographs([file.name for file in files], contents, size=16, side=24)
    plain = Examples(images, np.arange(23) % 3, ("a", "b", "c"))
    numbers = np.arange(23.0)[:, None, None, None] + 100 * np.arange(2)[:, None, None]
    features = np.broadcast_to(numbers, (23, 2, 4, 6)).astype(np.float32)
    batches = TrainingBatches(plain, 5, seed=3, host=1, hosts=1 + 4).of_features(features)
    assert batches.per_epoch == 4
    for step, batch in enumerate(batches.stream(0, 16, put=lambda batch: batch)):
        assert batch.keys() == {"labels", "indices", "features"}
        assert batch["indices"].tolist() == batches.indices(step)[1:2]  # the second of five hosts
        np.testing.assert_array_equal(batch["labels"], batch["indices"] % 3)
        view = (step // 4) % 2
        expected = np.broadcast_to(batch["indices"][:, None, None] + 100 * view, (1, 4, 6))
        np.testing.assert_array_equal(batch["features"], expected)


# ---- the benchmark


def test_the_benchmark_compares_the_same_work(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "experiments")
    from benchmarks import pipeline

    paths = pipeline.draw(tmp_path, 3)
    images = Photographs(paths, Path, pipeline.SIZE, pipeline.SIDE)
    expected = [pipeline.pillow_test(path) for path in paths]
    np.testing.assert_array_equal(images[:], expected)
    squeezed, aspect_ratios = images.squeezed(np.arange(3))
    np.testing.assert_array_equal(squeezed, [pipeline.pillow_squeezed(path) for path in paths])
    np.testing.assert_array_equal(aspect_ratios, np.float32(500 / 375))
    with pytest.raises(ValueError, match="at least 32 photographs are needed, got 3 in x"):
        pipeline.measure(paths, "x")
