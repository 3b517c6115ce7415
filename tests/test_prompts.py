"""Semantic templates: layout, initialisation and features, against the towers' plain paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdc_jax import clip as clip_lib
from cdc_jax import prompts


@pytest.fixture(scope="module")
def world():
    return clip_lib.load("world")


def initialize(world, seed=0, **settings):
    templates = prompts.Templates(**settings)
    return templates, prompts.initialize(jax.random.key(seed), templates, *world, classes=3)


def features(world, templates, parameters, names):
    model, tokenizer = world
    fixed = templates.words(tokenizer)[:, templates.context :]
    ids = jnp.asarray(tokenizer.names(names, templates.suffix))
    return prompts.text_features(model, parameters, tokenizer.start_id, fixed, ids)


def test_where_nothing_is_learned_there_are_no_prompts(world):
    assert initialize(world, phrases=("a photo of a",), context=0)[1] == {}
    _, probe = initialize(world, phrases=("a photo of a",), context=0, modality="probe")
    assert probe["classifier"].shape == (1, 3, 128)


@pytest.mark.parametrize("context", [2, 4])
def test_initial_prompts_are_the_phrase_itself(world, context):
    names = ["striped star", "sea_or_lake", "dot"]
    templates, parameters = initialize(world, phrases=("a photo of a",), context=context)
    assert parameters["context"].shape == (1, 1, context, 128)
    model, tokenizer = world
    plain = model.encode_text(
        tokenizer([f"a photo of a {n.replace('_', ' ')}." for n in names], length=77)
    )
    np.testing.assert_allclose(features(world, templates, parameters, names)[0], plain, atol=2e-6)


def test_the_templates_own_suffix(world):
    templates, parameters = initialize(
        world, phrases=("a photo of a",), context=3, suffix=", a type of pet."
    )
    model, tokenizer = world
    plain = model.encode_text(tokenizer(["a photo of a cat, a type of pet."]))
    np.testing.assert_allclose(features(world, templates, parameters, ["cat"])[0], plain, atol=2e-6)


def test_templates_differ_by_noise_or_by_phrase(world):
    _, same = initialize(world, phrases=("a photo of a",) * 3, context=2, noise=0.02)
    spread = same["context"][1:, 0] - same["context"][:1, 0]
    assert 0.015 < float(spread.std()) < 0.025
    templates, other = initialize(
        world, phrases=("a photo of a", "a shape with a"), context=2, noise=0.0
    )
    model, tokenizer = world
    plain = model.encode_text(tokenizer(["a shape with a dot."]))
    np.testing.assert_allclose(features(world, templates, other, ["dot"])[1], plain, atol=2e-6)


def test_deep_and_visual_prompts_have_the_published_shapes_and_draws(world):
    _, parameters = initialize(
        world, phrases=("a photo of a",) * 2, context=2, layers=3, modality="multimodal"
    )
    assert parameters["context"].shape == (2, 3, 2, 128)
    kernel, bias = parameters["coupling"]["kernel"], parameters["coupling"]["bias"]
    assert kernel.shape == (2, 3, 128, 192)
    assert bias.shape == (2, 3, 192)
    assert float(abs(kernel).max()) <= 128**-0.5
    assert abs(float(kernel.std()) - 128**-0.5 / np.sqrt(3)) < 1e-3
    assert np.array_equal(kernel[:, 1], kernel[:, 2])  # copies of one draw
    assert not np.array_equal(kernel[:, 0], kernel[:, 1])
    assert not np.array_equal(kernel[0], kernel[1])
    assert abs(float(parameters["context"][:, 1:].std()) - 0.02) < 2e-3


def test_maple_in_vit_b16_has_the_published_number_of_parameters():
    # J = 9, d = 2: 9 * 2 * 512 text, 9 * (512 * 768 + 768) coupling.
    sizes = clip_lib.Transformer(512, 12, 8, 2048)
    vision = clip_lib.Transformer(768, 12, 12, 3072)
    config = clip_lib.ClipConfig(vision, sizes, 512, 224, 16, 49408, 77, 49407)

    class Abstract:
        text = type("Text", (), {"embed": staticmethod(lambda ids: jnp.zeros((*ids.shape, 512)))})

    Abstract.config = config
    tokenizer = type("Tokenizer", (), {"words": staticmethod(lambda text: [1, 2, 3, 4])})
    templates = prompts.Templates(("a photo of a",), 2, layers=9, modality="multimodal")
    shapes = jax.eval_shape(
        lambda: prompts.initialize(jax.random.key(0), templates, Abstract, tokenizer, 3)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 3_555_072


def test_visual_prompts_are_the_coupling_of_the_text_prompts(world):
    _, parameters = initialize(
        world, phrases=("a photo of a",) * 2, context=2, layers=3, modality="multimodal"
    )
    made = np.asarray(prompts.visual_prompts(parameters), np.float64)
    context, kernel, bias = (
        np.asarray(x, np.float64)
        for x in (parameters["context"], *(parameters["coupling"][k] for k in ("kernel", "bias")))
    )
    for m in range(2):
        for j in range(3):
            np.testing.assert_allclose(
                made[m, j], context[m, j] @ kernel[m, j] + bias[m, j], rtol=1e-4, atol=1e-5
            )


def test_image_features_by_template(world):
    model, _ = world
    views = jax.random.normal(jax.random.key(1), (2, 3, 32, 32, 3))
    _, text_only = initialize(world, phrases=("a photo of a",) * 2, context=2)
    np.testing.assert_allclose(
        prompts.image_features(model, text_only, views)[1], model.encode_image(views[1]), atol=1e-6
    )
    assert prompts.image_features(model, text_only, views[:1]).shape == (1, 3, 128)
    _, both = initialize(
        world, phrases=("a photo of a",) * 2, context=2, layers=2, modality="multimodal"
    )
    visual = prompts.visual_prompts(both)
    shared = prompts.image_features(model, both, views[:1])
    for m in range(2):
        alone = clip_lib.normalize(model.vision(views[0], visual[m]))
        np.testing.assert_allclose(shared[m], alone, atol=2e-6)
    assert float(abs(shared[0] - shared[1]).max()) > 1e-3


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
    chunk, chunks = prompts.split_classes(sizes, 4, classes, 10, memory)
    assert (chunk, chunks) == expected
    kept = classes - chunk * chunks
    assert kept >= 0
    assert memory < one or (kept + chunk * (chunks > 0)) * one <= memory


def test_memory_bounds_activations_and_changes_nothing(world):
    model, tokenizer = world
    parameters = {"context": jax.random.normal(jax.random.key(0), (2, 1, 2, 128))}
    none = np.zeros((2, 0), np.int32)
    weighting = jax.random.normal(jax.random.key(1), (2, 96, 128))

    ids = np.random.default_rng(0).integers(3, 100, (96, 4)).astype(np.int32)
    ids[:, 3] = tokenizer.eot_id

    def weighed(parameters, model, memory):
        found = prompts.text_features(model, parameters, tokenizer.start_id, none, ids, memory)
        return jnp.vdot(found, weighting), found

    def answers(memory):
        function = jax.jit(jax.grad(weighed, has_aux=True), static_argnums=2)
        compiled = function.lower(parameters, model, memory).compile()
        return compiled.memory_analysis().temp_size_in_bytes, *compiled(parameters, model)

    sizes = model.config.text
    twelve_classes = 12 * 4 * sizes.depth * 2 * 4 * (5 * sizes.width + sizes.mlp_width)
    bounded, gradient, features = answers(twelve_classes)
    unbounded, at_once, whole = answers(2**30)
    assert unbounded > 96 / 12 * twelve_classes
    assert bounded < 3 * twelve_classes
    np.testing.assert_allclose(features, whole, atol=2e-6)
    scale = float(abs(at_once["context"]).max())
    np.testing.assert_allclose(gradient["context"], at_once["context"], atol=1e-5 * scale)


def test_bfloat16_templates_have_nearly_the_same_features_and_gradients(world):
    parameters = {"context": jax.random.normal(jax.random.key(0), (2, 1, 2, 128))}
    _, tokenizer = world
    ids = jnp.asarray(tokenizer.names(["striped star", "dot"]))
    words, weighting = np.array([[5], [6]]), jax.random.normal(jax.random.key(1), (2, 2, 128))

    @jax.jit
    def gradient(parameters, model):
        def weighed(parameters):
            found = prompts.text_features(model, parameters, tokenizer.start_id, words, ids)
            return jnp.vdot(found, weighting), found

        return jax.grad(weighed, has_aux=True)(parameters)

    low = jax.tree.map(lambda weights: weights.astype(jnp.bfloat16), world[0])
    for a, b in zip(
        *(jax.tree.leaves(gradient(parameters, m)) for m in (low, world[0])), strict=True
    ):
        assert a.dtype == np.float32
        assert jnp.vdot(a, b) / jnp.linalg.norm(a) / jnp.linalg.norm(b) > 0.999
        assert abs(a - b).max() > 1e-5 * abs(b).max()  # they were computed in low precision


def test_class_specific_templates_are_each_classs_own(world):
    names = ["striped star", "dot", "sea_or_lake"]
    settings = {"phrases": ("a photo of a", "a shape with a"), "context": 2, "layers": 2}
    templates, parameters = initialize(world, class_specific=True, **settings)
    assert parameters["context"].shape == (2, 3, 2, 2, 128)
    _, shared = initialize(world, **settings)
    np.testing.assert_allclose(  # all start where the shared ones do
        features(world, templates, parameters, names),
        features(world, templates, shared, names),
        atol=2e-6,
    )
    moved = jax.random.normal(jax.random.key(1), parameters["context"].shape)
    found = features(world, templates, {"context": moved}, names)
    for k, name in enumerate(names):
        alone = features(world, templates, {"context": moved[:, k]}, [name])
        np.testing.assert_allclose(found[:, k], alone[:, 0], atol=2e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"phrases": (), "context": 2}, "at least one template"),
        ({"phrases": ("a",), "context": 2}, "phrase 'a' has 1 tokens, context asks for 2"),
        ({"phrases": ("a photo of a", "a dot"), "context": 2}, "equally many tokens, got"),
        ({"phrases": ("a photo of a",), "context": 2, "layers": 5}, "this CLIP has 4"),
        ({"phrases": ("a photo of a",), "context": 2, "modality": "image"}, "got 'image'"),
        ({"phrases": ("a photo of a",), "context": -1}, "context must be at least 0"),
        (
            {"phrases": ("a",), "context": 1, "modality": "multimodal", "class_specific": True},
            "of text only, got modality 'multimodal': set prompts.class_specific=False",
        ),
    ],
)
def test_refusals(world, settings, message):
    with pytest.raises(ValueError, match=message):
        initialize(world, **settings)


def test_cycle():
    assert prompts.cycle(["a", "b"], 3) == ("a", "b", "a")
