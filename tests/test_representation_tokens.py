"""MMRL and MMRL++, each against its plain form in PyTorch and float64.

`references/representation_tokens.npz` holds the answers of `make_representation_tokens.py`. A
difference counts in units of the tensor's largest value.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import transformers
from references import clip_reference

from cdc_jax import clip as clip_lib
from cdc_jax import methods, optimizer, step, tasks
from cdc_jax.clip.backbone import ClipBackbone
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
    expected = {name: value for name, value in stored.items() if name.startswith(f"{row}/term/")}
    assert len(expected) == 4
    for name, value in expected.items():
        assert_close(terms[name.rpartition("/")[2]], value)
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
    compiled = jax.jit(
        step.make_step(phase, seed=0), compiler_options={"xla_backend_optimization_level": 0}
    )
    batch = {"indices": np.arange(4), "images": np.zeros(4, np.uint8), "labels": labels}
    for _ in range(3):
        state, terms = compiled(state, exact, {}, classes, batch)
        losses.append(terms["loss"])
    assert losses[0].dtype == np.float64
    assert_close(np.array(losses), stored[f"{row}/losses"])
    jax.tree.map(assert_close, state["trained"], in_parts(stored, f"{row}/trained"))
