"""Regulated prompts, against each written out for itself in PyTorch and float64.

`references/regulated_prompts.npz` holds the answers of `references/make_regulated_prompts.py`. A
difference counts in units of the tensor's largest value.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
import small_clip
import test_prompts
import whole_way

from cdc_jax import methods, optimizer, step, tasks, train
from cdc_jax.methods.heads import SoftmaxHead
from cdc_jax.methods.method import frozen_features
from cdc_jax.methods.regulated_prompts import gaussian
from cdc_jax.methods.support import TextFeatures
from cdc_jax.tasks.batches import TrainingBatches
from cdc_jax.wording import Wording

TEMPLATE = "a photo of a {}."
SMALL = {"prompts.layers": 3, "prompts.context": 2, "optimizer.epochs": 3}
AVERAGE = {"average.mean": 2.0, "average.deviation": 1.0}
SEED = 6  # of which the sentences that the maker takes are drawn


@pytest.fixture(scope="module")
def answers():
    return small_clip.stored("regulated_prompts")


@pytest.fixture(scope="module")
def given():
    return small_clip.stored("methods")


@pytest.fixture(scope="module")
def clip(given, tmp_path_factory):
    return small_clip.load(given["vocabulary"], tmp_path_factory.mktemp("regulated") / "clip")


def changes_of(row, answers):
    """What changes in a row to fit the small towers."""
    templates = "|".join(f"{phrase} {{}}." for phrase in answers["teachers"])
    changes = SMALL | {"optimizer.learning_rate": float(answers["rate"])}
    if row == "coprompt":
        return changes
    changes |= {"prompts.phrases": "|".join(answers["phrases"])}
    if row == "promptsrc_dstc":
        changes |= {"prompts.templates": 2}
    return changes | AVERAGE | {"prompts.anchors": templates} if row != "ivlp" else changes


def create(clip, given, answers, row, **changes):
    """A row's method on the small CLIP."""
    names = tuple(str(name) for name in given["names"])
    sentences = tuple(str(sentence) for sentence in answers["sentences"])
    template = Wording(TEMPLATE, (), {name: sentences for name in names})
    config = methods.configure(row).config.unlock()
    config.update_from_flattened_dict(changes_of(row, answers) | changes)
    config.head.shift = float(given["shift"])
    return methods.rebuild(methods.ROWS[row].family, config, clip, names, template)


def in_parts(answers, row, prefix):
    """Stored arrays in our parts and layout; PyTorch's Linear keeps (outputs, inputs)."""
    found = {
        key.rpartition("/")[2]: array
        for key, array in answers.items()
        if key.startswith(f"{row}/{prefix}/")
    }
    if row != "coprompt":
        return {"prompts": found}
    coupling = {
        "kernel": found["coupling_weight"].swapaxes(-1, -2)[None],
        "bias": found["coupling_bias"][None],
    }
    adapters = {
        f"{tower}_adapter": {name: found[f"{tower}_{name}"].T for name in ("down", "up")}
        for tower in ("image", "text")
    }
    return {"prompts": {"context": found["context"][None], "coupling": coupling}} | adapters


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("row", ["ivlp", "promptsrc", "promptsrc_dstc", "coprompt"])
def test_equals_the_plain_form(clip, given, answers, row):
    method = create(clip, given, answers, row)
    (stage,), labels = method.stages(), given["labels"]
    names, views = method.class_names, jnp.asarray(given["views"])
    count = method.templates + method.further_views
    assert count == {"promptsrc_dstc": 2, "coprompt": 2}.get(row, 1)
    examples = tasks.Examples(np.zeros((4, 1, 1, 3), np.uint8), labels, names)
    phase = step.Phase(
        stage=stage,
        examples=examples,
        batches=TrainingBatches(examples, stage.optimizer.batch_size, 0),
        update=optimizer.make(stage.optimizer, 1),
        make_views=lambda seed, done, *others: views[(done + jnp.arange(count)) % len(views)],
        first=0,
        steps=3,
    )
    trained = jax.tree.map(jnp.asarray, in_parts(answers, row, "initial"))
    classes = method.training_classes(clip)
    support = methods.Support(np.ones((1, 40), np.float32), np.zeros(1, int))
    learned = method.initialize(jax.random.key(0), clip, support)
    assert jax.tree.map(jnp.shape, learned.trained) == jax.tree.map(jnp.shape, trained)
    # Nearly all of the time goes into compiling, of which level 0 does least.
    options = {"xla_backend_optimization_level": 0}

    @functools.partial(jax.jit, compiler_options=options)
    def at_start(trained, clip, classes):
        learned = methods.Learned(trained, {})
        image = method.image_features(clip, learned, views[: method.templates])
        logits = method.forward(clip, learned, classes, image).logits

        def objective(trained):
            arguments = (method, clip, methods.Learned(trained, {}), classes, views[:count], labels)
            return methods.objective(*arguments, progress=0.0, seed=np.uint32(SEED))

        (_, terms), gradients = jax.value_and_grad(objective, has_aux=True)(trained)
        return logits, terms, gradients

    logits, terms, gradients = at_start(trained, clip, classes)
    assert_close(logits, answers[f"{row}/logits"])
    for key in answers:
        if key.startswith(f"{row}/term/"):
            assert_close(terms[key.rpartition("/")[2]], answers[key])
    assert_close(terms["loss"], answers[f"{row}/losses"][0])
    jax.tree.map(assert_close, gradients, in_parts(answers, row, "gradient"))
    state, losses = step.initial_state(stage, phase.update, trained), []
    compiled = jax.jit(step.make_step(phase, SEED), compiler_options=options)
    batch = {"labels": labels, "indices": np.arange(4), "images": examples.images}
    for _ in range(3):
        state, terms = compiled(state, clip, {}, classes, batch)
        losses.append(terms["loss"])
    assert_close(np.array(losses), answers[f"{row}/losses"])
    jax.tree.map(assert_close, state["trained"], in_parts(answers, row, "trained"))
    assert ("average" in state) == row.startswith("promptsrc")
    if "average" in state:
        jax.tree.map(assert_close, state["average"], in_parts(answers, row, "average"))


def test_the_sentences_of_the_steps_are_those_of_the_maker(answers):
    """One number for all classes that have equally many sentences."""
    texts = TextFeatures(jnp.arange(15.0)[:, None], np.arange(5).repeat(3))
    for done, expected in enumerate(answers["drawn"]):
        key = jax.random.fold_in(jax.random.key(SEED, impl="threefry2x32"), done)
        found = texts.drawn(5, jax.random.uniform(key, (), jnp.float32))
        assert found[:, 0].tolist() == [3 * k + expected for k in range(5)]


def test_a_text_is_drawn_of_each_class_by_its_own_number():
    texts = TextFeatures(jnp.arange(8.0)[:, None], np.array([0, 1, 1, 1, 2, 2, 2, 2]))
    found = [texts.drawn(3, share)[:, 0].tolist() for share in (0.0, 0.4, 0.5, 0.8, 1 - 2**-24)]
    assert found == [[0, 1, 4], [0, 2, 5], [0, 2, 6], [0, 3, 7], [0, 3, 7]]


def test_weights_of_the_average():
    """As published: epochs 13 to 17 of 20, with mean 15 and deviation 1."""
    weights = gaussian(20, 15.0, 1.0)
    np.testing.assert_allclose(weights[12:17], [0.054, 0.242, 0.399, 0.242, 0.054], atol=5e-4)
    assert len(weights) == 20 and sum(weights) == pytest.approx(1.0, abs=1e-9)
    assert gaussian(3, 900.0, 1.0) == pytest.approx((0, 0, 1))  # all densities underflow
    assert gaussian(20, 15.0, 0.0) == gaussian(0, 15.0, 1.0) == ()
    with pytest.raises(ValueError, match="average.deviation must not be negative, got -1.0"):
        gaussian(20, 15.0, -1.0)


# ---- Settings and sizes

PUBLISHED = {  # modality, layers, context, rate, batch, epochs, views
    "ivlp": ("independent", 9, 4, 0.0025, 4, 20, "shared"),
    "promptsrc": ("independent", 9, 4, 0.0025, 4, 20, "shared"),
    "promptsrc_dstc": ("independent", 9, 4, 0.0025, 4, 20, "crop_flip"),
    "coprompt": ("multimodal", 12, 4, 0.0035, 4, 8, "squeeze | randaugment | randaugment"),
}


@pytest.mark.parametrize("row", PUBLISHED)
def test_published_settings(row):
    config = methods.configure(row).config
    prompts, rates = config.prompts, config.optimizer
    found = (
        prompts.modality, prompts.layers, prompts.context, rates.learning_rate, rates.batch_size,
        rates.epochs, config.views,
    )  # fmt: skip
    assert found == PUBLISHED[row]
    assert (rates.name, rates.weight_decay, rates.warmup, rates.unit) == ("sgd", 5e-4, 1, "epoch")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("ivlp", 46_080),
        ("promptsrc", 46_080),
        ("promptsrc@prompts.layers=3", 15_360),
        ("promptsrc_dstc", 4 * 46_080),
        ("coprompt", 5_014_528),
        ("coprompt@prompts.layers=9", 3_826_432),
    ],
)
def test_parameters_at_vit_b16(row, expected):
    vit = test_prompts.Abstract()
    choice = methods.configure(row)
    config = choice.config.copy_and_resolve_references().unlock()
    config.head.shift = 0.0
    method = methods.rebuild(choice.family_name, config, vit, ("cat", "dog"), TEMPLATE)
    support = methods.Support(np.ones((1, 512), np.float32), np.zeros(1, int))
    learned = jax.eval_shape(lambda key: method.initialize(key, vit, support), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(learned.trained)) == expected


@pytest.mark.parametrize("row", ["promptsrc", "coprompt"])
def test_hand_crafted_prompts_are_refused(clip, row):
    support = methods.Support(np.ones((1, 40), np.float32), np.zeros(1, int))
    choice = methods.configure(f"{row}@prompts.context=0")
    with pytest.raises(ValueError, match="prompts.context is 0: set it to at least 1"):
        methods.build(choice, clip, ("cat", "dog"), TEMPLATE, support)


def test_only_training_encodes_the_sentences(clip, given, answers):
    method = create(clip, given, answers, "coprompt")
    assert method.classes(clip, method.class_names).sentences is None
    sentences = method.training_classes(clip).sentences
    assert sentences.owners.tolist() == np.arange(5).repeat(3).tolist()
    several = create(clip, given, answers, "coprompt", **{
        "prompts.anchors": "a {}.|the {}.", "prompts.ensemble": True,
    })  # fmt: skip
    found = several.training_classes(clip).sentences.features
    names = [name.replace("_", " ") for name in method.class_names]
    texts = [text for name in names for text in (f"a {name}.", f"the {name}.")]
    np.testing.assert_allclose(found, clip.encode_texts(texts), atol=1e-6)


# ---- Further views


@dataclasses.dataclass(frozen=True, eq=False)
class Reader(methods.Method):
    """Reads frozen features, and two further views in its loss."""

    further_views = 2

    def initialize(self, key, backbone, support):
        return methods.Learned({}, {})

    def classes(self, backbone, names, template=""):
        return None

    def class_features(self, backbone, learned, classes, image=None):
        return jnp.ones((1, 2, 40)) / 40**0.5

    def terms(self, batch):
        image, further = batch.forward.image, batch.further
        assert (image.shape, further.shape) == ((1, 4, 40), (2, 4, 40))
        return {
            name: methods.Term(value, 1.0)
            for name, value in {
                "image": image[0, 1, 2],
                "first": further[0, 3, 4],
                "last": further[1, 0, 5],
            }.items()
        }


def test_further_views_are_features_of_the_frozen_backbone(clip, given):
    """Of fresh views and of cached features alike."""
    method = Reader(methods.configure("linear_probe").config, ("a", "b"), TEMPLATE, SoftmaxHead())
    learned, views, labels = methods.Learned({}, {}), jnp.asarray(given["views"]), np.zeros(4, int)
    features = frozen_features(clip, views)
    arguments = (method, clip, learned, None)
    fresh = methods.objective(*arguments, views, labels, 0.0)[1]
    cached = methods.objective(*arguments, None, labels, 0.0, features)[1]
    expected = {"image": features[0, 1, 2], "first": features[1, 3, 4], "last": features[2, 0, 5]}
    for name, value in expected.items():
        assert float(fresh[name]) == pytest.approx(float(value), rel=1e-5)
        assert float(cached[name]) == float(value)


# ---- The whole way on the bundled world

ARGUMENT = (
    "shots=2,world.test_images=1,evaluation_batch_size=24,progress=False,log_every=2,"
    "checkpoint_every=3,coprompt.views=squeeze | randaugment | randaugment,"
    + "".join(f"{row}.optimizer.epochs=4,{row}.optimizer.batch_size=12," for row in PUBLISHED)
    + "".join(f"{row}.average.mean=3.0," for row in ("promptsrc", "promptsrc_dstc"))
    + f"methods={','.join(PUBLISHED)}"
)


@pytest.fixture(scope="module")
def finished(get_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    config = get_config("fewshot", ARGUMENT)
    return workdir, config, train.train_and_evaluate(config, workdir)


@pytest.mark.slow
def test_each_logs_its_terms(finished):
    workdir, _, results = finished
    regulated = {"text_distance", "image_distance"}
    for row in PUBLISHED:
        lines = (workdir / row / "metrics.jsonl").read_text().splitlines()
        terms = {"classification", "consistency", *regulated} if row != "ivlp" else set()
        assert len(lines) == 4 and terms <= json.loads(lines[0]).keys()
        assert ("divergence" in lines[0]) == row.startswith("promptsrc")
        assert ("decoupling" in lines[0]) == (row == "promptsrc_dstc")
        assert results[row]["steps"] == 8 and "new_int" in results[row]["splits"]
        first, last = (json.loads(line)["loss"] for line in (lines[0], lines[-1]))
        assert last < first


@pytest.mark.slow
def test_killed_and_resumed_they_end_the_same(finished, tmp_path, monkeypatch):
    workdir, config, results = finished
    stops = len(PUBLISHED)  # each method that trains
    again = whole_way.stop_and_resume(config, tmp_path, stops, 5, monkeypatch)
    assert again == results
    whole_way.require_same_files(workdir, tmp_path, PUBLISHED)


@pytest.mark.slow
@pytest.mark.parametrize("row", PUBLISHED)
def test_exported_they_predict_as_they_were_evaluated(finished, row):
    workdir, config, _ = finished
    whole_way.require_evaluated_predictions(workdir / row, tasks.load(config, 32), "new_int")


@pytest.mark.slow
def test_the_average_predicts(finished):
    """The exported prompts are the average, and not the last prompts."""
    workdir, config, _ = finished
    path = workdir / "promptsrc"
    exported = safetensors.numpy.load_file(path / "adapted/learned.safetensors")
    saved = ocp.StandardCheckpointer().restore(path / "checkpoints/8/state")
    for part in ("context", "visual"):
        array = exported[f"trained.prompts.{part}"]
        np.testing.assert_array_equal(array, saved["average"]["prompts"][part])
        assert np.abs(array - saved["trained"]["prompts"][part]).max() > 1e-5
