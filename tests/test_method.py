"""The interface of methods: one that uses all of it goes the whole way, and every answer agrees.

`Everything` changes image features by a residual map, reads the image into its class features,
keeps a cache of the shots, answers for the classes trained on by that cache and for others without,
has a head with two parameters, averages over the epochs of its first stage, and trains in two.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from scipy.special import softmax

import cdc_jax
from cdc_jax import backbone, clip, devices, export, inference, methods, tasks, train, views
from cdc_jax.methods import defaults, families, rows
from cdc_jax.methods.family import Family
from cdc_jax.methods.heads import SoftmaxHead
from cdc_jax.tasks.batches import TrainingBatches

AVERAGE = (0.1, 0.2, 0.3, 0.4)
SETTINGS = {"first": {"epochs": len(AVERAGE)}, "sharpness": 5.0}


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Everything(methods.Method):
    changes_images = True
    reads_images = True

    def initialize(self, key, backbone, support):
        width, count = backbone.sizes.embed_width, len(self.class_names)
        maps = 0.02 * jax.random.normal(key, (2, width, width))
        cache = {"keys": support.features, "values": jax.nn.one_hot(support.labels, count)}
        return methods.Learned(
            {"residual": {"map": maps[0]}, "reading": {"map": maps[1]}} | self.head.initialize(),
            {"cache": cache},
        )

    def stages(self):
        first = self.config.optimizer.copy_and_resolve_references().unlock()
        first.epochs = self.config.first.epochs
        return (
            methods.Stage(self, first, trains=("residual",), average=AVERAGE),
            methods.Stage(self, self.config.optimizer, ("reading", "head"), begin=halved),
        )

    def classes(self, backbone, names, template=""):
        texts = [(template or self.template).format(name) for name in names]
        # The cache's column of each name; all zero for names that it does not have.
        columns = np.array([[name == known for known in self.class_names] for name in names])
        return {"anchors": backbone.encode_texts(texts), "columns": jnp.float32(columns)}

    def image_features(self, backbone, learned, views):
        features = super().image_features(backbone, learned, views)
        return unit(features + features @ learned.trained["residual"]["map"])

    def class_features(self, backbone, learned, classes, image=None):
        shift = image @ learned.trained["reading"]["map"]
        return unit(classes["anchors"] + shift[:, :, None])

    def forward(self, backbone, learned, classes, image, text=None):
        plain = super().forward(backbone, learned, classes, image, text)
        cache = learned.fixed["cache"]
        near = jnp.exp(-self.config.sharpness * (1 - image @ cache["keys"].T))
        votes = near @ cache["values"] @ classes["columns"].T
        return plain._replace(logits=plain.logits + votes.swapaxes(0, 1))


def halved(backbone, learned, classes):
    """What the second stage starts from: the first's map, and half of the reading's."""
    reading = {"map": learned.trained["reading"]["map"] / 2}
    return learned.trained | {"reading": reading}


class EverythingFamily(Family):
    def changes_images(self, config):
        return True


ROW = methods.Row(
    "everything",
    {"views": "flip", "optimizer.epochs": 3, "optimizer.batch_size": 8, "optimizer.name": "adam",
     "optimizer.learning_rate": 0.01, "head.learned": True},
    family="everything",
)  # fmt: skip


@pytest.fixture(scope="module")
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(families.FAMILIES, "everything", EverythingFamily(Everything))
        patch.setitem(defaults.OF_FAMILIES, "everything", SETTINGS)
        patch.setitem(rows.ROWS, "everything", ROW)
        yield


@pytest.fixture(scope="module")
def config(registered, get_config):
    """24 images: 3 steps an epoch, 12 in the first stage and 9 in the second."""
    config = get_config(
        "fewshot",
        "methods=everything,shots=2,world.test_images=2,evaluation_batch_size=24,curve_every=2",
    )
    config.log_every, config.checkpoint_every = 2, 5
    return config


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train.train_and_evaluate(config, workdir)["everything"]


def arrays(workdir):
    path = workdir / "everything/adapted/learned.safetensors"
    return safetensors.numpy.load(path.read_bytes())


def by_hand(learned, names, trained_on, images):
    """Logits and probabilities in float64, from stored arrays and frozen features."""
    model, tokenizer = clip.load("world")
    learned = {name: array.astype(np.float64) for name, array in learned.items()}
    frozen = np.asarray(
        model.encode_image(views.clean_view(images, model.config.mean, model.config.std))
    )
    text = np.asarray(model.encode_text(tokenizer([f"a photo of a {name}." for name in names])))

    def norm(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    image = norm(frozen + frozen @ learned["trained.residual.map"])
    shifted = norm(text + (image @ learned["trained.reading.map"])[:, None])
    logits = float(model.logit_scale) * np.einsum("bd,bkd->bk", image, shifted)
    votes = np.exp(-5 * (1 - image @ learned["fixed.cache.keys"].T)) @ learned["fixed.cache.values"]
    for k, name in enumerate(names):
        if name in trained_on:
            logits[:, k] += votes[:, trained_on.index(name)]
    scaled = np.exp(learned["trained.head.log_scale"]) * logits - learned["trained.head.shift"]
    return softmax(scaled, -1)


@pytest.mark.slow
def test_it_learns_in_two_stages_and_logs_only_its_terms(finished, config):
    workdir, results = finished
    lines = [
        json.loads(line) for line in (workdir / "everything/metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 21]
    terms = {"classification", "loss", "accuracy", "gradient_norm", "update_norm", "step"}
    assert all(line.keys() == terms for line in lines)
    assert lines[5]["classification"] < lines[0]["classification"]
    assert results["steps"] == 21
    assert results["trainable_parameters"] == 2 * 128 * 128 + 2
    curve = (workdir / "everything/curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in curve] == [6, 12, 18]


@pytest.mark.slow
def test_evaluation_prediction_and_the_formula_agree(finished, config):
    workdir, results = finished
    learned, task = arrays(workdir), tasks.load(config, 32)
    assert float(learned["trained.head.log_scale"]) != 0
    assert learned["fixed.cache.keys"].shape == (24, 128)
    scores = np.load(workdir / "everything/scores.npz")
    for split in ("base_int", "new_int"):
        examples = task.test[split]
        names = list(examples.class_names)
        expected = by_hand(learned, names, list(task.class_names), examples.images[:])
        np.testing.assert_allclose(scores[f"{split}/confidence"], expected.max(-1), atol=1e-4)
        assert np.array_equal(scores[f"{split}/predicted"], expected.argmax(-1))
        told = cdc_jax.predict(
            workdir / "everything", list(examples.images[:]), class_names=names, top_k=len(names)
        )
        for row, probability in zip(told, expected, strict=True):
            found = [dict(row.probability)[name] for name in names]
            np.testing.assert_allclose(found, probability, atol=1e-4)
        accuracy = 100 * (expected.argmax(-1) == examples.labels).mean()
        assert results["splits"][split]["accuracy"] == pytest.approx(accuracy)


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [7, 12, 17])  # in the first stage, at its end, in the second
def test_killed_and_resumed_it_ends_the_same(finished, config, tmp_path, monkeypatch, stop_at):
    workdir, results = finished
    stream = TrainingBatches.stream
    taken = []

    def counting(self, first, last, put):
        for batch in stream(self, first, last, put):
            if len(taken) == stop_at:
                raise KeyboardInterrupt
            taken.append(first)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(TrainingBatches, "stream", counting)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "everything/results.json").exists()
    assert train.train_and_evaluate(config, tmp_path)["everything"] == results
    for name in ("metrics.jsonl", "curve.jsonl", "adapted/learned.safetensors", "scores.npz"):
        whole, resumed = (path / "everything" / name for path in (workdir, tmp_path))
        assert whole.read_bytes() == resumed.read_bytes(), name


@pytest.mark.slow
def test_checkpoints_hold_what_is_trained_and_the_stages_optimiser(finished):
    saved = ocp.StandardCheckpointer().restore(finished[0] / "everything/checkpoints/21/state")
    assert set(saved) == {"trained", "optimizer", "step"}
    assert set(saved["trained"]) == {"residual", "reading", "head"}
    moments = sum(leaf.size for leaf in jax.tree.leaves(saved["optimizer"]))
    assert moments == 2 * (128 * 128 + 2) + 2  # of Adam; the counts of both transformations


def test_an_undeclared_change_of_images_is_refused():
    with pytest.raises(TypeError, match="Silent overrides image_features .* changes_images"):

        class Silent(methods.Method):
            image_features = Everything.image_features

    with pytest.raises(TypeError, match="Merged overrides image_features or adapt"):

        class Merged(methods.Method):
            def adapt(self, backbone, learned):
                return backbone


@pytest.mark.slow
def test_the_guard_finds_a_wrong_declaration(finished, config):
    """Declared to change no images, the method would be evaluated on frozen features."""

    class Wrong(Everything):
        changes_images = False

    workdir, _ = finished
    task, stored = tasks.load(config, 32), arrays(workdir)
    examples = task.test["base_int"]
    learned = export.read(workdir / "everything/adapted").learned
    world, found = backbone.load("world"), []
    expected = by_hand(
        stored, list(examples.class_names), list(task.class_names), examples.images[:]
    )
    for family in (Everything, Wrong):
        choice = methods.configure("everything", "small")
        method = family(choice.config, task.class_names, task.template, SoftmaxHead(learned=True))
        frozen = inference.FrozenFeatures(world, devices.make_mesh(), 24)
        prediction = inference.Inference(method, frozen).split(learned, examples)
        found.append(abs(prediction.probability - expected).max())
    assert found[0] < 1e-4 < 1e-2 < found[1]


@pytest.mark.slow
def test_an_average_over_epochs_is_that_of_each_epochs_end(registered):
    world = backbone.load("world")
    names = ("striped star", "solid heart")
    support = methods.Support(world.encode_texts(names), np.arange(2))
    choice = methods.configure("everything")
    method = methods.build(choice, world, names, "a photo of a {}.", support)
    stage = method.stages()[0]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 32, 32, 3), np.uint8)
    examples = tasks.Examples(images, np.arange(4) % 2, names)
    batches = TrainingBatches(examples, 2, 0)  # two steps an epoch
    make_views = views.build("clean", templates=1, size=32, mean=world.mean, std=world.std)
    update = optax.sgd(0.1)
    phase = train.Phase(stage, examples, batches, update, make_views, first=3, steps=8)
    learned = method.initialize(jax.random.key(0), world, support)
    state = train.initial_state(stage, update, learned.trained, step=3)
    classes = method.classes(world, names)
    step = jax.jit(train.make_step(phase, seed=0))
    average = np.zeros((128, 128))
    for i in range(8):
        state, _ = step(state, world, learned.fixed, classes, batches[i])
        if i % 2:
            average += AVERAGE[i // 2] * np.asarray(state["trained"]["residual"]["map"])
    np.testing.assert_allclose(state["average"]["residual"]["map"], average, atol=1e-6)
    # What another stage trains rests in this one.
    reading = learned.trained["reading"]["map"]
    np.testing.assert_array_equal(state["trained"]["reading"]["map"], reading)


@pytest.mark.parametrize(
    ("average", "trains", "message"),
    [
        ((0.5, 0.5), None, "an average over 4 epochs needs as many weights that sum to 1"),
        ((0.5,) * 4, None, "an average over 4 epochs"),
        ((), ("residuals",), r"a stage trains \['residuals'\], the method has"),
    ],
)
def test_a_stage_that_can_not_be_is_refused(average, trains, message):
    config = ml_collections.ConfigDict({"epochs": 4})
    with pytest.raises(ValueError, match=message):
        stage = methods.Stage(None, config, trains=trains, average=average)
        stage.split({"residual": {}, "reading": {}})


def test_a_stage_of_steps_averages_no_epochs():
    config = ml_collections.ConfigDict({"epochs": 4, "steps": 9})
    with pytest.raises(ValueError, match="optimizer.steps=9 .* set optimizer.steps=0"):
        methods.Stage(None, config, average=(0.25,) * 4)


@dataclasses.dataclass(frozen=True, eq=False)
class Merged(Everything):
    """A low-rank update of the image tower's projection, merged where it is used."""

    reads_images = False

    def initialize(self, key, backbone, support):
        shape = backbone.weights()["vision.projection"].shape
        left, right = (0.1 * jax.random.normal(key, (side, 2)) for side in shape)
        return methods.Learned({"update": {"left": left, "right": right}}, {})

    def adapt(self, backbone, learned):
        update = learned.trained["update"]
        merged = backbone.weights()["vision.projection"] + update["left"] @ update["right"].T
        return backbone.with_weights({"vision.projection": merged})

    image_features = methods.Method.image_features
    forward = methods.Method.forward

    def class_features(self, backbone, learned, classes, image=None):
        return classes["anchors"][None]


@pytest.mark.slow
def test_an_update_of_a_towers_weights_is_trained_and_evaluated(registered):
    world, (model, tokenizer) = backbone.load("world"), clip.load("world")
    names = ("striped star", "solid heart")
    method = Merged(methods.configure("everything").config, names, "a photo of a {}.",
                    SoftmaxHead())  # fmt: skip
    learned = method.initialize(jax.random.key(0), world, None)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    frozen = inference.FrozenFeatures(world, devices.make_mesh(), 8)
    runner = inference.Inference(method, frozen)
    found = runner.images(learned, runner.class_list(learned, names), images)
    left, right = learned.trained["update"]["left"], learned.trained["update"]["right"]
    model.vision.projection[...] = model.vision.projection[...] + left @ right.T
    pixels = views.clean_view(images, model.config.mean, model.config.std)
    text = model.encode_text(tokenizer([f"a photo of a {name}." for name in names]))
    logits = float(model.logit_scale) * np.asarray(model.encode_image(pixels) @ text.T, np.float64)
    np.testing.assert_allclose(found.probability, softmax(logits, -1), atol=1e-5)
    classes = method.classes(world, names)

    def loss(trained):
        learned = methods.Learned(trained, {})
        labels = jnp.array([0, 1, 1])
        return methods.objective(method, world, learned, classes, pixels[None], labels, 0.0)[0]

    gradient = jax.grad(loss)(learned.trained)
    for leaf in jax.tree.leaves(gradient):
        assert float(abs(leaf).max()) > 0
