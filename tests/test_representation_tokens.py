"""MMRL and MMRL++, each against its plain form in PyTorch and float64.

`references/representation_tokens.npz` holds the answers of `make_representation_tokens.py`. A
difference counts in units of the tensor's largest value.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import transformers
import whole_way
from references import clip_reference
from scipy.special import digamma

from cdc_jax import backbone, methods, optimizer, step, tasks, train
from cdc_jax import clip as clip_lib
from cdc_jax.clip.backbone import ClipBackbone
from cdc_jax.preprocessing import Preprocessing
from cdc_jax.tasks.batches import TrainingBatches

SETTINGS = {
    "mmrl": {"tokens.count": 3, "tokens.width": 12, "loss.consistency_weight": 0.7},
    "mmrl_plus_plus": {
        "tokens.count": 3, "tokens.width": 12, "loss.consistency_weight": 0.7,
        "tokens.own_share": 0.6, "tokens.rank": 2, "tokens.projection_rank": 3,
    },
}  # fmt: skip
"""The sizes of the stored form."""


@pytest.fixture(scope="module")
def stored():
    path = Path(__file__).parent / "references" / "representation_tokens.npz"
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def clip(stored, tmp_path_factory):
    """The references' CLIP, and a tokenizer of its whole words."""
    config = clip_reference.METHODS
    folder = clip_reference.write_folder(tmp_path_factory.mktemp("tokens") / "clip", config)
    clip_reference.write_weights(folder, clip_reference.weights(config))
    vocabulary = [str(word) for word in stored["vocabulary"]]
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(vocabulary)}, "<pad>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    hf = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<start>", eos_token="<end>"
    )
    return ClipBackbone(clip_lib.load(folder)[0], clip_lib.Tokenizer(hf, context_length=24))


@pytest.fixture
def float64(monkeypatch):
    """Computes everything in float64. Adam's first steps divide small gradients by themselves."""
    monkeypatch.setattr(jnp, "float32", jnp.float64)
    with jax.enable_x64(True):
        yield lambda tree: jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64) if leaf.dtype == np.float32 else leaf, tree
        )


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def create(clip, stored, row):
    config = methods.configure(row).config.unlock()
    config.update_from_flattened_dict(SETTINGS[row])
    names = [str(name) for name in stored["names"]]
    return methods.rebuild("representation_tokens", config, clip, names, str(stored["text"]))


def in_parts(stored, prefix):
    """Stored arrays in our names and layout; PyTorch's Linear keeps (outputs, inputs)."""
    part = lambda name: stored[f"{prefix}/{name}"]  # noqa: E731
    shared = f"{prefix}/projection_a" in stored
    tokens = {"space": part("space")}
    for tower in ("text", "vision"):
        kernel, bias = part(f"{tower}_weight").swapaxes(-1, -2), part(f"{tower}_bias")
        tokens[tower] = {"kernel": kernel, "bias": bias}
        if shared:
            left, right = (part(f"{tower}_{x}").swapaxes(-1, -2) for x in "ba")
            tokens[tower] |= {"left": left, "right": right}
    if shared:
        projection = {"left": part("projection_a"), "right": part("projection_b")}
    else:
        projection = {"kernel": part("projection")}
    return {"tokens": tokens, "projection": projection}


def published_terms(stored, row):
    prefix = f"{row}/term/"
    terms = {n.removeprefix(prefix): v for n, v in stored.items() if n.startswith(prefix)}
    assert len(terms) == 4
    return terms


def objective(method, clip, classes, stored, trained):
    views, labels = jnp.asarray(stored["views"][:1], jnp.float32), stored["labels"]
    learned = methods.Learned(trained, {})
    return methods.objective(method, clip, learned, classes, views, labels, 0.0)


@pytest.mark.parametrize("row", SETTINGS)
def test_equals_the_plain_form(clip, stored, row):
    method = create(clip, stored, row)
    assert method.text_at == method.vision_at == (1, 2, 3)
    names = [str(name) for name in stored["other_names"]]
    others = method.classes(clip, names, str(stored["other_text"]))
    classes = method.classes(clip, method.class_names)

    # Nearly all of the time goes into compiling, of which level 0 does least.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def answers(clip, trained, classes, others):
        learned = methods.Learned(trained, {})
        views = jnp.asarray(stored["views"][:1], jnp.float32)
        image = method.image_features(clip, learned, views)
        forward = method.forward(clip, learned, classes, image)
        elsewhere = method.forward(clip, learned, others, image).logits
        loss = functools.partial(objective, method, clip, classes, stored)
        (_, terms), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
        return forward, elsewhere, terms, gradients

    trained = jax.tree.map(jnp.asarray, in_parts(stored, f"{row}/initial"))
    forward, elsewhere, terms, gradients = answers(clip, trained, classes, others)
    assert_close(forward.text[0, :, :-1], stored[f"{row}/text"])
    assert_close(forward.image, stored[f"{row}/image"])
    assert_close(forward.logits[:, 0], stored[f"{row}/logits"])
    assert_close(elsewhere[:, 0], stored[f"{row}/other_logits"])
    assert_close(terms["loss"], stored[f"{row}/losses"][0])
    for name, value in published_terms(stored, row).items():
        one = int(name.endswith("consistency"))  # one minus a cosine, which float32 rounds
        assert_close(one - terms[name], one - value)
    jax.tree.map(assert_close, gradients, in_parts(stored, f"{row}/gradient"))


@pytest.mark.slow
@pytest.mark.parametrize("row", SETTINGS)
def test_three_steps_equal_the_plain_form(clip, stored, row, float64):
    exact, method = float64(clip), create(clip, stored, row)
    classes, labels = method.classes(exact, method.class_names), stored["labels"]
    examples = tasks.Examples(np.zeros((4, 1, 1, 3), np.uint8), labels, method.class_names)
    (stage,) = method.stages()
    views = jnp.asarray(stored["views"], jnp.float64)
    phase = step.Phase(
        stage=stage,
        examples=examples,
        batches=TrainingBatches(examples, stage.optimizer.batch_size, 0),
        update=optimizer.make(stage.optimizer, 1),
        make_views=lambda seed, done, *images: views[done][None],
        first=0,
        steps=optimizer.steps(stage.optimizer, 1),
    )
    trained = float64(jax.tree.map(jnp.asarray, in_parts(stored, f"{row}/initial")))
    state, losses = step.initial_state(stage, phase.update, trained), []
    expected = published_terms(stored, row)
    compiled = jax.jit(
        step.make_step(phase, seed=0), compiler_options={"xla_backend_optimization_level": 0}
    )
    batch = {"indices": np.arange(4), "images": np.zeros(4, np.uint8), "labels": labels}
    for _ in range(3):
        state, terms = compiled(state, exact, {}, classes, batch)
        losses.append(terms["loss"])
        if len(losses) == 1:
            jax.tree.map(assert_close, {n: terms[n] for n in expected}, expected)
    assert losses[0].dtype == np.float64
    assert_close(np.array(losses), stored[f"{row}/losses"])
    jax.tree.map(assert_close, state["trained"], in_parts(stored, f"{row}/trained"))


# ---- Which logits, how many parameters, which settings


class Sizes(backbone.Backbone):
    """A backbone of which only the sizes are known: ViT-B/16's."""

    sizes = backbone.Sizes(512, 512, 12, 768, 12, 224)
    preprocessing = Preprocessing(224)
    mean = std = (0.5, 0.5, 0.5)
    dtype, profile, logit_bias = "float32", "", 0.0
    logit_scale = np.float32(100)


NO_SHOTS = methods.Support(np.zeros((2, 4), np.float32), np.arange(2))


@pytest.mark.parametrize(
    ("row", "changes", "expected"),
    [
        ("mmrl", {}, 4_992_256),
        ("mmrl", {"tokens.width": 2048}, 18_762_496),  # EuroSAT
        ("mmrl_plus_plus", {}, 813_312),
    ],
)
def test_parameters_at_vit_b16(row, changes, expected):
    config = methods.configure(methods.with_changes(row, changes)).config
    method = methods.rebuild("representation_tokens", config, Sizes(), ["a", "b"], "a {}.")
    assert method.text_at == method.vision_at == tuple(range(5, 12))  # layers 6 to 12
    start = jax.eval_shape(lambda key: method.initialize(key, Sizes(), NO_SHOTS), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(start.trained)) == expected


def test_the_start(clip, stored):
    """Layers start alike; MMRL++ starts from CLIP's projection and without residuals."""
    of = {row: create(clip, stored, row) for row in SETTINGS}
    start = {
        row: method.initialize(jax.random.key(0), clip, NO_SHOTS).trained
        for row, method in of.items()
    }
    for row, trained in start.items():
        for tower in ("text", "vision"):
            maps = trained["tokens"][tower]
            assert (maps["bias"] == maps["bias"][0]).all() and abs(maps["bias"]).max() <= 12**-0.5
            if row == "mmrl":
                assert (maps["kernel"] == maps["kernel"][0]).all()
            else:
                assert not maps["left"].any() and 0.3 < abs(maps["right"]).max() <= 2**-0.5
    assert not start["mmrl_plus_plus"]["projection"]["right"].any()
    assert 0.3 < abs(start["mmrl_plus_plus"]["projection"]["left"]).max() <= 3**-0.5
    assert float(start["mmrl"]["projection"]["kernel"].std()) == pytest.approx(48**-0.5, rel=0.05)


def test_tokens_count_among_the_training_classes_only(clip, stored):
    method = create(clip, stored, "mmrl")
    names, template = list(method.class_names), str(stored["text"])
    share = lambda *arguments: float(method.classes(clip, *arguments).share)  # noqa: E731
    assert share(names) == share(names[::-1]) == pytest.approx(0.3)
    assert share(names[:2]) == share([*names, "picture"]) == share(["photo", "red"]) == 0
    assert share(names, template) == 0  # another dataset with the same names and text
    assert method.covers(["photo", "red"])


def test_a_text_may_begin_with_the_name(clip, stored):
    config = create(clip, stored, "mmrl").config
    method = methods.rebuild("representation_tokens", config, clip, ["cat", "dog"], "{} picture.")
    classes = method.classes(clip, method.class_names)
    assert classes.words.shape == (0,)
    found = clip.encode_prompted(
        jnp.zeros((1, 1, 0, 32)), np.asarray(classes.words)[None], classes.names
    )
    np.testing.assert_allclose(found[0], classes.anchors, atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("count", 0, "tokens.count must lie between 1 and inf, got 0"),
        ("first_layer", 5, "tokens.first_layer must lie between 0 and 4, got 5"),
        ("own_share", 1.5, "tokens.own_share must lie between 0 and 1, got 1.5"),
        ("rank", -1, "tokens.rank must lie between 0 and inf, got -1"),
    ],
)
def test_settings_without_a_meaning_are_refused(clip, setting, value, message):
    config = methods.configure(f"mmrl@tokens.{setting}={value}").config
    with pytest.raises(ValueError, match=message):
        methods.rebuild("representation_tokens", config, clip, ["cat", "dog"], "a {}.")


def test_an_evidential_head_has_one_opinion_of_the_fused_logits(clip, stored):
    """Its trusted loss counts for each set of logits, as the published cross-entropy does."""
    changes = {"head.name": "evidential", "head.fusion": "dempster", "head.kl_weight": 0.02}
    config = create(clip, stored, "mmrl").config.copy_and_resolve_references().unlock()
    config.update_from_flattened_dict(changes)
    config.head.shift = 3.0
    names = [str(name) for name in stored["names"]]
    method = methods.rebuild("representation_tokens", config, clip, names, str(stored["text"]))
    classes, labels = method.classes(clip, names), stored["labels"]
    trained = jax.tree.map(jnp.asarray, in_parts(stored, "mmrl/initial"))
    _, terms = jax.jit(functools.partial(objective, method, clip, classes, stored))(trained)
    logits = float(clip.logit_scale) * stored["mmrl/image"] @ stored["mmrl/text"].T
    for name, of_set in zip(("classification", "representation"), logits, strict=True):
        alpha = np.exp(of_set.astype(np.float64) - 3) + 1
        chosen = alpha[np.arange(4), labels]
        expected = (digamma(alpha.sum(-1)) - digamma(chosen)).mean()  # without KL at the start
        np.testing.assert_allclose(terms[name], expected, rtol=1e-4)
    fused = jnp.asarray(stored["mmrl/logits"])[:, None]
    prediction = method.predict(methods.Learned({}, {}), fused)
    assert prediction.template_predicted.shape == (4, 1)
    evidence = np.exp(stored["mmrl/logits"].astype(np.float64) - 3)
    expected = (evidence + 1) / (evidence + 1).sum(-1, keepdims=True)
    np.testing.assert_allclose(prediction.probability, expected, rtol=1e-4)
    assert not prediction.conflict.any()


# ---- The whole way on the bundled world

NAMES = ["mmrl@head.name=evidential;head.fusion=dempster", "mmrl_plus_plus"]
ARGUMENT = (
    "shots=2,world.test_images=2,evaluation_batch_size=24,progress=False,log_every=2,"
    "checkpoint_every=3,"
    "mmrl.tokens.width=16,mmrl_plus_plus.tokens.width=16,mmrl.optimizer.epochs=8,"
    f'mmrl_plus_plus.optimizer.epochs=8,methods="{",".join(NAMES)}"'
)


@pytest.fixture(scope="module")
def finished(get_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    config = get_config("fewshot", ARGUMENT)
    return workdir, config, train.train_and_evaluate(config, workdir)


@pytest.mark.slow
def test_killed_and_resumed_they_end_the_same(finished, tmp_path, monkeypatch):
    workdir, config, results = finished
    stops = len(NAMES)  # each method that trains
    again = whole_way.stop_and_resume(config, tmp_path, stops, 5, monkeypatch)
    assert again == results
    whole_way.require_same_files(workdir, tmp_path, NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("row", NAMES)
@pytest.mark.parametrize("split", ["base_int", "new_int"])
def test_exported_they_predict_as_they_were_evaluated(finished, row, split):
    workdir, config, results = finished
    whole_way.require_evaluated_predictions(workdir / row, tasks.load(config, 32), split)
    terms = (workdir / row / "metrics.jsonl").read_text().splitlines()[0]
    assert {"classification", "representation", "image_consistency"} < json.loads(terms).keys()
