"""Training on cached views: against fresh views and plain encodings; resumed; refused."""

import dataclasses
import json

import chex
import jax
import numpy as np
import optax
import pytest
import safetensors.numpy
from PIL import Image

from cdc_jax import (
    backbone,
    cached_views,
    devices,
    inference,
    methods,
    optimizer,
    tasks,
    train,
    views,
)
from cdc_jax.clip.backbone import ClipBackbone
from cdc_jax.methods import defaults, families, linear_probe, rows
from cdc_jax.methods.family import Family
from cdc_jax.tasks.batches import TrainingBatches, read_images
from cdc_jax.tasks.photographs import Photographs

NAMES = ("striped star", "solid heart", "dotted disc")
EPOCHS, BATCH, FIRST, SEED = 3, 4, 5, 2**31 + 7
"""Of eleven images, three are left out of each epoch's two batches; FIRST steps were before."""


@pytest.fixture(scope="module")
def world():
    return backbone.load("world")


@pytest.fixture(scope="module")
def drawn():
    images = np.random.default_rng(0).integers(0, 256, (11, 40, 40, 3), np.uint8)
    return tasks.Examples(images, np.arange(11) % 3, NAMES)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Of eleven forms."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = []
    for i in range(11):
        coarse = np.random.default_rng(i).integers(0, 256, (5, 5, 3), np.uint8)
        paths.append(f"{i}.png")
        image = Image.fromarray(coarse).resize((30 + 7 * i, 90 - 4 * i), Image.Resampling.BICUBIC)
        image.save(folder / paths[-1])
    images = Photographs(paths, folder.joinpath, size=32, side=48)
    return tasks.Examples(images, np.arange(11) % 3, NAMES)


def phase_of(world, examples, row, cached=0, **changes):
    """A stage of a row, with its method's start."""
    choice = methods.configure(row, "small")
    config = choice.config.copy_and_resolve_references().unlock()
    config.update_from_flattened_dict(
        {"optimizer.epochs": EPOCHS, "optimizer.batch_size": BATCH, "cached_views": cached}
        | {key.replace("__", "."): value for key, value in changes.items()}
    )
    choice = dataclasses.replace(choice, config=config)
    support = methods.Support(world.encode_texts(NAMES), np.arange(3))
    method = methods.build(choice, world, NAMES, "a photo of a {}.", support)
    (stage,) = method.stages()
    make_views = views.build(
        config.views, templates=method.templates, size=32, mean=world.mean, std=world.std
    )
    batches = TrainingBatches(examples, stage.optimizer.batch_size, SEED)
    update = optimizer.make(stage.optimizer, batches.per_epoch)
    steps = stage.optimizer.epochs * batches.per_epoch
    count = cached_views.count(stage, (), batches.per_epoch)
    phase = train.Phase(stage, examples, batches, update, make_views, FIRST, steps, count)
    return phase, method.initialize(jax.random.key(0), world, support)


def features_of(world, phase, batch_size=7):
    frozen = inference.FrozenFeatures(world, devices.make_mesh(), batch_size)
    return cached_views.encode(phase, SEED, frozen, lambda: None)


def trained_on(world, phase, learned):
    """All losses of the stage and what it learned; its step is traced once."""
    chex.clear_trace_counter()
    batches = phase.batches
    if phase.cached_views:
        batches = batches.of_features(features_of(world, phase))
    state = train.initial_state(phase.stage, phase.update, learned.trained, FIRST)
    classes = phase.stage.method.classes(world, NAMES)
    step = chex.assert_max_traces(train.make_step(phase, SEED), n=1)
    step = jax.jit(step, compiler_options={"xla_backend_optimization_level": 0})  # compiles sooner
    logs = []
    for i in range(phase.steps):
        state, losses = step(state, world, learned.fixed, classes, batches[i])
        logs.append(losses)
    return jax.device_get((logs, state["trained"]))


# ---- features


@pytest.mark.parametrize(
    ("row", "kind", "templates"),
    [
        ("coop@views=jitter", "drawn", 1),
        pytest.param("coop@views=crop", "photographs", 1, marks=pytest.mark.slow),
        pytest.param("cdc@views=flip; jitter", "photographs", 4, marks=pytest.mark.slow),
    ],
)
def test_cached_features_are_those_of_views_made_and_encoded_plainly(
    world, request, row, kind, templates
):
    examples = request.getfixturevalue(kind)
    phase, _ = phase_of(world, examples, row, cached=2)
    found = features_of(world, phase)
    assert found.shape == (11, 2, templates, world.sizes.embed_width)
    for view in range(2):
        steps = (2 * view, 2 * view + 1)  # two batches an epoch
        batches = {step: phase.batches.indices(step) for step in steps}
        left = np.setdiff1d(np.arange(11), np.concatenate([*batches.values()]))
        assert len(left) == 3
        for step, numbers in [*batches.items(), (steps[-1], [*left, left[0]])]:
            indices = np.array(numbers, np.int32)
            read = read_images(examples.images, indices)
            made = phase.make_views(
                np.uint32(SEED), FIRST + step, indices, read["images"], read.get("aspect_ratios")
            )
            for template, images in enumerate(made):
                plain = world.encode_images(images)
                np.testing.assert_allclose(found[indices, view, template], plain, atol=2e-6)


def test_how_views_are_batched_does_not_matter(world, photographs):
    phase, _ = phase_of(world, photographs, "coop@views=flip", cached=3)
    whole = features_of(world, phase, 100)
    frozen = inference.FrozenFeatures(world, devices.make_mesh(), 4)
    called = []
    parts = cached_views.encode(phase, SEED, frozen, lambda: called.append(1))
    assert len(called) == cached_views.batches(phase, frozen) == 9  # 33 views
    np.testing.assert_allclose(whole, parts, atol=2e-6)
    # Again in the same batches, as after an interruption: to the bit.
    np.testing.assert_array_equal(cached_views.encode(phase, SEED, frozen, lambda: None), parts)


def test_a_clean_view_is_cached_once_and_is_the_image(world):
    images = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), np.uint8)
    examples = tasks.Examples(images, np.arange(5) % 3, NAMES)
    phase, _ = phase_of(world, examples, "coop@views=clean")
    assert phase.cached_views == 1
    frozen = inference.FrozenFeatures(world, devices.make_mesh(), 3)
    cached = cached_views.encode(phase, SEED, frozen, lambda: None)
    np.testing.assert_allclose(cached[:, 0], frozen.of(examples).swapaxes(0, 1), atol=2e-6)


@pytest.mark.parametrize(
    ("row", "asked", "expected"),
    [
        ("coop@views=shared", 0, 0),
        ("coop@views=shared", 2, 2),
        ("coop@views=shared", 100, EPOCHS),
        ("coop@views=clean", 0, 1),
        ("coop@views=grayscale", 2, 1),
        ("linear_probe@views=flip(p=0.0)", 0, 1),
        ("maple@views=clean", 0, 0),  # its image features change
        ("zero_shot", 0, 1),
    ],
)
def test_how_many_views_are_cached(world, drawn, row, asked, expected):
    phase, _ = phase_of(world, drawn, row, cached=asked)
    assert phase.cached_views == expected


# ---- training


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("linear_probe@views=jitter", "drawn"),
        pytest.param("coop@views=crop", "photographs", marks=pytest.mark.slow),
        # Four templates, each with its own draws of two views; and with one view for all.
        pytest.param("vsd@views=flip; jitter", "drawn", marks=pytest.mark.slow),
        pytest.param("cdc_plus@views=flip", "photographs", marks=pytest.mark.slow),
    ],
)
def test_as_many_views_as_epochs_equal_fresh_views(world, request, row, kind):
    examples = request.getfixturevalue(kind)
    fresh, cached = (
        trained_on(world, *phase_of(world, examples, row, cached=cached)) for cached in (0, EPOCHS)
    )
    chex.assert_trees_all_close(cached, fresh, rtol=2e-5, atol=2e-5)
    losses = [float(line["loss"]) for line in fresh[0]]
    assert len(losses) == 2 * EPOCHS and np.std(losses) > 1e-3


def test_fewer_views_than_epochs_differ_from_fresh_views_when_they_come_back(world, drawn):
    fresh, cached = (
        trained_on(world, *phase_of(world, drawn, "linear_probe@views=jitter", cached=cached))[0]
        for cached in (0, 2)
    )
    chex.assert_trees_all_close(cached[:4], fresh[:4], rtol=2e-5, atol=2e-5)
    assert abs(cached[4]["loss"] - fresh[4]["loss"]) > 1e-3


def test_one_cached_view_is_a_fixed_training_set(world, drawn):
    """A probe on it is softmax regression, here by NumPy in float64."""
    phase, learned = phase_of(
        world, drawn, "linear_probe@views=jitter", cached=1, optimizer__name="sgd",
        optimizer__learning_rate=1e-3, optimizer__warmup_rate=1e-3,
    )  # fmt: skip
    phase = dataclasses.replace(phase, update=optax.sgd(1e-3))
    logs, trained = trained_on(world, phase, learned)
    features = np.zeros((11, world.sizes.embed_width))
    for step, numbers in [(0, phase.batches.indices(0)), (1, range(11))]:
        numbers = [i for i in numbers if not features[i].any()]
        images = drawn.images[numbers]
        made = phase.make_views(np.uint32(SEED), FIRST + step, np.int32(numbers), images)
        features[numbers] = world.encode_images(made[0])
    weights, scale = np.zeros((3, world.sizes.embed_width)), float(world.logit_scale)
    for step, line in enumerate(logs):
        chosen = phase.batches.indices(step)
        logits = scale * features[chosen] @ weights.T
        probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        truth = np.eye(3)[drawn.labels[chosen]]
        loss = -np.log((probability * truth).sum(-1)).mean()
        assert line["loss"] == pytest.approx(loss, rel=1e-4)
        weights -= 1e-3 * scale * (probability - truth).T @ features[chosen] / BATCH
    np.testing.assert_allclose(trained["classifier"][0], weights, atol=1e-5)


def test_the_image_tower_is_not_in_the_step(world, drawn, monkeypatch):
    phase, learned = phase_of(world, drawn, "coop", cached=2)
    batch = phase.batches.of_features(features_of(world, phase))[0]

    def encode_images(*arguments):
        raise AssertionError("an image is encoded")

    monkeypatch.setattr(ClipBackbone, "encode_images", encode_images)
    state = train.initial_state(phase.stage, phase.update, learned.trained, FIRST)
    given = (state, world, learned.fixed, phase.stage.method.classes(world, NAMES))
    jax.jit(train.make_step(phase, SEED)).lower(*given, batch)
    fresh = dataclasses.replace(phase, cached_views=0)
    with pytest.raises(AssertionError, match="an image is encoded"):
        jax.jit(train.make_step(fresh, SEED)).lower(*given, fresh.batches[0])


# ---- runs


@dataclasses.dataclass(frozen=True, eq=False)
class TwoStages(linear_probe.LinearProbe):
    """A probe trained in two stages of different batches."""

    def stages(self):
        second = self.config.optimizer.copy_and_resolve_references().unlock()
        second.batch_size, second.epochs = 7, 2
        return methods.Stage(self, self.config.optimizer), methods.Stage(self, second)


ROW = methods.Row(
    "two stages",
    {"views": "shared", "optimizer.name": "adam", "optimizer.epochs": 3, "optimizer.batch_size": 5},
    family="two_stages",
)


@pytest.fixture(scope="module")
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(families.FAMILIES, "two_stages", Family(TwoStages))
        patch.setitem(defaults.OF_FAMILIES, "two_stages", {})
        patch.setitem(rows.ROWS, "two_stages", ROW)
        yield


@pytest.fixture(scope="module")
def config(registered, get_config):
    """24 images: 4 steps an epoch and 12 in the first stage, 3 and 6 in the second."""
    config = get_config(
        "fewshot",
        "methods=two_stages@cached_views=2,shots=2,world.test_images=1,evaluation_batch_size=10",
    )
    config.log_every, config.checkpoint_every = 1, 5
    return config


def run(config, workdir):
    """What a run writes that depends on its training."""
    train.train_and_evaluate(config, workdir)
    folder = workdir / config.methods
    text = (folder / "metrics.jsonl").read_text()
    arrays = safetensors.numpy.load((folder / "adapted/learned.safetensors").read_bytes())
    return [json.loads(line) for line in text.splitlines()], arrays


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def finished(config, whole):
    return run(config, whole)


@pytest.mark.slow
def test_each_stage_has_views_of_its_own(finished, config, tmp_path):
    with config.unlocked():
        fresh = config.copy_and_resolve_references()
    fresh.methods = "two_stages"
    expected, _ = run(fresh, tmp_path)
    lines, _ = finished
    assert [line["step"] for line in lines] == list(range(1, 19))
    # Two views of three epochs in the first stage, of two in the second.
    for line, wanted in zip(lines[:8], expected[:8], strict=True):
        assert line == pytest.approx(wanted, rel=2e-4, abs=1e-5)
    assert abs(lines[8]["loss"] - expected[8]["loss"]) > 1e-3
    fresh.methods = "two_stages@cached_views=3"
    lines, _ = run(fresh, tmp_path)
    for line, wanted in zip(lines, expected, strict=True):
        assert line == pytest.approx(wanted, rel=2e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [7, 12, 16])  # in the first stage, at its end, in the second
def test_killed_and_resumed_it_ends_with_the_same_bits(
    finished, config, tmp_path, monkeypatch, stop_at
):
    stream = TrainingBatches.stream

    def dying(self, first, last, put):
        before = 0 if self.per_epoch == 4 else 12
        for step, batch in enumerate(stream(self, first, last, put), before + first):
            if step == stop_at:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(TrainingBatches, "stream", dying)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(config, tmp_path)
    lines, arrays = run(config, tmp_path)
    assert lines == finished[0]
    chex.assert_trees_all_equal(arrays, finished[1])


@pytest.mark.slow
def test_sigterm_while_views_are_encoded(finished, config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(train.Notice, "came", lambda notice, meeting=True: True)
        with pytest.raises(train.Interrupted, match="stopped while its views were encoded"):
            train.train_and_evaluate(config, tmp_path)
    lines, _ = run(config, tmp_path)
    assert lines == finished[0]


@pytest.mark.slow
def test_views_are_not_encoded_where_only_the_evaluation_is_missing(
    finished, config, whole, monkeypatch
):
    def encode(*arguments):
        raise AssertionError("views are encoded")

    monkeypatch.setattr(cached_views, "encode", encode)
    (whole / config.methods / "results.json").unlink()
    _, arrays = run(config, whole)
    chex.assert_trees_all_equal(arrays, finished[1])


# ---- refusals


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("maple@cached_views=10", ""),
        ("maple@cached_views=10", "small"),
        ("cdc@cached_views=10", ""),
        ("cdc@views=flip; jitter;cached_views=10", ""),
        ("coop@prompts.modality=multimodal;cached_views=10", "small"),
    ],
)
def test_a_method_that_changes_image_features_is_refused(name, profile):
    message = (
        r"cached_views=10 keeps the image features of views, but this method changes image "
        "features in every step: set cached_views=0"
    )
    with pytest.raises(ValueError, match=message):
        methods.configure(name, profile)


@pytest.mark.parametrize("name", ["coop@views=flip;cached_views=10", "cdc@cached_views=10"])
def test_text_prompts_are_not(name):
    assert methods.configure(name, "small").config.cached_views == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-1", "coop@cached_views=-1: cached_views must be at least 0 .fresh views., got -1"),
        ("1.5", "cached_views must be of type int, got '1.5'"),
        ("all", "cached_views must be of type int, got 'all'"),
    ],
)
def test_a_number_that_there_is_not_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        methods.configure(f"coop@cached_views={text}")


def test_it_is_refused_before_any_work(get_config, tmp_path):
    argument = f"dataset=folder,data.root={tmp_path}/nowhere,methods=coop,maple"
    config = get_config("fewshot", argument)
    config.maple.cached_views = 5
    with pytest.raises(ValueError, match="maple: cached_views=5 keeps the image features"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
