"""CoCoOp, TCP and ProGrad, against each written out for itself in PyTorch and float64.

`references/conditional_methods.npz` holds the answers of `references/make_conditional_methods.py`.
Ours are float32. A difference counts in units of the tensor's largest value.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_clip
import whole_way

from cdc_jax import backbone, methods, optimizer, step, tasks, train
from cdc_jax.folder_names import folder_name
from cdc_jax.methods import aligned_prompts, conditional_prompts
from cdc_jax.preprocessing import Preprocessing
from cdc_jax.tasks.batches import TrainingBatches

CASES = {
    "cocoop": ("cocoop", {}),
    "tcp": ("tcp", {}),
    "prograd": ("prograd", {"prompts.context": 6}),
    "prograd_agreeing": ("prograd", {"prompts.context": 6}),
}
"""The row of each stored case, and the settings that differ."""
TEMPLATES = {"tcp": "a photo of a {} with a lake."}
TERMS = {
    "cocoop": ("loss",),
    "tcp": ("loss", "classification", "consistency"),
    "prograd": ("loss", "distillation"),
}
DSTC = {
    "prompts.templates": 2, "head.name": "evidential", "head.fusion": "dempster",
    "head.template_weight": 1.0, "views": "flip; flip",
}  # fmt: skip


@pytest.fixture(scope="module")
def stored():
    arrays = small_clip.stored("methods")
    shared = {name: arrays[name] for name in ("vocabulary", "names", "views")}
    return shared | small_clip.stored("conditional_methods")


@pytest.fixture(scope="module")
def clip(stored, tmp_path_factory):
    return small_clip.load(stored["vocabulary"], tmp_path_factory.mktemp("conditional") / "clip")


def assert_close(actual, expected, share=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=share * np.abs(expected).max())


def create(clip, row, changes=(), names=("cat", "red dog", "lake"), template="a photo of a {}."):
    """A method and the arrays that it starts from."""
    support = methods.Support(clip.encode_texts(list(names)), np.arange(len(names)))
    choice = methods.configure(methods.with_changes(row, dict(changes)))
    method = methods.build(choice, clip, names, template, support)
    return method, method.initialize(jax.random.key(0), clip, support)


def in_parts(stored, case, prefix):
    """Stored arrays in our names and layout; PyTorch's Linear keeps (outputs, inputs)."""
    start = f"{case}/{prefix}/"
    found = {key.removeprefix(start): stored[key] for key in stored if key.startswith(start)}
    context = found["context"][None] if case == "tcp" else found["context"][None, None]
    parts = {"prompts": {"context": context}}
    if "down/weight" in found:
        parts["network"] = {
            layer: {
                "kernel": found[f"{layer}/weight"].T[None],
                "bias": found[f"{layer}/bias"][None],
            }
            for layer in ("down", "up")
        }
    return parts


def one_step(method, images):
    """The training step of a batch of all images, with an epoch for each step."""
    (stage,) = method.stages()
    config = stage.optimizer
    with config.unlocked():
        config.batch_size = len(images)
    labels = np.zeros(len(images), np.int32)
    examples = tasks.Examples(images, labels, method.class_names)
    batches = TrainingBatches(examples, len(images), 0)
    update = optimizer.make(config, 1)
    return step.Phase(
        stage, examples, batches, update, lambda *arguments: arguments[3][None], 0, config.epochs
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_equals_the_plain_form(clip, stored, case):
    row, changes = CASES[case]
    names = tuple(str(name) for name in stored["names"])
    template = TEMPLATES.get(row, "a photo of a {}.")
    method, learned = create(clip, row, changes, names, template)
    initial = in_parts(stored, case, "initial")
    if row != "tcp":  # others start as words
        assert_close(learned.trained["prompts"]["context"], initial["prompts"]["context"])
    assert jax.tree.map(jnp.shape, learned.trained) == jax.tree.map(jnp.shape, initial)
    views, labels = stored["views"][0], stored[f"{case}/labels"]
    classes = method.classes(clip, names)
    phase = one_step(method, views)
    compiled = jax.jit(
        step.make_step(phase, seed=0), compiler_options={"xla_backend_optimization_level": 0}
    )
    state = step.initial_state(phase.stage, phase.update, jax.tree.map(jnp.float32, initial))
    batch = {"images": views, "labels": labels, "indices": np.arange(len(labels))}
    terms = []
    for _ in range(3):
        state, values = compiled(state, clip, {}, classes, batch)
        terms.append([values[name] for name in TERMS[row]])
    assert_close(np.array(terms), stored[f"{case}/terms"])
    expected = in_parts(stored, case, "trained")
    jax.tree.map(assert_close, state["trained"], expected)

    def moves(arrays):
        return jax.tree.map(lambda a, b: np.asarray(a, np.float64) - b, arrays, initial)

    jax.tree.map(lambda a, b: assert_close(a, b, 1e-3), moves(state["trained"]), moves(expected))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_of_the_plain_form(clip, stored, case):
    row, changes = CASES[case]
    names = tuple(str(name) for name in stored["names"])
    method, _ = create(clip, row, changes, names, TEMPLATES.get(row, "a photo of a {}."))
    classes, labels = method.classes(clip, names), stored[f"{case}/labels"]
    (stage,) = method.stages()

    @jax.jit
    def answers(clip, trained, classes, views):
        def objectives(trained):
            learned = methods.Learned(trained, {})
            return methods.objectives(method, clip, learned, classes, views, labels, 0.0)[0]

        sums, pull_back = jax.vjp(objectives, trained)
        one = {name: {n: jnp.float32(n == name) for n in sums} for name in sums}
        gradients = {name: pull_back(cotangent)[0] for name, cotangent in one.items()}
        learned = methods.Learned(trained, {})
        image = method.image_features(clip, learned, views)
        return method.forward(clip, learned, classes, image).logits, stage.gradient(gradients)

    initial = jax.tree.map(jnp.float32, in_parts(stored, case, "initial"))
    logits, gradient = answers(clip, initial, classes, jnp.asarray(stored["views"][:1]))
    assert_close(logits[:, 0], stored[f"{case}/logits"])
    jax.tree.map(assert_close, gradient, in_parts(stored, case, "gradient"))


# ---- Parameters, templates, settings


class VitB16(backbone.Backbone):
    """The sizes of ViT-B/16. Words are numbered by their length."""

    sizes = backbone.Sizes(512, 512, 12, 768, 12, 224)
    preprocessing = Preprocessing.of(224)
    mean, std = preprocessing.mean, preprocessing.std
    dtype, profile, logit_scale, logit_bias = "float32", "", jnp.ones(()), 0.0

    def word_ids(self, phrase):
        return [len(word) for word in phrase.split()]

    def embed_words(self, ids):
        return jnp.zeros((*ids.shape, 512))


@pytest.mark.parametrize(
    ("row", "parameters"), [("cocoop", 35_360), ("tcp", 331_904), ("prograd", 8_192)]
)
def test_parameters_at_vit_b16(row, parameters):
    choice = methods.configure(row)
    method = methods.rebuild(
        choice.family_name, choice.config, VitB16(), ("cat", "dog"), "a photo of a {}."
    )
    support = methods.Support(np.ones((2, 512), np.float32), np.arange(2))
    learned = jax.eval_shape(lambda: method.initialize(jax.random.key(0), VitB16(), support))
    assert sum(leaf.size for leaf in jax.tree.leaves(learned.trained)) == parameters
    assert row != "tcp" or method.block == 8


def test_networks_start_as_pytorchs_linear_layers():
    layers = conditional_prompts.Layers(400, 100, 300).initialize(jax.random.key(0), 2)
    assert layers["down"]["kernel"].shape == (2, 400, 100)
    assert layers["up"]["bias"].shape == (2, 300)
    for layer, bound in ((layers["down"], 1 / 20), (layers["up"], 1 / 10)):
        for array in layer.values():
            assert 0.98 * bound < float(array.max()) <= bound
            assert float(abs(array.mean())) < bound / 5


def noisy(trained):
    noise = iter(jax.random.split(jax.random.key(1), 20))
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(next(noise), leaf.shape), trained
    )


def logits_of(method, clip, trained, image, names=None):
    classes = method.classes(clip, names or method.class_names)
    return method.forward(clip, methods.Learned(trained, {}), classes, image).logits


@pytest.mark.slow
@pytest.mark.parametrize("row", ["cocoop", "tcp"])
def test_templates_images_and_classes_are_independent(clip, row):
    """Each template is a method of its own, and no image or class reads another."""
    both, learned = create(clip, row, {"prompts.templates": 2})
    one, _ = create(clip, row)
    trained = noisy(learned.trained)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 40)), jnp.float32)
    image /= jnp.linalg.norm(image, axis=-1, keepdims=True)
    found = logits_of(both, clip, trained, image)
    assert found.shape == (3, 2, 3)
    for m in range(2):
        alone = jax.tree.map(lambda leaf, m=m: leaf[m : m + 1], trained)
        for i in range(3):
            expected = logits_of(one, clip, alone, image[m : m + 1, i : i + 1])
            np.testing.assert_allclose(found[i, m], expected[0, 0], rtol=1e-5, atol=1e-4)
    some = logits_of(both, clip, trained, image, ["lake", "sea"])
    np.testing.assert_allclose(some[..., 0], found[..., 2], rtol=1e-5, atol=1e-4)
    assert both.covers(["lake", "sea"])


def test_what_stands_around_the_class_name(clip):
    pairs = [
        ("cocoop", {}, "the {} with a lake.", "cat."),  # the template of the task has no part
        ("cocoop", {"prompts.phrases": ""}, "a photo of a {} with a lake.", "cat with a lake."),
        ("tcp", {}, "a photo of a {} with a lake.", "cat with a lake."),
        ("tcp", {"prompts.rest": "picture of {}."}, "a photo of a {}.", "picture of cat."),
    ]
    for row, changes, template, expected in pairs:
        method, _ = create(clip, row, changes, template=template)
        classes = method.classes(clip, ["cat"])
        ids = classes.names if row == "tcp" else classes
        assert clip.word_ids(expected) == ids[0].tolist()[: len(clip.word_ids(expected))]
    method, _ = create(clip, "tcp", {"templates": "the {}.|a {}."}, template="a photo of a {}.")
    anchors = method.classes(clip, ["cat"]).anchors
    texts = clip.encode_texts(["the cat.", "a cat."]).sum(0)
    np.testing.assert_allclose(anchors[0, 0], texts / jnp.linalg.norm(texts), atol=1e-6)


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ("cocoop", {"network.reduction": 0}, "network.reduction must be between 1 and .* 40, got"),
        ("tcp", {"network.reduction": 41}, "network.reduction must be between 1 and .* got 41"),
        ("cocoop", {"prompts.context": 0}, "prompts.context must be at least 1, got 0"),
        ("tcp", {"prompts.templates": 0}, "prompts.templates must be at least 1, got 0"),
        ("tcp", {"prompts.block": 4}, "prompts.block must be between 1 and 3 .* 4 blocks, got 4"),
        ("tcp", {"prompts.rest": "person"}, r"prompts.rest needs one \{\} .*'person'"),
        ("tcp", {"templates": "person"}, r"templates needs one \{\} .*'person'"),
        ("prograd", {"alignment.share": 1.5}, "alignment.share must be between 0 and 1, got 1.5"),
        ("prograd", {"alignment.temperature": 0.0}, "alignment.temperature must be above 0, got"),
    ],
)
def test_refusals(clip, row, changes, message):
    with pytest.raises(ValueError, match=message):
        create(clip, row, changes)


# ---- The combination of gradients


@pytest.mark.parametrize(
    ("g", "h", "share", "expected"),
    [
        ([[3.0, -4.0]], [[0.0, 2.0]], 1.0, [[3.0, 0.0]]),  # all of the conflict
        ([[3.0, -4.0]], [[0.0, 2.0]], 0.75, [[3.0, -1.0]]),
        ([[3.0, 4.0]], [[0.0, 2.0]], 1.0, [[3.0, 4.0]]),  # no conflict
        ([[1.0, 0.0]], [[-3.0, 4.0]], 1.0, [[0.64, 0.48]]),  # 1 − 0.6², 0.6 · 0.8
        ([[3.0, -4.0]], [[0.0, 0.0]], 1.0, [[3.0, -4.0]]),  # the guide has no opinion
    ],
)
def test_a_gradient_without_its_conflict(g, h, share, expected):
    gradients = {"loss": {"a": jnp.array(g)}, "guide": {"a": jnp.array(h)}}
    found = aligned_prompts.without_conflict(gradients, share)
    np.testing.assert_allclose(found["a"], expected, atol=1e-6)


def test_each_array_has_its_own_conflict():
    gradients = {
        "loss": {"a": jnp.array([1.0]), "b": jnp.array([-1.0])},
        "guide": {"a": jnp.array([5.0]), "b": jnp.array([5.0])},
    }
    found = aligned_prompts.without_conflict(gradients)
    assert float(found["a"][0]) == 1.0 and float(found["b"][0]) == 0.0


def test_the_distillation_is_the_cross_entropy_to_the_teacher():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (2, 4, 2, 5))
    p, q = (np.exp(z / 2) / np.exp(z / 2).sum(-1, keepdims=True) for z in (teacher, student))
    expected = -4 * (p * np.log(q)).sum(-1).mean(0).sum()
    logits = jnp.float32(student), jnp.float32(teacher)
    found = aligned_prompts.distillation(*logits, 2.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    gradient = jax.grad(aligned_prompts.distillation, 1)(*logits, 2.0)
    assert not gradient.any()


def test_groups_that_a_stage_does_not_combine_are_refused(clip):
    method, learned = create(clip, "prograd", {"prompts.context": 4})
    image = jnp.ones((1, 2, 40)) / 40**0.5
    arguments = (method, clip, learned, method.classes(clip, method.class_names), None)
    sums, values = methods.objectives(*arguments, np.arange(2), 0.0, image)
    assert sums.keys() == {"loss", "guide"}
    assert values["loss"] == sums["loss"] and values["distillation"] == sums["guide"]
    assert methods.objective(*arguments, np.arange(2), 0.0, image)[0] == sums["loss"]
    plain = methods.Stage(method, method.config.optimizer)
    with pytest.raises(ValueError, match=r"groups \['guide', 'loss'\]: give its stage a function"):
        plain.gradient({"loss": {}, "guide": {}})


def test_an_objective_needs_a_loss(clip):
    class Guided(conditional_prompts.TCP):
        def terms(self, batch):
            return {"guide": methods.Term(jnp.zeros(()), 1.0, "guide")}

    method, learned = create(clip, "tcp")
    guided = Guided(**{k: getattr(method, k) for k in method.__dataclass_fields__})
    classes, image = guided.classes(clip, guided.class_names), jnp.ones((1, 2, 40)) / 40**0.5
    with pytest.raises(ValueError, match=r"no term has the group 'loss': .* \['guide'\]"):
        methods.objectives(guided, clip, learned, classes, None, np.arange(2), 0.0, image)


# ---- The whole way on the bundled world

ROWS = ("cocoop", "tcp", "prograd")
TRUSTED = [methods.with_changes(row, DSTC) for row in ROWS]
STEPS = ",".join(f"{row}.optimizer.epochs=4,{row}.optimizer.batch_size=16" for row in ROWS)


@pytest.fixture(scope="module")
def config(get_config):
    """48 shots: three steps an epoch. Each row, and each row with trusted templates."""
    argument = f"shots=4,world.test_images=2,evaluation_batch_size=24,{STEPS}"
    config = get_config("fewshot", argument)
    config.log_every, config.checkpoint_every, config.progress = 2, 3, False
    config.methods = ",".join([*ROWS, *TRUSTED])
    return config


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train.train_and_evaluate(config, workdir)


@pytest.mark.slow
def test_killed_and_resumed_they_end_the_same(finished, config, tmp_path, monkeypatch):
    workdir, results = finished
    with config.unlocked():
        every, config.methods = config.methods, ",".join(ROWS)
    again = whole_way.stop_and_resume(config, tmp_path, len(ROWS), 5, monkeypatch)
    with config.unlocked():
        config.methods = every
    assert again == {row: results[row] for row in ROWS}
    whole_way.require_same_files(workdir, tmp_path, ROWS)


@pytest.mark.slow
def test_they_log_their_terms_and_know_the_classes(finished):
    workdir, results = finished
    terms = {"cocoop": set(), "tcp": {"consistency"}, "prograd": {"consistency", "distillation"}}
    shared = {"classification", "loss", "accuracy", "gradient_norm", "update_norm", "step"}
    for row, own in terms.items():
        text = (workdir / row / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
        assert all(line.keys() == shared | own for line in lines)
        assert results[row]["summary"]["base_iid"] > 60


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ROWS, *TRUSTED])
def test_exported_they_predict_as_they_were_evaluated(finished, config, name):
    workdir, results = finished
    task = tasks.load(config, 32)
    assert len(results[name]["splits"]["new_int"]["template_accuracy"]) == 1 + (name in TRUSTED)
    for split in ("base_int", "new_int"):
        whole_way.require_evaluated_predictions(workdir / folder_name(name), task, split)
