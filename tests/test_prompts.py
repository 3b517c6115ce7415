"""Semantic templates: layout, initialisation and features, against the towers' plain paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdc_jax import backbone as backbone_lib
from cdc_jax import clip as clip_lib
from cdc_jax import methods
from cdc_jax.methods import prompts
from cdc_jax.methods.prompts import (
    ClassPrompts,
    CoupledPrompts,
    HandCrafted,
    IndependentPrompts,
    SharedPrompts,
)
from cdc_jax.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def world():
    return backbone_lib.load("world")


def initialize(world, kind=SharedPrompts, seed=0, **settings):
    made = kind(prompts.Templates(**settings), world)
    return made, made.initialize(jax.random.key(seed), world, 3)


def features(world, kind, parameters, names):
    ids = jnp.asarray(world.name_ids(names, kind.templates.suffix))
    anchors = jnp.full((1, len(names), 128), jnp.nan)  # what is learned does not read them
    return kind.text_features(world, parameters, prompts.Classes(ids, anchors))


def plain(world, texts):
    """CLIP's own features of whole texts."""
    return world.clip.encode_text(world.tokenizer(texts, length=77))


def test_where_nothing_is_learned_there_are_no_prompts(world):
    kind, parameters = initialize(world, HandCrafted, phrases=("a photo of a",), context=0)
    assert parameters == {}
    assert kind.visual(parameters) is None
    assert kind.vectors(parameters) is None
    assert not kind.of_classes and not kind.changes_images
    anchors = jax.random.normal(jax.random.key(0), (2, 3, 128))
    classes = prompts.Classes(jnp.zeros((3, 4), int), anchors)
    np.testing.assert_array_equal(kind.text_features(world, parameters, classes), anchors)


@pytest.mark.slow
@pytest.mark.parametrize("context", [2, 4])
def test_initial_prompts_are_the_phrase_itself(world, context):
    names = ["striped star", "sea_or_lake", "dot"]
    kind, parameters = initialize(world, phrases=("a photo of a",), context=context)
    assert parameters.keys() == {"context"}
    assert parameters["context"].shape == (1, 1, context, 128)
    expected = plain(world, [f"a photo of a {n.replace('_', ' ')}." for n in names])
    np.testing.assert_allclose(features(world, kind, parameters, names)[0], expected, atol=2e-6)


def test_the_words_that_are_not_learned_stay_between_prompts_and_name(world):
    kind, _ = initialize(world, phrases=("a photo of a", "a shape with a"), context=3)
    expected = [world.word_ids("a photo of a")[3:], world.word_ids("a shape with a")[3:]]
    np.testing.assert_array_equal(kind.fixed_words, expected)


@pytest.mark.slow
def test_the_templates_own_suffix(world):
    kind, parameters = initialize(
        world, phrases=("a photo of a",), context=3, suffix=", a type of pet."
    )
    expected = plain(world, ["a photo of a cat, a type of pet."])
    np.testing.assert_allclose(features(world, kind, parameters, ["cat"])[0], expected, atol=2e-6)


@pytest.mark.slow
def test_templates_differ_by_noise_or_by_phrase(world):
    _, same = initialize(world, phrases=("a photo of a",) * 3, context=2, noise=0.02)
    spread = same["context"][1:, 0] - same["context"][:1, 0]
    assert 0.015 < float(spread.std()) < 0.025
    kind, other = initialize(
        world, phrases=("a photo of a", "a shape with a"), context=2, noise=0.0
    )
    expected = plain(world, ["a shape with a dot."])
    np.testing.assert_allclose(features(world, kind, other, ["dot"])[1], expected, atol=2e-6)


@pytest.mark.slow
def test_deep_and_visual_prompts_have_the_published_shapes_and_draws(world):
    kind, parameters = initialize(
        world, CoupledPrompts, phrases=("a photo of a",) * 2, context=2, layers=3
    )
    assert kind.changes_images
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


def test_coupled_prompts_start_from_the_text_prompts_of_the_same_key(world):
    settings = {"phrases": ("a photo of a",) * 2, "context": 2, "layers": 3}
    _, coupled = initialize(world, CoupledPrompts, seed=7, **settings)
    _, shared = initialize(world, SharedPrompts, seed=7, **settings)
    np.testing.assert_array_equal(coupled["context"], shared["context"])
    _, other = initialize(world, SharedPrompts, seed=8, **settings)
    assert not np.array_equal(other["context"], shared["context"])


def test_independent_visual_prompts_are_drawn_apart_from_the_text_prompts(world):
    settings = {"phrases": ("a photo of a",) * 2, "context": 2, "layers": 3}
    kind, parameters = initialize(world, IndependentPrompts, **settings)
    assert kind.changes_images and parameters.keys() == {"context", "visual"}
    _, shared = initialize(world, SharedPrompts, **settings)
    np.testing.assert_array_equal(parameters["context"], shared["context"])
    visual = kind.visual(parameters)
    assert visual.shape == (2, 3, 2, 192)
    assert abs(float(visual.std()) - 0.02) < 1e-3 and abs(float(visual.mean())) < 2e-3
    assert not np.array_equal(visual[0], visual[1])
    np.testing.assert_array_equal(kind.vectors(parameters), parameters["context"][:, 0])


class Abstract(backbone_lib.Backbone):
    """A backbone of which only sizes and words are asked."""

    sizes = backbone_lib.Sizes(512, 512, 12, 768, 12, 224)  # ViT-B/16
    preprocessing = Preprocessing.of(224)
    mean, std = preprocessing.mean, preprocessing.std
    dtype, profile, logit_scale, logit_bias = "float32", "", jnp.ones(()), 0.0

    def word_ids(self, phrase):
        return [1, 2, 3, 4]

    def embed_words(self, ids):
        return jnp.zeros((*ids.shape, 512))


def test_maple_in_vit_b16_has_the_published_number_of_parameters():
    # J = 9, d = 2: 9 * 2 * 512 text, 9 * (512 * 768 + 768) coupling.
    vit = Abstract()
    kind = CoupledPrompts(prompts.Templates(("a photo of a",), 2, layers=9), vit)
    shapes = jax.eval_shape(lambda: kind.initialize(jax.random.key(0), vit, 3))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 3_555_072


@pytest.mark.parametrize(("layers", "expected"), [(9, 46_080), (3, 15_360)])
def test_ivlp_in_vit_b16_has_the_published_number_of_parameters(layers, expected):
    vit = Abstract()
    kind = IndependentPrompts(prompts.Templates(("a photo of a",), 4, layers=layers), vit)
    shapes = jax.eval_shape(lambda: kind.initialize(jax.random.key(0), vit, 3))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


class Shallow(Abstract):
    sizes = Abstract.sizes._replace(vision_depth=5)


def test_the_shallower_tower_bounds_the_layers_of_coupled_prompts():
    templates = prompts.Templates(("a photo of a",), 2, layers=6)
    SharedPrompts(templates, Shallow())
    for kind in (CoupledPrompts, IndependentPrompts):
        with pytest.raises(ValueError, match="layers=6 exceeds the 5 layers of this backbone"):
            kind(templates, Shallow())


def test_visual_prompts_are_the_coupling_of_the_text_prompts(world):
    kind, parameters = initialize(
        world, CoupledPrompts, phrases=("a photo of a",) * 2, context=2, layers=3
    )
    made = np.asarray(kind.visual(parameters), np.float64)
    context, kernel, bias = (
        np.asarray(x, np.float64)
        for x in (parameters["context"], *(parameters["coupling"][k] for k in ("kernel", "bias")))
    )
    for m in range(2):
        for j in range(3):
            np.testing.assert_allclose(
                made[m, j], context[m, j] @ kernel[m, j] + bias[m, j], rtol=1e-4, atol=1e-5
            )


def test_vectors_that_can_be_read_as_words_are_those_of_the_first_layer(world):
    settings = {"phrases": ("a photo of a",) * 2, "context": 2, "layers": 3}
    for kind in (SharedPrompts, CoupledPrompts):
        made, parameters = initialize(world, kind, **settings)
        np.testing.assert_array_equal(made.vectors(parameters), parameters["context"][:, 0])
    made, parameters = initialize(world, ClassPrompts, **settings)
    assert made.vectors(parameters) is None  # those of one class are not all classes'


@pytest.mark.slow
def test_image_features_by_template(world):
    names = ("striped star", "dot")
    support = methods.Support(world.encode_texts(names), np.arange(2))
    views = jax.random.normal(jax.random.key(1), (2, 3, 32, 32, 3))

    def features(settings, views):
        choice = methods.configure(f"cdc@prompts.templates=2;{settings}", "small")
        method = methods.build(choice, world, names, "a photo of a {}.", support)
        learned = method.initialize(jax.random.key(0), world, support)
        return jax.jit(method.image_features)(world, learned, views), method, learned

    text_only, method, learned = features("prompts.context=2", views)
    assert not method.changes_images
    np.testing.assert_allclose(text_only[1], world.clip.encode_image(views[1]), atol=1e-6)
    assert method.image_features(world, learned, views[:1]).shape == (1, 3, 128)
    both = "prompts.context=2;prompts.layers=2;prompts.modality=multimodal"
    shared, method, learned = features(both, views[:1])
    assert method.changes_images
    visual = method.prompts.visual(learned.trained["prompts"])
    for m in range(2):
        alone = clip_lib.normalize(world.clip.vision(views[0], visual[m]))
        np.testing.assert_allclose(shared[m], alone, atol=2e-6)
    assert float(abs(shared[0] - shared[1]).max()) > 1e-3


@pytest.mark.slow
def test_class_specific_templates_are_each_classs_own(world):
    names = ["striped star", "dot", "sea_or_lake"]
    settings = {"phrases": ("a photo of a", "a shape with a"), "context": 2, "layers": 2}
    kind, parameters = initialize(world, ClassPrompts, **settings)
    assert kind.of_classes
    assert parameters["context"].shape == (2, 3, 2, 2, 128)
    of_all, shared = initialize(world, SharedPrompts, **settings)
    np.testing.assert_allclose(  # all start where the shared ones do
        features(world, kind, parameters, names),
        features(world, of_all, shared, names),
        atol=2e-6,
    )
    moved = jax.random.normal(jax.random.key(1), parameters["context"].shape)
    found = features(world, kind, {"context": moved}, names)
    for k, name in enumerate(names):
        alone = features(world, of_all, {"context": moved[:, k]}, [name])
        np.testing.assert_allclose(found[:, k], alone[:, 0], atol=2e-6)


def test_padded_phrases_stand_behind_vectors_of_zero(world):
    kind, parameters = initialize(
        world, phrases=("a dot",) * 2, context=5, layers=2, noise=0.0, padded=True
    )
    context = np.asarray(parameters["context"])
    assert context.shape == (2, 2, 5, 128) and kind.fixed_words.shape == (2, 0)
    words = world.embed_words(np.array(world.word_ids("a dot")))
    np.testing.assert_array_equal(context[:, 0, 3:], [words, words])
    assert not context[:, 0, :3].any() and not context[:, 1].any()
    longer, parameters = initialize(world, phrases=("a dot",), context=1, padded=True)
    np.testing.assert_array_equal(parameters["context"][0, 0], words[:1])
    assert longer.fixed_words.tolist() == [world.word_ids("dot")]
    _, parameters = initialize(world, phrases=("",), context=3, padded=True)
    assert parameters["context"].shape == (1, 1, 3, 128) and not parameters["context"].any()


@pytest.mark.parametrize(
    "kind", [HandCrafted, SharedPrompts, ClassPrompts, CoupledPrompts, IndependentPrompts]
)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"phrases": (), "context": 2}, "at least one template is needed, got no phrases"),
        ({"phrases": ("a",), "context": 2}, "phrase 'a' has 1 tokens, context asks for 2"),
        ({"phrases": ("a photo of a", "a dot"), "context": 2}, "equally many tokens, got"),
        (
            {"phrases": ("a photo of a",), "context": 2, "layers": 5},
            "layers=5 exceeds the 4 layers",
        ),
        ({"phrases": ("a photo of a",), "context": 2, "layers": 0}, "layers at least 1, got 2 and"),
        ({"phrases": ("a photo of a",), "context": -1}, "context must be at least 0"),
    ],
)
def test_refusals(world, kind, settings, message):
    with pytest.raises(ValueError, match=message):
        initialize(world, kind, **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("prompts.modality=image", "unknown prompts.modality 'image': choose one of text, multi"),
        (
            "prompts.modality=multimodal;prompts.class_specific=True",
            "of text only, got modality 'multimodal': set prompts.class_specific=False",
        ),
    ],
)
def test_kinds_that_there_are_not_are_refused(world, changes, message):
    support = methods.Support(jnp.ones((2, 128)), np.arange(2))
    choice = methods.configure(f"coop@{changes}")
    with pytest.raises(ValueError, match=message):
        methods.build(choice, world, ("star", "dot"), "a photo of a {}.", support)


def test_cycle():
    assert prompts.cycle(["a", "b"], 3) == ("a", "b", "a")
