"""The cache of image features behind inference, training and prediction."""

import io
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import PIL
import pytest
from PIL import Image

from cdc_jax import backbone, clip, devices, inference, prediction, tasks, train, views
from cdc_jax.clip import hub, weights
from cdc_jax.feature_cache import FeatureCache
from cdc_jax.preprocessing import Preprocessing
from cdc_jax.tasks import content
from cdc_jax.tasks.decode import UnreadableImage
from cdc_jax.tasks.photographs import Photographs
from cdc_jax.tasks.photos import Photo, PhotoImages, gather, share

PIXELS = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def world():
    return backbone.load("world")


@pytest.fixture(scope="module")
def plain(world):
    """Features without batches, cache or `FrozenFeatures`."""
    model, _ = clip.load("world")
    return np.asarray(
        model.encode_image(views.clean_view(PIXELS, model.config.mean, model.config.std))
    )


def frozen(world, folder, size=4, model=None):
    stored = FeatureCache(folder).of(*inference.encoder(model or world))
    return inference.FrozenFeatures(world, devices.make_mesh(), size, stored)


def photographs(folder, preprocessing=32, count=11):
    for i, pixels in enumerate(PIXELS[:count]):
        if not (folder / f"{i}.png").exists():
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return Photographs([f"{i}.png" for i in range(count)], folder.joinpath, preprocessing, 48)


def test_features_are_those_of_a_plain_forward_pass(world, plain, tmp_path):
    first = frozen(world, tmp_path)
    made = first.encode(PIXELS)
    assert made.shape == (1, 11, 128) and first.encoded == 11
    np.testing.assert_allclose(made[0], plain, atol=1e-6)
    second = frozen(world, tmp_path, size=7)
    assert second.encode(PIXELS).tobytes() == made.tobytes()
    assert second.encoded == 0


@pytest.mark.parametrize("known", [[], [0], [10], [0, 1, 2, 3], [2, 5, 6, 9], range(1, 11)])
def test_only_what_is_missing_is_encoded(world, plain, tmp_path, known):
    frozen(world, tmp_path).encode(PIXELS[list(known)]) if known else None
    runner = frozen(world, tmp_path)
    np.testing.assert_allclose(runner.encode(PIXELS)[0], plain, atol=1e-6)
    assert runner.encoded == 11 - len(known)


def test_a_changed_pixel_is_another_image(world, tmp_path):
    frozen(world, tmp_path).encode(PIXELS)
    changed = PIXELS.copy()
    changed[3, 31, 31, 2] ^= 1
    runner = frozen(world, tmp_path)
    runner.encode(changed)
    assert runner.encoded == 1
    reshaped = frozen(world, tmp_path)  # the same bytes as another image
    keys = content.digests(PIXELS.reshape(11, 16, 64, 3), np.arange(11))
    assert not reshaped._cache.read(keys)[1].any()


def test_files_are_decoded_once(world, plain, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    made = frozen(world, tmp_path / "cache").encode(photographs(tmp_path / "photos"))
    np.testing.assert_allclose(made[0], plain, atol=1e-6)
    monkeypatch.setattr("cdc_jax.tasks.decode._decoded", lambda *_: pytest.fail("decoded"))
    runner = frozen(world, tmp_path / "cache")
    assert runner.encode(photographs(tmp_path / "photos")).tobytes() == made.tobytes()
    shutil.move(tmp_path / "photos", tmp_path / "elsewhere")
    runner.encode(photographs(tmp_path / "elsewhere"))
    assert runner.encoded == 0


def test_a_changed_file_is_another_image_whatever_its_size_and_time(world, plain, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(11):  # files of equal size
        Image.fromarray(PIXELS[i]).save(folder / f"{i}.png", compress_level=0)
    frozen(world, tmp_path / "cache").encode(photographs(folder))
    times = os.stat(folder / "2.png")
    shutil.copy(folder / "5.png", folder / "2.png")
    os.utime(folder / "2.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert os.stat(folder / "2.png").st_size == times.st_size
    runner = frozen(world, tmp_path / "cache")
    np.testing.assert_allclose(runner.encode(photographs(folder))[0, 2], plain[5], atol=1e-6)
    assert runner.encoded == 0  # what the file holds now is known from the other


def test_a_file_that_changes_before_it_is_decoded(world, plain, tmp_path, monkeypatch):
    """The feature is stored as that of the bytes that were decoded."""
    folder, digests = tmp_path / "photos", Photographs.digests
    folder.mkdir()
    images = photographs(folder, count=1)

    def changing(images, numbers):
        told = digests(images, numbers)
        Image.fromarray(PIXELS[1]).save(folder / "0.png")
        return told

    before = content.of_file(folder / "0.png", Preprocessing.of(32))
    monkeypatch.setattr(Photographs, "digests", changing)
    runner = frozen(world, tmp_path / "cache")
    np.testing.assert_allclose(runner.encode(images)[0, 0], plain[1], atol=1e-6)
    after = content.of_file(folder / "0.png", Preprocessing.of(32))
    assert runner._cache.read([before, after])[1].tolist() == [False, True]


def test_a_file_that_changes_after_it_was_decoded(world, plain, tmp_path):
    """Pixels that stay in memory are those of the bytes that they were decoded from."""
    folder = tmp_path / "photos"
    folder.mkdir()
    images = photographs(folder, count=1)
    images[:]
    Image.fromarray(PIXELS[1]).save(folder / "0.png")
    images.squeezed(np.arange(1))
    frozen(world, tmp_path / "cache").encode(images)
    images = photographs(folder, count=1)
    np.testing.assert_allclose(
        frozen(world, tmp_path / "cache").encode(images)[0, 0], plain[1], atol=1e-6
    )


def test_keys_of_files_depend_on_preprocessing_and_decoder(tmp_path, monkeypatch):
    images = photographs(tmp_path, count=1)
    (plain,) = images.digests(np.arange(1))
    file = (tmp_path / "0.png").read_bytes()
    inside = Photographs(["a"], lambda path: file, 32, 48)
    assert inside.digests(np.arange(1)) == [plain]  # wherever the bytes are
    for other in (Preprocessing(48), Preprocessing(32, resize=40), Preprocessing(32, resample=2)):
        assert photographs(tmp_path, other, 1).digests(np.arange(1)) != [plain]
    monkeypatch.setattr(PIL, "__version__", "0.0")
    assert images.digests(np.arange(1)) != [plain]


def test_a_file_that_can_not_be_read_has_no_key_and_its_own_error(world, tmp_path):
    images = photographs(tmp_path, count=2)
    (tmp_path / "1.png").unlink()
    assert images.digests(np.arange(2))[1] == b""
    with pytest.raises(UnreadableImage, match="1.png can't be read as an image: No such file"):
        frozen(world, tmp_path / "cache").encode(images)


@pytest.fixture
def folder(tmp_path):
    """A folder with the bundled model."""
    return shutil.copytree(hub.find("world"), tmp_path / "model")


def rewrite(file, **changes):
    settings = json.loads(file.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        part = settings
        for parent in parents:
            part = part[parent]
        assert part[last] != value
        part[last] = value
    file.write_text(json.dumps(settings))


def test_models_have_features_of_their_own(world, folder):
    keys = [inference.encoder(world), inference.encoder(backbone.load("world", jnp.bfloat16))]
    name = "vision.blocks.mlp_in.bias"
    changed = np.array(world.weights()[name])
    changed[0, 0] = np.nextafter(changed[0, 0], 9)
    keys.append(inference.encoder(world.with_weights({name: changed})))
    with jax.default_matmul_precision("bfloat16"):
        keys.append(inference.encoder(world))
    for file, changes in (  # which no weights tell
        ("config.json", {"vision_config__num_attention_heads": 1}),
        ("config.json", {"vision_config__hidden_act": "gelu"}),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}),
        ("preprocessor_config.json", {"resample": 2}),
    ):
        rewrite(folder / file, **changes)
        keys.append(inference.encoder(backbone.load(folder)))
    assert len(set(keys)) == len(keys)
    assert inference.encoder(world.with_weights({})) == inference.encoder(backbone.load("world"))


def counting(monkeypatch, module, name):
    calls, function = [], getattr(module, name)

    def counted(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, counted)
    return calls


def test_a_model_is_loaded_and_hashed_once_until_its_files_change(folder, monkeypatch):
    reads = counting(monkeypatch, weights, "read")
    hashes = counting(monkeypatch, weights, "digest")
    first = backbone.load(folder)
    digest = first.weights_hash()
    again = backbone.load(str(folder) + "/.")
    assert again.weights_hash() == digest and len(reads) == len(hashes) == 1
    assert backbone.load(folder, jnp.bfloat16).weights_hash() != digest
    assert backbone.load(folder).weights_hash() == digest and len(reads) == 3
    file = folder / "model.safetensors"
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1  # the sign of a weight
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    changed = backbone.load(folder)
    assert len(reads) == 4
    fresh = clip.weights_hash(clip.load(folder)[0])
    assert changed.weights_hash() == fresh != digest
    rewrite(folder / "config.json", vision_config__hidden_act="gelu")
    assert backbone.load(folder).clip.config.vision.activation == "gelu"


def test_what_a_caller_does_to_a_model_stays_with_the_caller():
    first = backbone.load("world")
    digest = first.weights_hash()
    first.clip.vision.projection[...] = first.clip.vision.projection[...] + 1
    first.clip.text.blocks = None
    again = backbone.load("world")
    assert again.clip.text.blocks is not None
    assert again.weights_hash() == digest == clip.weights_hash(clip.load("world")[0])


SETTINGS = (
    "shots=1,world.test_images=2,methods=zero_shot,linear_probe,coop,evaluation_batch_size=24,"
    "coop.optimizer.epochs=1,coop.optimizer.warmup_rate=0.03,coop.views=clean,progress=False"
)


def run(get_config, monkeypatch, workdir, **settings):
    """Scores of a run, and how many images it encoded."""
    made = []

    class Counting(inference.FrozenFeatures):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(train, "FrozenFeatures", Counting)
    config = get_config("fewshot", SETTINGS)
    config.update_from_flattened_dict(settings)
    train.train_and_evaluate(config, workdir)
    scores = {
        f"{method}/{name}": array
        for method in ("zero_shot", "linear_probe", "coop")
        for name, array in np.load(workdir / method / "scores.npz").items()
    }
    return scores, made[0].encoded


@pytest.mark.slow
def test_a_second_run_encodes_nothing_and_scores_the_same(get_config, monkeypatch, tmp_path):
    cache = str(tmp_path / "cache")
    off, encoded = run(get_config, monkeypatch, tmp_path / "off", **{"cache.gigabytes": 0.0})
    images = encoded
    tested = sum(len(off[name]) for name in off if "zero" in name and "labels" in name)
    assert images == 12 + 12 + tested  # a shot and a validation image of each class
    assert not (tmp_path / "cache").exists()
    for name, expected in (("first", images), ("second", 0)):
        settings = {"cache.folder": cache, "progress": False}
        scores, encoded = run(get_config, monkeypatch, tmp_path / name, **settings)
        assert encoded == expected
        assert scores.keys() == off.keys()
        for key in scores:
            assert scores[key].tobytes() == off[key].tobytes(), key
    # A run does not depend on where features are kept.
    with_cache, without = (
        (tmp_path / n / "coop/config.json").read_bytes() for n in ("first", "off")
    )
    assert with_cache == without
    predictor = prediction.load(tmp_path / "first" / "coop")
    monkeypatch.setattr(inference.views, "clean_view", lambda *_: pytest.fail("encoded"))
    task = tasks.load(get_config("fewshot", SETTINGS), 32)
    rows = predictor.stream(task.test["base_iid"].images, batch_size=5, cache=FeatureCache(cache))
    told = (scores[f"coop/base_iid/{name}"] for name in ("predicted", "confidence"))
    for row, predicted, confidence in zip(rows, *told, strict=True):
        assert row.predicted == predictor.class_names[predicted]
        assert row.probability[0][1] == pytest.approx(confidence, abs=1e-5)


def test_photos_are_images_and_have_keys(tmp_path):
    for i in (0, 1):
        Image.fromarray(PIXELS[i]).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"damaged")
    opened = Image.open(io.BytesIO((tmp_path / "1.png").read_bytes()))
    photos = gather([tmp_path, opened, PIXELS[3]])
    images = PhotoImages(photos, Preprocessing.of(32), skip=True)
    numbers = np.arange(5)
    before = images.digests(numbers)
    assert images.decoded_digests(numbers[:3]) == [b""] * 3  # nothing is decoded yet
    pixels = images[numbers]
    assert np.array_equal(
        pixels, [PIXELS[0], PIXELS[1], np.zeros((32, 32, 3)), PIXELS[1], PIXELS[3]]
    )
    assert images.unreadable.keys() == {2} and "damaged" in str(images.unreadable[2])
    after = images.decoded_digests(numbers)
    assert after[2] == b"" and before[:2] + before[3:] == after[:2] + after[3:]
    assert len(set(after)) == 5
    assert photographs(tmp_path, count=2).digests(numbers[:2]) == after[:2]  # as in a run
    with pytest.raises(UnreadableImage, match="2.png"):
        PhotoImages(photos, Preprocessing.of(32))[1:3]


def test_shares_of_photos():
    photos = [Photo(str(i), PIXELS[i]) for i in range(10)]
    assert share(photos, "1/1") == photos
    for parts in (2, 3, 7, 10):
        shares = [share(photos, f"{i}/{parts}") for i in range(1, parts + 1)]
        assert sum(shares, []) == photos
        assert {len(part) for part in shares} <= {10 // parts, -(-10 // parts)}
    for wrong in ("0/2", "3/2", "1/0", "1", "", "a/b", "-1/2", "1/2/3"):
        with pytest.raises(ValueError, match="share must be PART/PARTS, such as 2/4, got"):
            share(photos, wrong)
    with pytest.raises(ValueError, match="share 1/11: there are only 10 images, name fewer parts"):
        share(photos, "1/11")
