"""Predictions of a finished run on images, in the library and on the command line."""

import csv
import dataclasses
import functools
import json
import shutil
import subprocess
import sys

import forked_runs
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cdc_jax
from cdc_jax import backbone, clip, evaluate, export, inference, methods, prediction, tasks, train
from cdc_jax.feature_cache import FeatureCache
from cdc_jax.tasks.decode import UnreadableImage

pytestmark = pytest.mark.slow  # trains, and starts commands

# The vectors of CoOp are trained, those of CDC are its many initial ones, nested and of all kinds.
SETTINGS = (
    "shots=2,world.test_images=2,methods=cdc,coop,evaluation_batch_size=24,"
    "coop.optimizer.epochs=1,coop.optimizer.warmup_rate=0.03,coop.views=clean,"
    "cdc.optimizer.epochs=0,cdc.prompts.modality=multimodal,cdc.prompts.layers=2,"
    "cdc.prompts.context=2"
)
predict = functools.partial(cdc_jax.predict, batch_size=2)  # compiled once for all tests


@pytest.fixture(scope="module")
def finished(get_config, tmp_path_factory):
    """A run of two methods: its folder, its task, and its scores by method and split."""
    config = get_config("fewshot", SETTINGS)
    workdir, scored = tmp_path_factory.mktemp("run"), []

    def keeping(*arguments):
        scored.append(evaluate.evaluate(*arguments))
        return scored[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "evaluate", keeping)
        train.train_and_evaluate(config, workdir)
    pairs = {
        (method, split): one.prediction
        for method, scores in zip(("cdc", "coop"), scored, strict=True)
        for split, one in scores.items()
    }
    return workdir, tasks.load(config, 32), pairs


@pytest.fixture(scope="module")
def photos(finished, tmp_path_factory):
    """A folder of five of the task's images, and what its files hold."""
    folder = tmp_path_factory.mktemp("photos")
    images = finished[1].test["base_int"].images[::5]
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder, images


@pytest.mark.parametrize(("method", "templates"), [("cdc", 4), ("coop", 1)])
@pytest.mark.parametrize("split", ["base_iid", "new_style"])
def test_predictions_are_the_evaluation_of_the_run(finished, method, templates, split):
    workdir, task, scored = finished
    examples, scores = task.test[split], scored[method, split]
    classes = examples.class_names
    rows = prediction.load(workdir / method, class_names=classes).stream(
        examples.images, batch_size=2, top_k=len(classes)
    )
    for i, row in enumerate(rows):
        assert row.image == f"image {i}"
        told = [dict(row.probability)[name] for name in classes]
        assert np.allclose(told, scores.probability[i], rtol=0, atol=1e-5)
        assert row.predicted == classes[scores.probability[i].argmax()] == row.probability[0][0]
        assert row.probability[0][1] == max(told)
        assert row.uncertainty == pytest.approx(scores.uncertainty[i], abs=1e-4)
        own = [classes.index(name) for name, _, _ in row.templates]
        assert own == list(scores.template_predicted[i]) and len(own) == templates
    assert i == len(examples) - 1


def test_uncertainty_of_the_heads(finished):
    workdir, task, _ = finished
    images = task.test["base_int"].images[:8]
    classes = len(task.class_names)
    for row in predict(workdir / "cdc", images, top_k=classes):
        assert 0 < row.vacuity <= 1 and 0 <= row.conflict <= 1
        assert row.uncertainty == pytest.approx(1 - row.probability[0][1], abs=1e-6)
        for _, probability, uncertainty in row.templates:
            assert uncertainty == pytest.approx(1 - probability, abs=1e-6)
        # p_k = b_k + u / K, and no class has less than u / K.
        assert min(p for _, p in row.probability) >= row.vacuity / classes - 1e-6
    for row in predict(workdir / "coop", images, top_k=2):
        assert row.vacuity is None
        assert row.uncertainty == pytest.approx(1 - row.probability[0][1], abs=1e-6)
        ((name, probability, uncertainty),) = row.templates
        assert (name, pytest.approx(probability)) == row.probability[0]
        assert uncertainty == pytest.approx(row.uncertainty, abs=1e-6)
        assert len(row.probability) == 2


def test_the_text_of_the_training_classes_is_not_encoded_again(finished, photos, tmp_path):
    folder = finished[0] / "cdc/adapted"
    kept = prediction.load(folder)
    adapted = export.read(folder)
    assert adapted.text.shape == (4, len(kept.class_names), 128)
    export.write(tmp_path, dataclasses.replace(adapted, text=None))
    computed = prediction.load(tmp_path)
    assert list(kept.stream(photos[0])) == list(computed.stream(photos[0]))
    encoded = [p._inference._text._cache_size() for p in (kept, computed)]
    assert encoded == [0, 1]
    others = prediction.load(folder, class_names=["cat", "dog"])
    assert others._inference._text._cache_size() == 1


def test_files_are_predicted_as_their_pixels(finished, photos):
    workdir = finished[0]
    folder, images = photos
    named = predict(workdir / "cdc", folder)
    assert [row.image for row in named] == [f"{folder}/{i}.png" for i in range(5)]
    for row, alone in zip(named, predict(workdir / "cdc", list(images)), strict=True):
        assert row.probability == alone.probability
    with Image.open(folder / "3.png") as opened:
        row, _ = predict(workdir / "cdc", [opened, folder / "0.png"])
    assert row == named[3]


def test_one_program_serves_all_batches(finished, photos, monkeypatch):
    predictor = prediction.load(finished[0] / "coop")
    traced, clean_view = [], inference.views.clean_view

    def counting(images, *arguments):
        traced.append(images.shape)
        return clean_view(images, *arguments)

    monkeypatch.setattr(inference.views, "clean_view", counting)
    assert len(list(predictor.stream(photos[0], batch_size=2))) == 5
    assert traced == [(2, 32, 32, 3)]


def assert_same(rows, others):
    """Features of other batches differ by rounding."""
    for row, other in zip(rows, others, strict=True):
        if isinstance(other, UnreadableImage):
            assert repr(row) == repr(other)
        else:
            assert (row.image, row.predicted) == (other.image, other.predicted)
            assert dict(row.probability) == pytest.approx(dict(other.probability), abs=1e-5)


def test_predictions_by_cached_features_are_the_same(finished, photos, tmp_path, monkeypatch):
    run, folder, cache = finished[0] / "coop", tmp_path / "photos", FeatureCache(tmp_path / "cache")
    shutil.copytree(photos[0], folder)
    (folder / "1.png").write_bytes(b"")
    plain = predict(run, folder, on_error="skip")
    kept = predict(run, [folder / "0.png", folder / "3.png"], cache=cache)
    assert_same(kept, [plain[0], plain[3]])
    encoded = counting(monkeypatch)
    assert_same(predict(run, folder, on_error="skip", cache=cache), plain)
    # Batches of two of the images without a feature: 1, which can't be read, 2 and 4.
    assert sorted(encoded) == [1, 2]
    assert_same(predict(run, folder, on_error="skip", cache=cache), plain)
    assert sorted(encoded) == [1, 1, 2]  # what can't be read is tried again
    with pytest.raises(UnreadableImage, match=r"1.png can't be read as an image: it is empty"):
        predict(run, folder, cache=cache)
    shutil.copy(folder / "2.png", folder / "0.png")
    again = predict(run, [folder / "0.png", folder / "2.png"], cache=cache)
    assert again[0].probability == again[1].probability
    assert_same([again[1]], [plain[2]])


def counting(monkeypatch):
    """Numbers of images in the batches that are encoded from now on."""
    encoded, begun = [], inference.FrozenFeatures._begun

    def counted(frozen, images, numbers):
        encoded.extend([len(numbers)] * bool(len(numbers)))
        return begun(frozen, images, numbers)

    monkeypatch.setattr(inference.FrozenFeatures, "_begun", counted)
    return encoded


def test_a_stream_that_is_left_goes_on_where_it_was(finished, photos, tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path)
    predictor, encoded = prediction.load(finished[0] / "coop"), counting(monkeypatch)
    stream = predictor.stream(photos[0], batch_size=2, cache=cache)
    next(stream)
    stream.close()
    assert encoded == [2, 2]  # one is read while the one before is encoded
    rows = list(predictor.stream(photos[0], batch_size=2, cache=cache))
    assert encoded[2:] in ([2, 1], [1])  # the second batch was stored, or not
    assert_same(rows, predict(finished[0] / "coop", photos[0]))


def test_a_method_that_changes_image_features_reads_no_cached_ones(finished, photos, tmp_path):
    cache = FeatureCache(tmp_path / "cache")
    run = finished[0] / "cdc"
    assert_same(predict(run, photos[0], cache=cache), predict(run, photos[0]))
    assert not (tmp_path / "cache").exists()


def test_an_image_that_can_not_be_read_stops_or_is_a_row(finished, photos, tmp_path):
    workdir = finished[0]
    shutil.copytree(photos[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(UnreadableImage, match=r"1.png can't be read as an image: it is empty"):
        predict(workdir / "coop", tmp_path)
    named = [tmp_path, tmp_path / "none.jpg"]
    rows = predict(workdir / "coop", named, on_error="skip")
    bad = {i: row for i, row in enumerate(rows) if isinstance(row, UnreadableImage)}
    assert {i: row.reason for i, row in bad.items()} == {
        1: "it is empty",
        5: "No such file or directory",
    }
    for i, row in enumerate(predict(workdir / "coop", photos[0], abstain="probability:1")):
        assert row.abstained
        if i not in bad:
            assert not rows[i].abstained
            assert rows[i].probability == row.probability


def test_hand_crafted_templates_predict_and_class_specific_ones_know_their_own(photos, tmp_path):
    world = backbone.load("world")
    names = ["solid gear", "hollow flower"]
    support = methods.Support(world.encode_texts(names), np.arange(2))
    for row, trained in {
        "zero_shot_aspects": {"prompts": {}},
        "linear_probe": {"classifier": np.zeros((1, 2, world.sizes.embed_width), np.float32)},
        "coop": {
            "prompts": {"context": np.zeros((1, 2, 1, 4, world.sizes.text_width), np.float32)}
        },
    }.items():
        choice = methods.configure(row, "small", unfamiliar_names=True)
        method = methods.build(choice, world, names, "a photo of a {}.", support)
        described = export.describe(
            method, choice.family_name, methods.Learned(trained, {}), "world", world,
            world.weights_hash(),
        )  # fmt: skip
        export.write(tmp_path / row / "adapted", described)
    for row in predict(tmp_path / "zero_shot_aspects", photos[0], class_names=["a", "b"]):
        assert len(row.templates) == 4
    for row in predict(tmp_path / "linear_probe", photos[0]):
        assert dict(row.probability) == pytest.approx({name: 0.5 for name in names})
    for method in ("linear_probe", "coop"):
        with pytest.raises(ValueError, match="tells apart exactly .*, not"):
            prediction.load(tmp_path / method, class_names=["a", "b"])


def test_a_bad_image_is_named_before_the_model_is_loaded(tmp_path):
    with pytest.raises(UnreadableImage, match="none.jpg"):
        predict(tmp_path / "no_run", tmp_path / "none.jpg")


def test_a_base_that_was_moved_is_accepted_and_another_refused(finished, photos, tmp_path):
    workdir = finished[0]
    model, tokenizer = clip.load("world")
    clip.save_pretrained(model, tokenizer, tmp_path / "moved")
    here, there = (
        predict(workdir / "coop", photos[0], model=m) for m in (None, tmp_path / "moved")
    )
    assert here == there
    model.text.projection[...] = model.text.projection[...].at[0, 0].add(jnp.float32(1e-3))
    clip.save_pretrained(model, tokenizer, tmp_path / "other")
    was, now = clip.weights_hash(clip.load("world")[0])[:12], clip.weights_hash(model)[:12]
    message = f"adapted on 'world' of weights {was}…, but '.*/other' has weights {now}…"
    with pytest.raises(ValueError, match=message):
        prediction.load(workdir / "coop", tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"base": {"model": "/no/such/clip"}}, FileNotFoundError, "The base of .* was '/no/"),
        ({"settings": {"prompts": {"templates": 2}}}, ValueError, "holds arrays .* do not fit"),
        ({"preprocessing": {"size": 64}}, ValueError, "images of 64 pixels, .* takes 32"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(finished, tmp_path, change, error, message):
    shutil.copytree(finished[0] / "coop/adapted", tmp_path, dirs_exist_ok=True)
    description = json.loads((tmp_path / "adapted.json").read_text())
    for key, value in change.items():
        for name, inner in value.items():
            merged = description[key].get(name)
            description[key][name] = merged | inner if isinstance(inner, dict) else inner
    (tmp_path / "adapted.json").write_text(json.dumps(description))
    with pytest.raises(error, match=message):
        prediction.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k and batch_size must be at least 1, got 0 and 32"),
        ({"batch_size": 0}, "top_k and batch_size must be at least 1, got 3 and 0"),
        ({"on_error": "go"}, 'on_error must be "stop" or "skip", got \'go\''),
        (
            {"abstain": "vacuity:0.5"},
            "abstain=vacuity:0.5: .* measures are probability, risk, uncertainty$",
        ),
        (
            {"class_names": ["cat"]},
            r"class names must be two or more different names that are not empty, got \('cat',\)",
        ),
        ({"class_names": ["cat", "cat"]}, "two or more different names that are not empty"),
        ({"class_names": ["cat", " "]}, "two or more different names that are not empty"),
        ({"class_names": ["cat", "Cat "]}, "names 'cat' and 'Cat ' are the same tokens"),
    ],
)
def test_a_bad_option_is_refused(finished, photos, options, message):
    with pytest.raises(ValueError, match=message):
        cdc_jax.predict(finished[0] / "coop", photos[0], **options)


def command(*arguments):
    """Exit code, output and errors of experiments/predict.py."""
    run = forked_runs.Script(forked_runs.EXPERIMENTS / "predict.py", *arguments)
    return (*run.communicate(), run.returncode)


def test_the_command_prints_and_writes(finished, photos, tmp_path):
    (tmp_path / "bad.jpg").write_text("text")
    output, errors, code = command(
        finished[0] / "cdc", f"{photos[0]}/[0-2].png", tmp_path / "bad.jpg", "--on_error=skip",
        "--top_k=2", "--batch_size=2", f"--csv={tmp_path}/out.csv", f"--json={tmp_path}/out.json",
        "--abstain=probability:1", "--classes=hollow star,striped key,solid moon",
    )  # fmt: skip
    assert code == 0, errors
    expected = predict(
        finished[0] / "cdc", photos[0], class_names=["hollow star", "striped key", "solid moon"]
    )
    for part in ("2.png", expected[2].predicted, "(abstains)", "unreadable"):
        assert part in output
    *good, bad = json.loads((tmp_path / "out.json").read_text())
    for row, theirs in zip(good, expected, strict=False):
        assert (row["image"], row["predicted"]) == (theirs.image, theirs.predicted)
        assert dict(row["probability"]) == pytest.approx(dict(theirs.probability[:2]), abs=1e-5)
        assert row["abstained"]
    assert len(good) == 3 and bad["image"] == str(tmp_path / "bad.jpg")
    with open(tmp_path / "out.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["probability_1"]) for line in lines[:3]] == [
        row["probability"][0][1] for row in good
    ]


def test_the_command_predicts_a_share_and_keeps_features(finished, photos, tmp_path):
    options = (f"--cache_folder={tmp_path}/cache", f"--json={tmp_path}/out.json", "--share=2/2")
    _, errors, code = command(finished[0] / "coop", photos[0], *options)
    assert code == 0, errors
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [row["image"] for row in rows] == [f"{photos[0]}/{i}.png" for i in (2, 3, 4)]
    (file,) = (tmp_path / "cache").rglob("*.features")
    assert file.stat().st_size == 16 + 3 * (32 + 4 * 128)


def test_the_command_ends_with_one_line(finished, photos, tmp_path):
    _, errors, code = command(finished[0], photos[0], f"--csv={tmp_path}/out.csv")
    assert code == 1 and not list(tmp_path.iterdir())
    assert errors.strip().splitlines() == [
        f"FileNotFoundError: {finished[0]} holds 2 adapted models, choose one: {finished[0]}/cdc, "
        f"{finished[0]}/coop"
    ]


def test_importing_the_leaves_does_not_load_the_rest():
    code = "import sys; from cdc_jax import evidence; print('cdc_jax.clip' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert cdc_jax.predict is prediction.predict
    with pytest.raises(AttributeError, match="module 'cdc_jax' has no attribute 'predcit'"):
        _ = cdc_jax.predcit
