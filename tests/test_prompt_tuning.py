"""Prompt tuning and the linear probe, against CLIP's plain forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdc_jax import backbone, methods
from cdc_jax.methods import losses

NAMES = ("striped star", "solid heart", "dotted key")
TEMPLATE = "a photo of a {}."


@pytest.fixture(scope="module")
def world():
    return backbone.load("world")


@pytest.fixture(scope="module")
def support(world):
    """Three shots whose mean logit under the plain template is known."""
    features = world.encode_texts([TEMPLATE.format(name) for name in NAMES])
    return methods.Support(features, np.arange(3))


def create(world, support, name, profile="small", template=TEMPLATE, **changes):
    choice = methods.configure(name, profile)
    choice.config.unlock().update_from_flattened_dict(changes)
    method = methods.build(choice, world, NAMES, template, support)
    return method, method.initialize(jax.random.key(0), world, support)


def logits_of(method, world, learned, views):
    image = method.image_features(world, learned, views)
    classes = method.classes(world, NAMES)
    return method.forward(world, learned, classes, image).logits


@pytest.mark.slow
@pytest.mark.parametrize("template", [TEMPLATE, "{} picture.", "a view of a {}, a type of shape."])
def test_zero_shot_is_clip(world, support, template):
    method, learned = create(world, support, "zero_shot", "", template)
    assert not jax.tree.leaves(learned)
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    logits = logits_of(method, world, learned, images[None])
    texts = world.tokenizer([template.format(name) for name in NAMES], length=77)
    clip = world.clip
    plain = clip.logit_scale * (clip.encode_image(images) @ clip.encode_text(texts).T)
    np.testing.assert_allclose(logits[:, 0], plain, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("evidence", "softplus", "kind", "softplus"),
        ("fusion", "pool", "fusion", "pool"),
        ("template_weight", 0.5, "template_weight", 0.5),
        ("fused_weight", 2.0, "fused_weight", 2.0),
        ("kl_weight", 0.3, "kl_weight", 0.3),
        ("centred", True, "centred", True),
        ("learned", True, "learned", True),
        ("uncertainty", "vacuity", "uncertainty", "vacuity"),
    ],
)
def test_settings_reach_the_evidential_head(world, support, key, value, field, expected):
    head = create(world, support, f"cdc@head.{key}={value}")[0].head
    assert getattr(head, field) == expected
    assert getattr(create(world, support, "cdc")[0].head, field) != expected


def test_the_shift_is_a_multiple_of_the_mean_logit_of_the_shots(world, support):
    shifts = [
        create(world, support, f"cdc@head.shift_multiple={m}")[0].head.shift for m in (1.0, 1.5)
    ]
    features = np.asarray(support.features, np.float64)
    mean = float(world.logit_scale) * (features @ features.T).mean()  # texts are their own images
    np.testing.assert_allclose(shifts, [mean, 1.5 * mean], rtol=1e-5)


@pytest.mark.slow
def test_the_margin_reaches_the_loss(world, support):
    images, labels = jnp.ones((2, 32, 32, 3)), jnp.array([0, 1])
    found = []
    for margin in (0.0, 0.3):
        method, learned = create(world, support, f"vsd@loss.margin={margin}")
        classes = method.classes(world, NAMES)
        parts = methods.objective(method, world, learned, classes, images[None], labels, 0.5)[1]
        found.append(float(parts["decoupling"]))
    assert found[0] - found[1] == pytest.approx(4 * 0.3, abs=1e-4)  # all are more alike than that


@pytest.mark.slow
def test_objective_of_coop_with_consistency(world, support):
    method, learned = create(world, support, "coop_con")
    context = learned.trained["prompts"]["context"]
    noise = jax.random.normal(jax.random.key(2), context.shape)
    learned = learned.replace(trained={"prompts": {"context": context + noise}})
    classes = method.classes(world, NAMES)
    images, labels = jax.random.normal(jax.random.key(1), (4, 32, 32, 3)), jnp.array([0, 1, 2, 0])
    total, parts = methods.objective(method, world, learned, classes, images[None], labels, 0.5)
    text = method.class_features(world, learned, classes)
    logits = world.logit_scale * world.clip.encode_image(images) @ text[0].T
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    anchors = np.asarray(support.features)
    consistency = float(np.mean(1 - (np.asarray(text[0]) * anchors).sum(-1)))
    assert consistency > 1e-3
    assert float(parts["consistency"]) == pytest.approx(consistency, rel=1e-3)
    assert float(total) == pytest.approx(
        float(expected) + method.config.loss.consistency_weight * consistency, rel=1e-4
    )
    accuracy = float((logits.argmax(-1) == labels).mean())
    assert float(parts["accuracy"]) == accuracy
    assert "decoupling" not in parts  # one template can't differ from others


@pytest.mark.slow
def test_objective_of_cdc_is_the_sum_of_its_parts(world, support):
    method, learned = create(world, support, "cdc", "", **{"prompts.layers": 3})
    classes = method.classes(world, NAMES)
    views = jax.random.normal(jax.random.key(1), (4, 2, 32, 32, 3))
    labels = jnp.array([2, 0])

    # Nearly all of the time goes into compiling, of which level 0 does least.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def answers(world, trained):
        def objective(trained):
            whole = learned.replace(trained=trained)
            return methods.objective(method, world, whole, classes, views, labels, 1.0)[0]

        return jax.value_and_grad(objective)(trained)

    total, gradient = answers(world, learned.trained)
    text = method.class_features(world, learned, classes)
    image = method.image_features(world, learned, views)
    logits = world.logit_scale * np.einsum("mbd,mkd->bmk", image, text)
    head = learned.part("head")
    expected = method.head.loss(head, jnp.asarray(logits), labels, 1.0).mean()
    expected += 0.1 * losses.pairwise(text)
    expected += 8 * losses.cosine_consistency(text, classes.anchors)
    assert float(total) == pytest.approx(float(expected), rel=1e-4)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert float(abs(leaf).max()) > 0


def test_an_ensemble_is_the_renormalised_mean_of_features(world, support):
    method, learned = create(world, support, "zero_shot_ensemble")
    text = method.class_features(world, learned, method.classes(world, NAMES))
    each = [
        world.encode_texts([t.format(name) for name in NAMES])
        for t in method.config.prompts.anchors.split("|")
    ]
    mean = np.mean(np.asarray(each, np.float64), 0)
    expected = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(text[0], expected, atol=1e-6)


def test_own_anchors_and_the_phrase_that_the_training_images_pick(world):
    choice = methods.configure("coop_con_picked", "small")
    phrases = choice.config.prompts.phrases.split("|")
    texts = [world.encode_texts([f"{p} {name}." for name in NAMES]) for p in phrases]
    # Images that the third phrase knows: its own text features; the labels are right for it only.
    wrong = np.asarray(texts[2])[[1, 2, 0]]
    seen = jnp.asarray(np.concatenate([np.asarray(texts[2]), wrong]))
    predicted = [np.asarray(seen @ t.T).argmax(-1) for t in texts]
    support = methods.Support(seen, predicted[2])
    best = int(np.argmax([(p == support.labels).mean() for p in predicted]))
    method = methods.build(choice, world, NAMES, TEMPLATE, support)
    assert (
        method.config.prompts.phrases
        == phrases[best]
        == method.facts(methods.Learned({}, {}))["phrases"]
    )
    assert not method.config.prompts.pick
    np.testing.assert_allclose(method.classes(world, NAMES).anchors[0], texts[best], atol=1e-6)
    # Its evidence would be shifted by what this phrase gives these images.
    trusted = methods.configure("coop_con_picked@head.name=evidential;head.fusion=pool", "small")
    method = methods.build(trusted, world, NAMES, TEMPLATE, support)
    expected = float(world.logit_scale * (seen @ texts[best].T).mean())
    assert method.head.shift == pytest.approx(expected, rel=1e-5)


def test_another_tasks_template_replaces_only_the_tasks_own(world, support):
    names, other = ["a_b c", "star"], "the {} there."
    for row, expected in {
        "zero_shot": ["the a b c there.", "the star there."],
        "zero_shot_aspects": ["a photo of a a b c.", "a photo of a star."],
    }.items():
        method, _ = create(world, support, row)
        anchors = method.classes(world, names, other).anchors
        np.testing.assert_allclose(anchors[0], world.encode_texts(expected), atol=1e-6)


@pytest.mark.slow
def test_a_probe_is_logistic_regression_on_image_features(world, support):
    method, learned = create(world, support, "linear_probe")
    images, labels = jax.random.normal(jax.random.key(1), (4, 32, 32, 3)), jnp.array([0, 1, 2, 0])
    kernel = jax.random.normal(jax.random.key(2), learned.trained["classifier"].shape)
    learned = learned.replace(trained={"classifier": kernel})
    total, parts = methods.objective(method, world, learned, None, images[None], labels, 0.0)
    logits = world.logit_scale * world.clip.encode_image(images) @ kernel[0].T
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    assert parts.keys() == {"classification", "loss", "accuracy"}
    assert method.covers(NAMES)
    assert not method.covers(("red star", "blue star", "green star"))


@pytest.mark.slow
@pytest.mark.parametrize("row", ["cdc", "coop", "linear_probe"])
def test_a_learned_scale_and_shift_belong_to_the_head(world, support, row):
    method, learned = create(world, support, f"{row}@head.learned=True")
    images = jax.random.normal(jax.random.key(1), (1, 2, 32, 32, 3))
    logits = logits_of(method, world, learned, images)
    moved = {"log_scale": jnp.log(0.5), "shift": jnp.array(3.0)}
    changed = learned.replace(trained=learned.trained | {"head": moved})
    np.testing.assert_array_equal(logits, logits_of(method, world, changed, images))
    plain = create(world, support, row)[0].head
    expected = plain.predict(learned.part("head"), 0.5 * logits - 3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        method.predict(changed, logits),
        expected,
    )


@pytest.mark.parametrize(
    ("changes", "template", "message"),
    [
        ({"loss.decoupling": "hsic"}, TEMPLATE, "unknown loss.decoupling 'hsic'"),
        ({"loss.consistency": "l2"}, TEMPLATE, "unknown loss.consistency 'l2'"),
        ({"head.name": "svm"}, TEMPLATE, "unknown head.name 'svm': choose one of softmax"),
        ({"head.fusion": "dempster"}, TEMPLATE, "unknown head.fusion 'dempster': .* mean_logit"),
        ({"prompts.modality": "image"}, TEMPLATE, "unknown prompts.modality 'image': .* text"),
        ({"prompts.anchors": "a {}.|the {}."}, TEMPLATE, "2 hand-crafted templates for 1 learned"),
        ({"prompts.anchors": "a dot"}, TEMPLATE, "needs one {} for the class name, got 'a dot'"),
        ({}, "a photo", "a template needs one {} for the class name, got 'a photo'"),
        (
            {"prompts.class_specific": True, "prompts.modality": "multimodal"},
            TEMPLATE,
            "of text only, got modality 'multimodal': set prompts.class_specific=False",
        ),
    ],
)
def test_refusals(world, support, changes, template, message):
    with pytest.raises(ValueError, match=message):
        create(world, support, "coop", "", template, **changes)
