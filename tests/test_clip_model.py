"""The towers against transformers' CLIPModel and FlaxCLIPModel (stored answers, see
references/make_clip.py) and against plain loops over the same weights."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from references import clip_reference as reference

from cdc_jax import clip as clip_lib
from cdc_jax.clip import model as model_lib

REFERENCES = Path(__file__).parent / "references"


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A reference configuration's model, by name and dtype."""

    @functools.cache
    def load(name, dtype="float32"):
        config = reference.CONFIGS[name]
        folder = reference.write_folder(tmp_path_factory.mktemp(name) / "clip", config)
        reference.write_weights(folder, reference.weights(config))
        return clip_lib.load(folder, jnp.dtype(dtype))[0]

    return load


@jax.jit
def answers(clip, pixels, token_ids):
    images, texts = clip.encode_image(pixels), clip.encode_text(token_ids)
    return {
        "images": clip.encode_image(pixels, normalize=False),
        "texts": clip.encode_text(token_ids, normalize=False),
        "logits": clip.logit_scale * images @ texts.T,
    }


def assert_close(actual, expected, tolerance=1e-5):
    """Largest difference in units of the largest value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(expected).max() > 0
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


# ---- Parity with transformers


@pytest.mark.parametrize("name", reference.CONFIGS)
def test_equals_transformers(load, name):
    found = answers(load(name), *reference.inputs(reference.CONFIGS[name]))
    with np.load(REFERENCES / "clip.npz", allow_pickle=False) as stored:
        for implementation in ("torch", "flax"):
            for kind, value in found.items():
                assert_close(value, stored[f"{implementation}/{name}/{kind}"])


@pytest.mark.parametrize("dtype, least", [("bfloat16", 0.9995), ("float16", 0.99999)])
def test_low_precision_weights_give_nearly_the_same_features(load, dtype, least):
    name = "patch16"
    clip = load(name, dtype)
    found = answers(clip, *reference.inputs(reference.CONFIGS[name]))
    assert clip.text.blocks.qkv.kernel.dtype == dtype
    assert clip.logit_scale == load(name).logit_scale
    with np.load(REFERENCES / "clip.npz", allow_pickle=False) as stored:
        for kind in ("images", "texts"):
            a, b = np.asarray(found[kind]), stored[f"torch/{name}/{kind}"]
            assert a.dtype == np.float32
            norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
            assert ((a * b).sum(-1) / norms).min() > least
            assert np.abs(a - b).max() > 1e-5  # they were computed in low precision


def published(
    width, depth, heads, patch, size, text_width, embed, text_depth=12, gelu="quick_gelu"
):
    def tower(width, depth, heads):
        return clip_lib.Transformer(width, depth, heads, 4 * width, gelu)

    return clip_lib.ClipConfig(
        vision=tower(width, depth, heads),
        text=tower(text_width, text_depth, text_width // 64),
        embed_width=embed,
        image_size=size,
        patch_size=patch,
        vocab_size=49408,
        context_length=77,
        eot_id=2,
    )


@pytest.mark.parametrize(
    "config, parameters",
    [
        (published(768, 12, 12, 32, 224, 512, 512), 151_277_313),  # ViT-B/32
        (published(768, 12, 12, 16, 224, 512, 512), 149_620_737),  # ViT-B/16
        (published(1024, 24, 16, 14, 224, 768, 768), 427_616_513),  # ViT-L/14
        (published(1024, 24, 16, 14, 336, 768, 768), 427_944_193),  # ViT-L/14@336px
        (published(1280, 32, 16, 14, 224, 1024, 1024, 24, "gelu"), 986_109_441),  # OpenCLIP H/14
    ],
)
def test_published_sizes(config, parameters):
    clip = nnx.eval_shape(lambda: clip_lib.Clip(config, nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(clip, nnx.Param))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == parameters
    size = config.image_size
    pixels = jax.ShapeDtypeStruct((2, size, size, 3), np.float32)
    ids = jax.ShapeDtypeStruct((5, 77), np.int32)
    found = jax.eval_shape(answers, clip, pixels, ids)
    assert found["images"].shape == (2, config.embed_width)
    assert found["texts"].shape == (5, config.embed_width)
    assert found["logits"].shape == (2, 5)


# ---- Prompts, against plain loops in transformers' names


def norm(x, t, name, epsilon):
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + epsilon)
    return x * t[f"{name}.weight"] + t[f"{name}.bias"]


def block(x, t, name, sizes, mask):
    """One layer of transformers' CLIPEncoder on (tokens, width), head by head."""

    def linear(x, module):
        return x @ t[f"{name}.{module}.weight"].T + t[f"{name}.{module}.bias"]

    epsilon, heads = sizes["layer_norm_eps"], sizes["num_attention_heads"]
    y = norm(x, t, f"{name}.layer_norm1", epsilon)
    q, k, v = (jnp.split(linear(y, f"self_attn.{p}_proj"), heads, axis=-1) for p in ("q", "k", "v"))
    mixed = []
    for i in range(heads):
        scores = q[i] @ k[i].T / np.sqrt(q[i].shape[-1])
        weights = jnp.where(mask, jnp.exp(scores - scores.max()), 0)
        mixed.append(weights / weights.sum(-1, keepdims=True) @ v[i])
    x = x + linear(jnp.concatenate(mixed, -1), "self_attn.out_proj")
    y = linear(norm(x, t, f"{name}.layer_norm2", epsilon), "mlp.fc1")
    if sizes["hidden_act"] == "gelu":
        y = y * (1 + jax.lax.erf(y / np.sqrt(2))) / 2
    else:
        y = y / (1 + jnp.exp(-1.702 * y))
    return x + linear(y, "mlp.fc2")


def plain_layers(x, t, tower, sizes, prompts, start, causal, at=None, share=1.0):
    at = range(len(prompts)) if at is None else at
    for i in range(sizes["num_hidden_layers"]):
        if i > 0 and i in at:
            row = prompts[at.index(i)]
            stop = start if i == at[0] else start + len(row)
            if i > at[0]:
                row = share * row + (1 - share) * x[start:stop]
            x = jnp.concatenate([x[:start], row, x[stop:]])
        mask = np.tri(len(x), dtype=bool) if causal else True
        x = block(x, t, f"{tower}.encoder.layers.{i}", sizes, mask)
    return x


def plain_text(t, config, ids, prompts, at=(0,), share=1.0):
    """Full-length features of token ids whose positions 1..d the prompts replace.

    Prompts of a later layer are inserted there in place of this.
    """
    sizes = config["text_config"]
    embedding = t["text_model.embeddings.token_embedding.weight"]
    positions = t["text_model.embeddings.position_embedding.weight"]
    added = len(prompts[0]) if at[0] else 0

    def feature(x, end):
        if not added:
            x = jnp.concatenate([x[:1], prompts[0], x[1 + len(prompts[0]) :]])
        x = x + positions[: len(x)]
        x = plain_layers(x, t, "text_model", sizes, prompts, 1, True, at, share)
        x = norm(x[end + added], t, "text_model.final_layer_norm", sizes["layer_norm_eps"])
        return t["text_projection.weight"] @ x

    ends = [list(row).index(reference.end_of_text(config)) for row in ids]
    return jax.vmap(feature)(embedding[ids], np.array(ends))


def plain_image(t, config, pixels, prompts, at=(0,), share=1.0):
    """Features of images with the prompts after the patches, and the prompts' last states."""
    sizes = config["vision_config"]
    patch, grid = sizes["patch_size"], sizes["image_size"] // sizes["patch_size"]
    kernel = t["vision_model.embeddings.patch_embedding.weight"]

    def feature(image):
        x = [t["vision_model.embeddings.class_embedding"]]
        for row in range(grid):
            for column in range(grid):
                piece = image[row * patch :, column * patch :][:patch, :patch]
                x.append(jnp.einsum("wcij,ijc->w", kernel, piece))
        x = jnp.stack(x) + t["vision_model.embeddings.position_embedding.weight"]
        if at[0] == 0:
            x = jnp.concatenate([x, prompts[0]])
        x = norm(x, t, "vision_model.pre_layrnorm", sizes["layer_norm_eps"])
        x = plain_layers(x, t, "vision_model", sizes, prompts, 1 + grid**2, False, at, share)
        x = norm(x, t, "vision_model.post_layernorm", sizes["layer_norm_eps"])
        return t["visual_projection.weight"] @ x[0], x[1 + grid**2 :]

    return jax.vmap(feature)(pixels)


def value_and_gradient(function, weights, prompts):
    """Features, and the gradient of a random weighting of them."""

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def weighed(prompts, weights):
        features = function(weights, prompts)
        weighting = np.random.default_rng(5).normal(size=features.shape)
        return (features * weighting).sum(), features

    with jax.default_matmul_precision("highest"):
        (_, features), gradient = weighed(prompts, weights)
    return features, gradient


def random_prompts(layers, count, width):
    return jnp.array(np.random.default_rng(3).normal(size=(layers, count, width)), jnp.float32)


def prompted_names(config, words, context):
    """Names of very different lengths: as `TextTower.names` takes them, and as whole texts."""
    rng, length = np.random.default_rng(4), config["text_config"]["max_position_embeddings"]
    end, before = reference.end_of_text(config), 1 + context + len(words)
    names = [list(rng.integers(2, 50, count)) for count in (1, 4, length - before - 1, 2)]
    longest = max(map(len, names)) + 1
    padded = np.array([[*name, *[end] * (longest - len(name))] for name in names], np.int32)
    texts = [[reference.START, *[0] * context, *words, *name, end] for name in names]
    texts = np.array([text + [0] * (length - len(text)) for text in texts], np.int32)
    return jnp.array(padded), texts


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layers, context, words",
    [
        ("patch32_legacy", 1, 4, []),  # CoOp
        ("patch32_legacy", 3, 2, [7, 8]),  # every layer, with fixed words
        ("patch14_gelu", 3, 3, [9]),
        ("patch16", 1, 0, [4, 5, 6]),  # hand-crafted: nothing learned
    ],
)
def test_shared_prefix_equals_full_length_forward(load, name, layers, context, words):
    config = reference.CONFIGS[name]
    prompts = random_prompts(layers, context, config["text_config"]["hidden_size"])
    names, texts = prompted_names(config, words, context)

    def plain(tensors, prompts):
        return plain_text(tensors, config, texts, prompts, range(layers))

    def full(clip, prompts):
        return clip.text(texts, prompts)

    def shared(clip, prompts, chunk=1, chunks=0):
        prefix = clip.text.prefix(reference.START, prompts, clip.text.embed(jnp.array(words, int)))
        return clip.text.names(prefix, names, chunk, chunks)

    forms = [full, shared]
    if context == 3:
        forms.append(functools.partial(shared, chunk=1, chunks=3))
    expected = value_and_gradient(plain, reference.weights(config), prompts)
    for form in forms:
        found = value_and_gradient(form, load(name), prompts)
        assert_close(found[0], expected[0])
        if context:
            for layer in range(layers):
                assert_close(found[1][layer], expected[1][layer])


@pytest.mark.slow
def test_bfloat16_gradients_point_the_same_way(load):
    name, context = "patch8_mixed", 3
    config = reference.CONFIGS[name]
    names, _ = prompted_names(config, [], context)
    prompts = random_prompts(1, context, config["text_config"]["hidden_size"])

    def shared(clip, prompts):
        prefix = clip.text.prefix(reference.START, prompts, jnp.zeros((0, prompts.shape[-1])))
        return clip.text.names(prefix, names)

    for a, b in zip(
        value_and_gradient(shared, load(name, "bfloat16"), prompts),
        value_and_gradient(shared, load(name), prompts),
        strict=True,
    ):
        assert a.dtype == np.float32
        assert (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b) > 0.9995
        assert np.abs(a - b).max() > 1e-5 * np.abs(b).max()


def test_words_in_place_of_prompts_give_the_plain_encoding(load):
    config = reference.CONFIGS["patch16"]
    names, texts = prompted_names(config, [11, 12, 13], 0)

    @jax.jit
    def encode(clip):
        prompts, words = clip.text.embed(jnp.array([[11, 12]])), clip.text.embed(jnp.array([13]))
        prefix = clip.text.prefix(reference.START, prompts, words)
        features = model_lib.normalize(clip.text.names(prefix, names))
        return features, clip.encode_text(texts), clip.encode_text(names)

    shared, whole, without_prefix = encode(load("patch16"))
    assert_close(shared, whole)
    assert np.abs(shared - without_prefix).max() > 0.1


def test_a_sequence_may_stop_at_the_longest_end_of_text(load):
    clip, config = load("patch16"), reference.CONFIGS["patch16"]
    texts = reference.inputs(config)[1][:3]  # the third ends in the middle
    end = reference.end_of_text(config)
    longest = max(list(row).index(end) for row in texts) + 1
    assert longest < texts.shape[1]
    encode = jax.jit(lambda clip, ids: clip.encode_text(ids))
    assert_close(encode(clip, texts[:, :longest]), encode(clip, texts))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layers, count", [("patch32_legacy", 1, 3), ("patch14_gelu_legacy", 4, 2)]
)
def test_visual_prompts_equal_a_plain_loop(load, name, layers, count):
    config = reference.CONFIGS[name]
    pixels = jnp.array(reference.inputs(config)[0][:2])
    prompts = random_prompts(layers, count, config["vision_config"]["hidden_size"])

    def plain(tensors, prompts):
        return plain_image(tensors, config, pixels, prompts, range(layers))[0]

    def ours(clip, prompts):
        return clip.vision(pixels, prompts)

    expected = value_and_gradient(plain, reference.weights(config), prompts)
    features, gradient = value_and_gradient(ours, load(name), prompts)
    assert_close(features, expected[0])
    for layer in range(layers):
        assert_close(gradient[layer], expected[1][layer])


LATER = {"at": (1, 3), "share": 0.3}  # two rows of prompts: inserted, and mixed


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], [9, 4]])
def test_prompts_of_a_middle_layer_equal_a_plain_loop(load, words):
    name, count = "patch14_gelu", 3
    config = reference.CONFIGS[name]
    prompts = random_prompts(2, count, config["text_config"]["hidden_size"])
    names, texts = prompted_names(config, words, 0)

    def plain(tensors, prompts):
        return plain_text(tensors, config, texts, prompts, **LATER)

    def full(clip, prompts):
        return clip.text(texts, prompts, **LATER)

    def shared(clip, prompts, chunks=0):
        embedded = clip.text.embed(jnp.array(words, int))
        prefixes = clip.text.prefix(reference.START, prompts, embedded, **LATER)
        assert [keys.shape[0] for keys, _ in prefixes] == [1, 3]
        return clip.text.names(prefixes, names, 1, chunks)

    features, gradient = value_and_gradient(plain, reference.weights(config), prompts)
    for form in (full, shared, functools.partial(shared, chunks=3)):
        found = value_and_gradient(form, load(name), prompts)
        assert_close(found[0], features)
        for row in range(2):
            assert_close(found[1][row], gradient[row])


@pytest.mark.slow
def test_states_of_visual_prompts_of_a_middle_layer_equal_a_plain_loop(load):
    name = "patch14_gelu_legacy"
    config = reference.CONFIGS[name]
    pixels = jnp.array(reference.inputs(config)[0][:2])
    prompts = random_prompts(2, 3, config["vision_config"]["hidden_size"])

    def both(outputs):
        features, states = outputs
        return jnp.concatenate([features, states.reshape(2, -1)], -1)

    def plain(tensors, prompts):
        return both(plain_image(tensors, config, pixels, prompts, **LATER))

    def ours(clip, prompts):
        return both(clip.vision.with_states(pixels, prompts, **LATER))

    features, gradient = value_and_gradient(plain, reference.weights(config), prompts)
    found = value_and_gradient(ours, load(name), prompts)
    assert_close(found[0], features)
    for row in range(2):
        assert_close(found[1][row], gradient[row])
    inserted = load(name).vision(pixels, prompts, LATER["at"])  # replaced in place of mixed
    expected = plain_image(reference.weights(config), config, pixels, prompts, LATER["at"])[0]
    assert_close(inserted, expected)


def test_text_ends_at_the_first_end_or_at_the_largest_id():
    ids = jnp.array([[1, 5, 9, 3, 9, 9], [1, 9, 20, 2, 2, 2]])
    assert model_lib.eot_positions(ids, 9).tolist() == [2, 1]
    assert model_lib.eot_positions(ids, 2).tolist() == [2, 2]


def test_errors_say_both_sizes(load):
    clip = load("patch8_mixed")
    with pytest.raises(ValueError, match=r"shape \(32, 32, 3\), got \(48, 48, 3\)"):
        clip.encode_image(jnp.zeros((1, 48, 48, 3)))
    with pytest.raises(ValueError, match="21 tokens exceeds the context length 20"):
        clip.encode_text(jnp.zeros((1, 21), int))
    with pytest.raises(ValueError, match="prompts of 3 layers .* tower has 2"):
        clip.vision(jnp.zeros((1, 32, 32, 3)), jnp.zeros((3, 1, 16)))
    prefix = [2 * (jnp.zeros((1, 4, 5, 16)),)]  # of 5 tokens
    with pytest.raises(ValueError, match="21 tokens exceeds the context length 20"):
        clip.text.names(prefix, jnp.full((2, 16), 59))
