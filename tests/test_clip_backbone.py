"""CLIP behind the interface of backbones, against its towers' plain paths and float64 NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf

from cdc_jax import backbone as backbone_lib
from cdc_jax import clip as clip_lib
from cdc_jax.clip import backbone as clip_backbone
from cdc_jax.clip.backbone import ClipBackbone
from cdc_jax.preprocessing import Preprocessing

NAMES = ("striped star", "dot", "sea_or_lake")


@pytest.fixture(scope="module")
def world():
    return backbone_lib.load("world")


@pytest.fixture(scope="module")
def small(world):
    """Two towers of four blocks, all of whose weights are random."""
    config = clip_lib.ClipConfig(
        vision=clip_lib.Transformer(12, 4, 3, 20, "gelu", 1e-3),
        text=clip_lib.Transformer(8, 4, 2, 24),
        embed_width=6,
        image_size=8,
        patch_size=4,
        vocab_size=world.tokenizer.vocab_size,
        context_length=77,
        eot_id=world.tokenizer.eot_id,
    )
    rng = np.random.default_rng(0)
    clip = jax.tree.map(
        lambda x: x + jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32),
        clip_lib.Clip(config, nnx.Rngs(0)),
    )
    return ClipBackbone(clip, world.tokenizer)


# ---- A plain forward pass in float64, block by block


def norm(x, w, name, epsilon):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return x * w[f"{name}.scale"] + w[f"{name}.bias"]


def block(x, w, tower, i, sizes, mask):
    """Block i of a tower on (tokens, width), head by head."""
    w = {name.removeprefix(f"{tower}.blocks."): value[i] for name, value in w.items()
         if name.startswith(f"{tower}.blocks.")}  # fmt: skip
    linear = lambda x, name: x @ w[f"{name}.kernel"] + w[f"{name}.bias"]  # noqa: E731
    qkv = np.split(linear(norm(x, w, "attention_norm", sizes.epsilon), "qkv"), 3, -1)
    mixed = []
    for q, k, v in zip(*(np.split(part, sizes.heads, -1) for part in qkv), strict=True):
        weights = np.exp(q @ k.T / np.sqrt(q.shape[-1])) * mask
        mixed.append(weights / weights.sum(-1, keepdims=True) @ v)
    x = x + linear(np.concatenate(mixed, -1), "attention_out")
    y = linear(norm(x, w, "mlp_norm", sizes.epsilon), "mlp_in")
    if sizes.activation == "gelu":
        y = y * (1 + erf(y / np.sqrt(2))) / 2
    else:
        y = y / (1 + np.exp(-1.702 * y))
    return x + linear(y, "mlp_out")


def in_float64(backbone):
    return {name: np.asarray(value, np.float64) for name, value in backbone.weights().items()}


def plain_text(backbone, w, ids, prompts, at):
    """The feature of ids that end at end-of-text; prompts take the places after the first.

    The first prompts of a later block are inserted there.
    """
    prompts = np.asarray(prompts, np.float64)
    sizes, after = backbone.clip.config.text, 1 + prompts.shape[1]
    x = w["text.token_embedding"][np.asarray(ids)]
    if at[0] == 0:
        x[1:after] = prompts[0]
    x += w["text.position_embedding"][: len(x)]
    for i in range(sizes.depth):
        if i > 0 and i in at:
            kept = x[1:] if i == at[0] else x[after:]
            x = np.concatenate([x[:1], prompts[at.index(i)], kept])
        x = block(x, w, "text", i, sizes, np.tri(len(x)))
    feature = norm(x[-1], w, "text.final_norm", sizes.epsilon) @ w["text.projection"]
    return feature / np.linalg.norm(feature)


def plain_image(backbone, w, pixels, prompts, at):
    """The feature of one image with prompts after its patches."""
    prompts, pixels = np.asarray(prompts, np.float64), np.asarray(pixels, np.float64)
    config = backbone.clip.config
    patch, sizes = config.patch_size, config.vision
    rows = range(0, config.image_size, patch)
    x = [w["vision.class_embedding"]]
    for row in rows:
        for column in rows:
            piece = pixels[row : row + patch, column : column + patch].reshape(-1)
            x.append(piece @ w["vision.patch_embedding"])
    x = np.stack(x) + w["vision.position_embedding"]
    if at[0] == 0:
        x = np.concatenate([x, prompts[0]])
    x = norm(x, w, "vision.pre_norm", sizes.epsilon)
    for i in range(sizes.depth):
        if i > 0 and i in at:
            x = np.concatenate([x[: 1 + len(rows) ** 2], prompts[at.index(i)]])
        x = block(x, w, "vision", i, sizes, 1.0)
    feature = norm(x[0], w, "vision.post_norm", sizes.epsilon) @ w["vision.projection"]
    return feature / np.linalg.norm(feature)


def whole_text(backbone, prompts, words, name, at=(0,)):
    """Ids of start, places of prompts of the first block, words and a name up to its end."""
    end, places = list(name).index(backbone.tokenizer.eot_id), [0] * prompts.shape[-2]
    start = [backbone.tokenizer.start_id, *(places if at[0] == 0 else [])]
    return [*start, *words, *name[: end + 1]]


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# ---- Prompts that enter given blocks

AT = [(0,), (0, 3), (0, 1, 3), (0, 1, 2, 3), (3,), (1, 3)]
WORDS = np.array([[5, 6], [7, 8]])


@pytest.mark.slow
@pytest.mark.parametrize("at", AT)
def test_prompts_of_shared_texts_enter_the_blocks_that_are_named(small, at):
    prompts, names = random(2, len(at), 3, 8), small.name_ids(NAMES)
    found, w = small.encode_prompted(prompts, WORDS, names, at), in_float64(small)
    for m in range(2):
        for k, name in enumerate(names):
            ids = whole_text(small, prompts, WORDS[m], name, at)
            expected = plain_text(small, w, ids, prompts[m], at)
            np.testing.assert_allclose(found[m, k], expected, atol=1e-5)


@pytest.mark.parametrize("at", AT)
def test_prompts_of_each_class_enter_the_blocks_that_are_named(small, at):
    prompts, names = random(2, 3, len(at), 3, 8), small.name_ids(NAMES)
    found, w = small.encode_class_prompted(prompts, WORDS, names, at), in_float64(small)
    for m in range(2):
        for k, name in enumerate(names):
            ids = whole_text(small, prompts, WORDS[m], name, at)
            expected = plain_text(small, w, ids, prompts[m, k], at)
            np.testing.assert_allclose(found[m, k], expected, atol=1e-5)


@pytest.mark.parametrize("at", AT)
def test_prompts_of_images_enter_the_blocks_that_are_named(small, at):
    prompts, pixels = random(len(at), 2, 12), random(2, 8, 8, 3, seed=1)
    found, w = small.encode_images(pixels, prompts, at), in_float64(small)
    for image, feature in zip(pixels, found, strict=True):
        expected = plain_image(small, w, image, prompts, at)
        np.testing.assert_allclose(feature, expected, atol=1e-5)


@pytest.mark.slow
def test_prompts_enter_the_first_blocks_unless_others_are_named(small):
    names, pixels = small.name_ids(NAMES), random(2, 8, 8, 3, seed=1)
    text, visual = random(2, 3, 3, 8), random(3, 2, 12)
    of_class, first = random(2, 3, 3, 3, 8), (0, 1, 2)
    for encode, *arguments in (
        (small.encode_prompted, text, WORDS, names),
        (small.encode_class_prompted, of_class, WORDS, names),
        (small.encode_images, pixels, visual),
    ):
        np.testing.assert_array_equal(encode(*arguments), encode(*arguments, at=first))
        others = encode(*arguments, at=(0, 2, 3))
        assert float(abs(encode(*arguments) - others).max()) > 1e-2


@pytest.mark.parametrize("at", [(-1, 2), (0, 4), (0,), (0, 1, 2), (0, 0), (0, -1)])
def test_blocks_that_prompts_can_not_enter_are_refused(small, at):
    names, pixels = small.name_ids(NAMES), random(2, 8, 8, 3)
    message = "prompts of 2 layers need as many rising blocks from 0 on, the tower has 4, got"
    with pytest.raises(ValueError, match=message):
        small.encode_prompted(random(2, 2, 3, 8), WORDS, names, at)
    with pytest.raises(ValueError, match=message):
        small.encode_class_prompted(random(2, 3, 2, 3, 8), WORDS, names, at)
    with pytest.raises(ValueError, match=message):
        small.encode_images(pixels, random(2, 2, 12), at)


# ---- Features of texts


def test_whole_texts_are_encoded_as_the_clip_does(world):
    texts = ["a photo of a striped star.", "dot"]
    plain = world.clip.encode_text(world.tokenizer(texts, length=77))
    np.testing.assert_allclose(world.encode_texts(texts), plain, atol=2e-6)
    with pytest.raises(ValueError, match="has 102 tokens, at most 77 fit: shorten it"):
        world.encode_texts(["dot " * 100])


@pytest.mark.slow
def test_prompts_of_images_in_place_of_templates_equal_separate_calls(small):
    prompts, names = random(5, 2, 3, 8), small.name_ids(NAMES)  # five images' own
    words = np.repeat(WORDS[:1], 5, 0)
    together = small.encode_prompted(prompts, words, names)
    assert together.shape == (5, 3, 6)
    for i in range(5):
        alone = small.encode_prompted(prompts[i : i + 1], WORDS[:1], names)
        np.testing.assert_allclose(together[i], alone[0], atol=2e-6)
    assert float(abs(together[0] - together[1]).max()) > 1e-2


@pytest.mark.slow
def test_prompts_of_classes_equal_separate_calls_and_the_plain_forward_pass(world):
    prompts, names = random(2, 3, 2, 2, 128), world.name_ids(NAMES)
    found = world.encode_class_prompted(prompts, WORDS, names)
    for k, name in enumerate(NAMES):
        ids = world.name_ids([name])
        alone = world.encode_prompted(prompts[:, k], WORDS, ids)
        np.testing.assert_allclose(found[:, k], alone[:, 0], atol=2e-6)
        for m in range(2):
            whole = jnp.asarray([whole_text(world, prompts, WORDS[m], ids[0])])
            plain = clip_lib.normalize(world.clip.text(whole, prompts[m, k]))
            np.testing.assert_allclose(found[m, k], plain[0], atol=2e-6)


@pytest.mark.parametrize(
    ("classes", "memory", "expected"),
    [
        # ViT-B/16: 12 blocks leave 4 (5 * 512 + 2048) = 18,432 bytes a token each, so a class of
        # 10 tokens under 4 templates 8,847,360; 3 GiB hold 364 classes.
        (364, 3 * 2**30, (45, 0)),
        (365, 3 * 2**30, (45, 2)),
        (1000, 3 * 2**30, (45, 16)),
        (1000, 16 * 8_847_360, (2, 493)),
        (1000, 1, (1, 1000)),
    ],
)
def test_long_class_lists_are_split_to_fit(classes, memory, expected):
    sizes, one = clip_lib.Transformer(512, 12, 8, 2048), 8_847_360
    chunk, chunks = clip_backbone.split_classes(sizes, 4, classes, 10, memory)
    assert (chunk, chunks) == expected
    kept = classes - chunk * chunks
    assert kept >= 0
    assert memory < one or (kept + chunk * (chunks > 0)) * one <= memory
    assert clip_backbone.TEXT_MEMORY == 3 * 2**30


@pytest.mark.slow
@pytest.mark.parametrize("of_classes", [False, True])
def test_memory_bounds_activations_and_changes_nothing(world, of_classes):
    prompts = jax.random.normal(jax.random.key(0), (2, 1, 2, 128))
    if of_classes:
        prompts = jax.random.normal(jax.random.key(0), (2, 96, 1, 2, 128))
    none = np.zeros((2, 0), np.int32)
    weighting = jax.random.normal(jax.random.key(1), (2, 96, 128))

    ids = np.random.default_rng(0).integers(3, 100, (96, 4)).astype(np.int32)
    ids[:, 3] = world.tokenizer.eot_id

    def weighed(prompts, backbone, memory):
        encode = backbone.encode_class_prompted if of_classes else backbone.encode_prompted
        found = encode(prompts, none, ids, memory=memory)
        return jnp.vdot(found, weighting), found

    def answers(memory):
        function = jax.jit(jax.grad(weighed, has_aux=True), static_argnums=2)
        compiled = function.lower(prompts, world, memory).compile()
        return compiled.memory_analysis().temp_size_in_bytes, *compiled(prompts, world)

    sizes = world.clip.config.text
    tokens = 7 if of_classes else 4  # start and prompt belong to each text
    twelve_classes = 12 * 4 * sizes.depth * 2 * tokens * (5 * sizes.width + sizes.mlp_width)
    bounded, gradient, features = answers(twelve_classes)
    unbounded, at_once, whole = answers(2**30)
    assert unbounded > 96 / 12 * twelve_classes
    assert bounded < 3 * twelve_classes
    np.testing.assert_allclose(features, whole, atol=2e-6)
    scale = float(abs(at_once).max())
    np.testing.assert_allclose(gradient, at_once, atol=1e-5 * scale)


@pytest.mark.slow
def test_bfloat16_templates_have_nearly_the_same_features_and_gradients(world):
    prompts = jax.random.normal(jax.random.key(0), (2, 1, 2, 128))
    ids = world.name_ids(["striped star", "dot"])
    words, weighting = np.array([[5], [6]]), jax.random.normal(jax.random.key(1), (2, 2, 128))

    @jax.jit
    def gradient(prompts, backbone):
        def weighed(prompts):
            found = backbone.encode_prompted(prompts, words, ids)
            return jnp.vdot(found, weighting), found

        return jax.grad(weighed, has_aux=True)(prompts)

    low = jax.tree.map(lambda weights: weights.astype(jnp.bfloat16), world)
    assert (low.dtype, world.dtype) == ("bfloat16", "float32")
    for a, b in zip(gradient(prompts, low), gradient(prompts, world), strict=True):
        assert a.dtype == np.float32
        assert jnp.vdot(a, b) / jnp.linalg.norm(a) / jnp.linalg.norm(b) > 0.999
        assert abs(a - b).max() > 1e-5 * abs(b).max()  # they were computed in low precision


# ---- Weights


def set_weight(clip, name, value):
    """A copy of a clip one of whose parameters was assigned to."""
    clip = nnx.clone(clip)
    *parents, last = name.split(".")
    owner = clip
    for parent in parents:
        owner = getattr(owner, parent)
    getattr(owner, last)[...] = value
    return clip


def answers(backbone):
    """Features of both towers, with and without prompts, and logits of them."""
    pixels, texts = random(2, 8, 8, 3, seed=1), ["a photo of a dot.", "striped star"]
    image = backbone.encode_images(pixels)
    return {
        "prompted images": backbone.encode_images(pixels, random(2, 2, 12)),
        "logits": backbone.logit_scale * image @ backbone.encode_texts(texts).T,
        "names": backbone.encode_prompted(random(2, 2, 3, 8), WORDS, backbone.name_ids(NAMES)),
        "words": backbone.embed_words(WORDS),
    }


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("text.blocks.qkv.kernel", ["logits", "names"]),
        ("text.token_embedding", ["logits", "names", "words"]),
        ("vision.blocks.mlp_norm.bias", ["prompted images", "logits"]),
        ("log_logit_scale", ["logits"]),
    ],
)
def test_a_replaced_weight_acts_as_one_that_was_set(small, name, changed):
    value = small.weights()[name] + 0.5
    before = {key: np.asarray(weight).copy() for key, weight in small.weights().items()}
    plain, digest = answers(small), small.weights_hash()
    replaced = small.with_weights({name: value})
    expected = answers(ClipBackbone(set_weight(small.clip, name, value), small.tokenizer))
    for kind, found in answers(replaced).items():
        np.testing.assert_array_equal(found, expected[kind])
        assert np.array_equal(found, plain[kind]) == (kind not in changed)
    np.testing.assert_array_equal(replaced.weights()[name], value)
    # The original is as it was.
    assert small.weights().keys() == before.keys()
    for key, weight in small.weights().items():
        np.testing.assert_array_equal(weight, before[key])
    assert small.weights_hash() == digest != replaced.weights_hash()
    for kind, found in answers(small).items():
        np.testing.assert_array_equal(found, plain[kind])


def test_nothing_replaced_is_the_same_backbone(small):
    same = small.with_weights({})
    assert same.weights_hash() == small.weights_hash() == clip_lib.weights_hash(small.clip)
    assert same.tokenizer is small.tokenizer
    assert same.clip.config == small.clip.config


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.blocks.qkv.kernels", "text.blocks.qkv.kernels is no such weight in this CLIP, got"),
        ("qkv.kernel", "qkv.kernel is no such weight in this CLIP"),
        ("text.projection", r"text.projection is \(8, 6\) in this CLIP, got \(6, 8\)"),
    ],
)
def test_weights_that_the_clip_does_not_have_are_refused(small, name, message):
    with pytest.raises(ValueError, match=message):
        small.with_weights({name: jnp.zeros((6, 8))})


@pytest.mark.slow
def test_a_replaced_weight_can_be_differentiated(small):
    """Against central differences of the plain forward pass in float64."""
    name, w = "text.blocks.mlp_in.bias", in_float64(small)
    prompts, ids = random(1, 2, 3, 8), small.name_ids(NAMES[:1])
    direction = np.random.default_rng(3).normal(size=w[name].shape)
    weighting = np.random.default_rng(4).normal(size=6)

    @jax.jit
    @jax.grad
    def gradient(value, backbone):
        changed = backbone.with_weights({name: value})
        return jnp.vdot(changed.encode_prompted(prompts, WORDS[:1], ids)[0, 0], weighting)

    def at(step):
        changed = w | {name: w[name] + step * direction}
        text = whole_text(small, prompts, WORDS[0], ids[0])
        return plain_text(small, changed, text, prompts[0], (0, 1)) @ weighting

    found = (np.asarray(gradient(small.weights()[name], small)) * direction).sum()
    assert found == pytest.approx((at(1e-5) - at(-1e-5)) / 2e-5, rel=1e-3)


def test_weights_go_through_jit_as_an_argument(small):
    names, traces = small.name_ids(NAMES), []

    @jax.jit
    def encode(backbone, prompts):
        traces.append(None)
        return backbone.encode_prompted(prompts, WORDS, names)

    prompts = random(2, 1, 3, 8)
    changed = small.with_weights({"text.projection": small.weights()["text.projection"] + 0.5})
    for backbone in (small, changed):
        expected = backbone.encode_prompted(prompts, WORDS, names)
        np.testing.assert_allclose(encode(backbone, prompts), expected, atol=2e-6)
    assert len(traces) == 1  # other weights are other data, not another program
    assert float(abs(encode(small, prompts) - encode(changed, prompts)).max()) > 1e-2
    constants = jax.make_jaxpr(encode)(small, prompts).consts
    assert sum(np.size(constant) for constant in constants) < 100
    returned = jax.jit(lambda backbone: backbone)(small)
    assert returned.weights_hash() == small.weights_hash()
    assert len(jax.tree.leaves(small)) == len(small.weights())


# ---- What a method may ask


def test_the_embedded_clip_says_what_it_is(world):
    assert isinstance(world, ClipBackbone) and isinstance(world, backbone_lib.Backbone)
    assert world.sizes._asdict() == {
        "embed_width": 128, "text_width": 128, "text_depth": 4, "vision_width": 192,
        "vision_depth": 6, "image_size": 32,
    }  # fmt: skip
    assert world.mean == (0.48145466, 0.4578275, 0.40821073)  # OpenAI's
    assert world.std == (0.26862954, 0.26130258, 0.27577711)
    assert (world.dtype, world.profile, world.logit_bias) == ("float32", "small", 0)
    log_scale = float(world.weights()["log_logit_scale"])
    assert float(world.logit_scale) == pytest.approx(np.exp(log_scale), rel=1e-6)
    assert world.token_embeddings().shape == (len(world.vocabulary()), 128)
    assert backbone_lib.load("world", jnp.bfloat16).dtype == "bfloat16"


def test_settings_are_read_without_the_weights(monkeypatch):
    monkeypatch.setattr(clip_lib.weights, "read", None)
    assert backbone_lib.read_settings("world") == (Preprocessing(32), "small")


def test_words_and_names_are_the_tokenizers(world):
    ids = world.word_ids("a photo of a")
    assert "".join(world.vocabulary()[i] for i in ids) == "a</w>photo</w>of</w>a</w>"
    np.testing.assert_array_equal(
        world.embed_words(np.array(ids)), np.asarray(world.token_embeddings())[ids]
    )
    end = world.tokenizer.eot_id
    star, dot = world.name_ids(["striped star", "dot"], suffix=", a shape.").tolist()
    assert star[: star.index(end)] == world.word_ids("striped star, a shape.")
    assert dot[: dot.index(end)] == world.word_ids("dot, a shape.")
    plain = world.name_ids(["sea_or_lake"]).tolist()[0]
    assert plain == [*world.word_ids("sea or lake."), end]


def test_the_profile_is_that_of_the_configuration(small):
    assert small.profile == ""
    config = dataclasses.replace(small.clip.config, profile="small")
    assert ClipBackbone(clip_lib.Clip(config, nnx.Rngs(0)), small.tokenizer).profile == "small"
