"""Methods on frozen features, against each written out for itself in PyTorch and float64.

`references/feature_methods.npz` holds the answers of `references/make_feature_methods.py`. Steps
run in float64 here, too: Adam's first steps divide small gradients by themselves. A difference
counts in units of the tensor's largest value.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import whole_way

from cdc_jax import (
    backbone,
    cached_views,
    devices,
    inference,
    methods,
    optimizer,
    selection,
    step,
    tasks,
    train,
    views,
)  # fmt: skip
from cdc_jax.methods import strong_probes
from cdc_jax.preprocessing import Preprocessing
from cdc_jax.tasks.batches import TrainingBatches

TEMPLATES = "a {}.|the {}."
ROWS = {
    "clip_adapter": {"adapter": ("down", "up")},
    "taskres": {"": ("residual",)},
    "tip_adapter_f": {"cache": ("keys",)},
    "lp_plus_plus": {"classifier": ("weights", "bias"), "blend": ("alpha",)},
    "cross_modal_probe": {"": ("classifier",)},
}
"""Trained arrays by part; "" is an array that is a part of its own."""


@pytest.fixture(scope="module")
def stored():
    path = Path(__file__).parent / "references" / "feature_methods.npz"
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@jax.tree_util.register_static
class Encoder(backbone.Backbone):
    """A backbone that knows raw features of some texts."""

    preprocessing = Preprocessing(4)
    mean = std = (0.5, 0.5, 0.5)
    dtype, profile, logit_bias = "float32", "", 0.0

    def __init__(self, width, texts=None, scale=20.0):
        self.width, self.texts, self.scale = width, texts, scale

    @property
    def sizes(self):
        return backbone.Sizes(self.width, 0, 0, 0, 0, 0)

    @property
    def logit_scale(self):
        return jnp.asarray(self.scale)

    def encode_texts(self, texts, raw=False):
        places = [text.removesuffix(".").split(" ") for text in texts]
        found = [self.texts[int(name), ("a", "the").index(word)] for word, name in places]
        features = jnp.stack([jnp.asarray(feature) for feature in found])
        return features if raw else unit(features)


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def create(stored, row, **changes):
    """A method on the stored features, what it starts from, and its backbone."""
    encoder = Encoder(stored["images"].shape[1], stored["texts"])
    views = {
        ("clean", 1): stored["images"][:, None],
        ("flip(p=1.0)", 1): stored["mirrored"][:, None],
        ("crop(scale=(0.5, 1)) | flip", 1): stored["images"][:, None],
        ("crop(scale=(0.5, 1)) | flip", 10): stored["views"],
    }
    support = methods.Support(
        unit(jnp.asarray(stored["images"])), stored["labels"], lambda *key: views[key]
    )
    names = [str(k) for k in range(len(stored["texts"]))]
    changes = methods.with_changes(row, {"templates": TEMPLATES} | changes)
    method = methods.build(methods.configure(changes), encoder, names, "a {}.", support)
    learned = method.initialize(jax.random.key(0), encoder, support)
    return method, learned, encoder, support


def in_parts(stored, row, prefix):
    """Stored arrays in our names and layout; PyTorch's Linear keeps (outputs, inputs)."""
    arrays = {name: stored[f"{row}/{prefix}/{torch_name(row, name)}"] for name in names_of(row)}
    if row == "clip_adapter":
        arrays = {name: array.T for name, array in arrays.items()}
    return {
        part or names[0]: {name: arrays[name] for name in names} if part else arrays[names[0]]
        for part, names in ROWS[row].items()
    }


def names_of(row):
    return [name for names in ROWS[row].values() for name in names]


def torch_name(row, name):
    return "weights" if name == "classifier" else name


def run_steps(method, learned, encoder, support, count, labels, batch, validation=None):
    """State and losses after some steps, on one batch of all images an epoch."""
    names = method.class_names
    examples = tasks.Examples(np.zeros((len(labels), 1, 1, 3), np.uint8), labels, names)
    (stage,) = method.stages()
    phase = step.Phase(
        stage=stage,
        examples=examples,
        batches=TrainingBatches(examples, stage.optimizer.batch_size, 0),
        update=stage.update or optimizer.make(stage.optimizer, 1),
        make_views=lambda *arguments: None,
        first=0,
        steps=optimizer.steps(stage.optimizer, 1),
        cached_views=1,
    )
    features = method.training_features(support)
    if features is None:
        features = np.asarray(support.features)[:, None, None]
    state = step.initial_state(stage, phase.update, learned.trained)
    classes, losses = method.classes(encoder, names), []
    compiled = jax.jit(step.make_step(phase, seed=0))
    for i in range(count):
        view = features[:batch, i % features.shape[1]]
        arrays = {"features": jnp.asarray(view), "labels": labels[:batch]}
        state, terms = compiled(state, encoder, learned.fixed, classes, arrays, validation)
        losses.append(terms["loss"])
    return state, np.array(losses)


@pytest.mark.parametrize("row", ROWS)
def test_equals_the_plain_form(stored, row):
    changes = {"optimizer.batch_size": 20} if row == "cross_modal_probe" else {}
    with jax.enable_x64(True):
        method, learned, encoder, support = create(stored, row, **changes)
        initial = in_parts(stored, row, "initial")
        if row not in ("clip_adapter", "taskres", "lp_plus_plus"):  # others start at random or at 0
            jax.tree.map(assert_close, dict(learned.trained), initial)
        learned = methods.Learned(jax.tree.map(jnp.asarray, initial), learned.fixed)
        classes = method.classes(encoder, method.class_names)
        image = support.features[None]
        assert_close(
            method.forward(encoder, learned, classes, image).logits[:, 0], stored[f"{row}/logits"]
        )
        batch = 10 if row == "cross_modal_probe" else len(stored["labels"])

        def objective(trained):
            part = methods.Learned(trained, learned.fixed)
            arguments = (method, encoder, part, classes, None, stored["labels"][:batch], 0.0)
            return methods.objective(*arguments, image[:, :batch])[0]

        gradients = jax.grad(objective)(learned.trained)
        jax.tree.map(assert_close, gradients, in_parts(stored, row, "gradient"))
        arguments = (method, learned, encoder, support)
        state, losses = run_steps(*arguments, 3, stored["labels"], batch)
        assert_close(losses, stored[f"{row}/losses"][:3])
        jax.tree.map(assert_close, state["trained"], in_parts(stored, row, "trained"))


@pytest.mark.parametrize("row", ROWS)
def test_float32_gives_the_same_logits(stored, row):
    method, learned, encoder, support = create(stored, row)
    trained = jax.tree.map(jnp.float32, in_parts(stored, row, "initial"))
    classes = method.classes(encoder, method.class_names)
    image = support.features[None]
    learned = methods.Learned(trained, learned.fixed)
    found = method.forward(encoder, learned, classes, image).logits[:, 0]
    assert found.dtype == np.float32
    assert_close(found, stored[f"{row}/logits"])


def test_lp_plus_plus_starts_steps_and_chooses_as_the_plain_form(stored):
    with jax.enable_x64(True):
        method, learned, encoder, support = create(stored, "lp_plus_plus")
        initial = in_parts(stored, "lp_plus_plus", "initial")
        assert_close(learned.trained["classifier"]["weights"], initial["classifier"]["weights"])
        assert_close(learned.trained["blend"]["alpha"], initial["blend"]["alpha"])
        assert abs(learned.trained["classifier"]["bias"]).max() <= 16**-0.5
        probe = method.config.probe
        assert_close((probe.classifier_rate, probe.alpha_rate), stored["lp_plus_plus/rates"])
        learned = methods.Learned(jax.tree.map(jnp.asarray, initial), {})
        features = unit(jnp.asarray(stored["validation"]))[None]
        validation = {"features": features, "labels": stored["validation_labels"]}
        arguments = (method, learned, encoder, support, 20, stored["labels"], 15, validation)
        state, losses = run_steps(*arguments)
        assert_close(losses, stored["lp_plus_plus/losses"])
        jax.tree.map(assert_close, state["trained"], in_parts(stored, "lp_plus_plus", "later"))
        best = in_parts(stored, "lp_plus_plus", "best")
        assert stored["lp_plus_plus/best/step"] not in (0, 19)
        jax.tree.map(assert_close, state["best"]["trained"], best)


def test_tip_adapter_learns_nothing_and_chooses_alpha_and_beta(stored):
    method, learned, encoder, support = create(stored, "tip_adapter")
    assert learned.trained == {} and method.stages()[0].optimizer.epochs == 0
    assert_close(learned.fixed["cache"]["keys"], stored["tip_adapter/keys"])
    classes = method.classes(encoder, method.class_names)
    forward = method.forward(encoder, learned, classes, support.features[None])
    assert_close(forward.logits[:, 0], stored["tip_adapter/logits"])
    features = np.asarray(unit(jnp.asarray(stored["validation"])))
    validation = methods.Support(features, stored["validation_labels"])
    logits = np.zeros((len(features), 1, 5), np.float32)
    chosen = method.conclude(encoder, learned, validation, logits)
    assert_close(list(method.facts(chosen).values()), stored["tip_adapter/chosen"])
    assert method.facts(learned) == pytest.approx({"alpha": 1.17, "beta": 1.0})


# ---- Which class names, and how many parameters

PARAMETERS = {  # at ViT-B/16's width; TaskRes and Tip-Adapter-F on ImageNet with 16 shots
    "clip_adapter": (100, 131_072),
    "taskres": (1000, 512_000),
    "tip_adapter": (1000, 0),
    "tip_adapter_f": (1000, 8_192_000),
    "lp_plus_plus": (100, 100 * (512 + 2)),
    "cross_modal_probe": (100, 51_200),
}


@pytest.mark.parametrize("row", PARAMETERS)
def test_parameters_at_vit_b16(row):
    classes, expected = PARAMETERS[row]
    labels = np.repeat(np.arange(classes), 16)
    row = methods.with_changes(row, {"cache.views": 1}) if row.startswith("tip") else row
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(labels), 1, 512)).astype(np.float32)
    encoder = Encoder(512, rng.normal(size=(classes, 1, 512)).astype(np.float32))
    support = methods.Support(features[:, 0], labels, lambda views, count: features)
    names = [str(k) for k in range(classes)]
    method = methods.build(methods.configure(row), encoder, names, "a {}.", support)
    learned = method.initialize(jax.random.key(0), encoder, support)
    assert sum(leaf.size for leaf in jax.tree.leaves(learned.trained)) == expected


@pytest.mark.parametrize("row", [*ROWS, "tip_adapter"])
def test_classes_are_found_by_name(stored, row):
    """Arrays belong to the training classes, of which a list may have some, in any order."""
    method, learned, encoder, support = create(stored, row)
    assert method.covers(["3", "1"]) and method.covers(method.class_names)
    assert method.covers(["3", "cat"]) == (row == "clip_adapter")
    noise = iter(jax.random.split(jax.random.key(1), 9))
    trained = jax.tree.map(
        lambda leaf: leaf + jax.random.normal(next(noise), leaf.shape), learned.trained
    )
    learned = methods.Learned(trained, learned.fixed)
    image = support.features[None]
    every, some = (
        method.forward(encoder, learned, method.classes(encoder, names), image).logits
        for names in (method.class_names, ["3", "1"])
    )
    np.testing.assert_allclose(some, every[:, :, [3, 1]], rtol=1e-5, atol=1e-5)


def test_lp_plus_plus_refuses_other_heads(stored):
    with pytest.raises(ValueError, match="lp_plus_plus computes its rates for the softmax"):
        create(stored, "lp_plus_plus", **{"head.name": "evidential", "head.fusion": "dempster"})


def test_a_template_without_a_place_for_the_name_is_refused(stored):
    with pytest.raises(ValueError, match=r"templates needs one \{\} .*'the\.'"):
        create(stored, "taskres", templates="a {}.|the.")


def test_views_of_the_shots_need_their_images():
    support = methods.Support(np.ones((2, 4), np.float32), np.arange(2))
    with pytest.raises(ValueError, match="10 views 'flip' of the shots are needed"):
        support.raw_views("flip", 10)


def test_texts_are_shuffled_in_each_of_their_epochs():
    drawn = np.stack([strong_probes.shuffled(3, i, 11, 4) for i in range(40)])
    epochs = drawn.reshape(20, 8)  # two batches of four; three texts are left out
    assert all(len(set(epoch)) == 8 for epoch in epochs.tolist())
    assert set(drawn.ravel()) == set(range(11))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 20
    assert set(np.asarray(strong_probes.shuffled(3, 7, 3, 4)).tolist()) == {0, 1, 2}


def test_the_rates_of_the_cross_modal_probe():
    """As the authors' scheduler: 1e-5, then k / 50 of the rate, then a cosine of 12,800 steps."""
    config = methods.configure("cross_modal_probe").config.optimizer
    with config.unlocked():
        config.weight_decay = 0.0
    update, p = optimizer.make(config, 7), jnp.zeros(())
    state, moves = update.init(p), []
    for _ in range(53):  # Adam moves by the rate while the gradient stays the same
        move, state = update.update(jnp.ones(()), state, p)
        moves.append(-float(move))
    cosine = [0.001 * 0.5 * (1 + np.cos(np.pi * k / 12_800)) for k in range(3)]
    rates = [1e-5, *(0.001 * k / 50 for k in range(1, 50)), *cosine]
    np.testing.assert_allclose(moves, rates, rtol=1e-4)
    assert optimizer.steps(config, 7) == 12_800


# ---- Choices on validation images


def test_a_method_chooses_on_half_of_each_classs_validation_images(stored):
    labels = np.array([2, 0, 2, 2, 0, 1, 2])
    val = tasks.Examples(np.zeros((7, 1, 1, 3), np.uint8), labels, ("a", "b", "c"))
    choosing, calibrating = selection.parts(create(stored, "tip_adapter")[0], val)
    assert choosing.tolist() == [0, 1, 3, 5] and calibrating.tolist() == [2, 4, 6]
    assert create(stored, "lp_plus_plus")[0].selects
    choosing, calibrating = selection.parts(create(stored, "taskres")[0], val)
    assert choosing.tolist() == calibrating.tolist() == list(range(7))


@pytest.mark.parametrize(
    ("best", "kept"),
    [  # after steps 1 to 6, numbers of correct images: 1, 3, 0, 3, 2, 3
        (methods.Best(every=1), 2),
        (methods.Best(every=1, later_wins=True), 6),
        (methods.Best(every=2, first=1), 5),  # 1, 0, 2
        (methods.Best(), 6),  # at the ends of epochs of three steps: 0, 3
    ],
)
def test_the_best_of_the_steps_that_are_checked(best, kept):
    correct = jnp.array([0, 1, 3, 0, 3, 2, 3])
    state = best.initial({"step": jnp.array(0)})
    for done in range(1, 7):
        check = lambda done=done: jnp.int32(correct[done])  # noqa: E731
        state = best.keep(jnp.asarray(done), 3, check, state, {"step": jnp.array(done)})
    assert int(state["trained"]["step"]) == kept


def test_a_stage_that_changes_images_or_averages_keeps_no_best():
    config = methods.configure("taskres").config.optimizer
    with pytest.raises(ValueError, match="keeps its best parts only if"):
        methods.Stage(None, config, best=methods.Best(), average=(1.0,) * config.epochs)


# ---- The whole way on the bundled world

NAMES = [*PARAMETERS]
ARGUMENT = (
    "shots=4,world.test_images=2,evaluation_batch_size=24,progress=False,log_every=2,"
    "checkpoint_every=3,tip_adapter.cache.views=2,tip_adapter_f.cache.views=2,"
    "cross_modal_probe.optimizer.steps=8,lp_plus_plus.optimizer.epochs=8,"
    "clip_adapter.optimizer.epochs=8,taskres.optimizer.epochs=8,tip_adapter_f.optimizer.epochs=8,"
    f"methods={','.join(NAMES)}"
)


@pytest.fixture(scope="module")
def finished(get_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    config = get_config("fewshot", ARGUMENT)
    return workdir, config, train.train_and_evaluate(config, workdir)


@pytest.mark.slow
def test_killed_and_resumed_they_end_the_same(finished, tmp_path, monkeypatch):
    workdir, config, results = finished
    stops = len(NAMES) - 1  # each method that trains
    again = whole_way.stop_and_resume(config, tmp_path, stops, 5, monkeypatch)
    assert again == results
    whole_way.require_same_files(workdir, tmp_path, NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("row", NAMES)
def test_exported_they_predict_as_they_were_evaluated(finished, row):
    workdir, config, results = finished
    task, scores = tasks.load(config, 32), np.load(workdir / row / "scores.npz")
    splits = [name for name in task.test if f"{name}/predicted" in scores]
    assert ("new_int" in splits) == (row == "clip_adapter")
    whole_way.require_evaluated_predictions(workdir / row, task, "base_int")


@pytest.mark.slow
def test_calibration_has_the_images_that_chose_nothing(finished):
    workdir, config, results = finished
    images = len(tasks.load(config, 32).val)
    for row in NAMES:
        arrays = safetensors.numpy.load_file(workdir / row / "adapted/learned.safetensors")
        expected = images if row in ("clip_adapter", "taskres") else images // 2
        assert len(arrays["validation.correct"]) == expected
    facts = json.loads((workdir / "tip_adapter/results.json").read_text())["facts"]
    assert set(facts) == {"alpha", "beta"} and facts["beta"] != 1.0


@pytest.mark.slow
def test_lp_plus_plus_trains_on_the_view_that_it_starts_from(finished):
    """The sum of a class's shots is W at the start; its shots have one view in all epochs."""
    _, config, _ = finished
    clip, task = backbone.load("world"), tasks.load(config, 32)
    frozen = inference.FrozenFeatures(clip, devices.make_mesh(), 24)
    raw = cached_views.RawViews(task.train, 1, frozen, task.label_properties, lambda: None)
    support = methods.Support(frozen.of(task.train)[0], task.train.labels, raw)
    choice = methods.configure("lp_plus_plus", "small")
    method = methods.build(choice, clip, task.class_names, task.template, support)
    weights = method.initialize(jax.random.key(0), clip, support).trained["classifier"]["weights"]
    features = method.training_features(support)
    assert features.shape == (48, 1, 1, 128)
    sums = [features[task.train.labels == k].sum((0, 1, 2)) for k in range(12)]
    np.testing.assert_allclose(weights, sums, atol=1e-5)
    clean, mirrored = (raw(view, 1) for view in ("clean", "flip(p=1.0)"))
    np.testing.assert_allclose(unit(clean[:, 0]), frozen.of(task.train)[0], atol=1e-5)
    flipped = clip.encode_images(
        views.clean_view(task.train.images[:, :, ::-1], clip.mean, clip.std), raw=True
    )
    np.testing.assert_allclose(mirrored[:, 0], flipped, atol=1e-4)
