"""Adapters: methods as configurations, against CLIP's plain forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdc_jax import adapter, clip, decoupling, methods, prompts

NAMES = ("striped star", "solid heart", "dotted key")
TEMPLATE = "a photo of a {}."


@pytest.fixture(scope="module")
def world():
    return clip.load("world")


def create(world, config, template=TEMPLATE):
    model, tokenizer = world
    made = adapter.create(config, model, tokenizer, template, NAMES, mean_logit=5.0)
    return made, made.initialize(jax.random.key(0), model)


@pytest.mark.parametrize("template", [TEMPLATE, "{} picture.", "a view of a {}, a type of shape."])
def test_zero_shot_is_clip(world, template):
    model, tokenizer = world
    made, parameters = create(world, methods.configure("zero_shot"), template)
    assert not parameters
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    text = made.text_features(model, parameters, made.classes(model, NAMES))
    logits = made.logits(model, parameters, text, images[None])
    plain = model.logit_scale * (
        model.encode_image(images)
        @ model.encode_text(tokenizer([template.format(name) for name in NAMES], length=77)).T
    )
    np.testing.assert_allclose(logits[:, 0], plain, rtol=1e-5, atol=1e-4)


def test_objective_of_coop_with_consistency(world):
    model, tokenizer = world
    config = methods.configure("coop_con", small=True)
    made, parameters = create(world, config)
    noise = jax.random.normal(jax.random.key(2), parameters["context"].shape)
    parameters = {"context": parameters["context"] + noise}
    classes = made.classes(model, NAMES)
    images, labels = jax.random.normal(jax.random.key(1), (4, 32, 32, 3)), jnp.array([0, 1, 2, 0])
    total, parts = made.objective(model, parameters, classes, images[None], labels, 0.5)
    text = made.text_features(model, parameters, classes)
    logits = model.logit_scale * model.encode_image(images) @ text[0].T
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    anchors = model.encode_text(tokenizer([TEMPLATE.format(name) for name in NAMES]))
    consistency = float(np.mean(1 - (np.asarray(text[0]) * np.asarray(anchors)).sum(-1)))
    assert consistency > 1e-3
    assert float(parts["consistency"]) == pytest.approx(consistency, rel=1e-3)
    assert float(total) == pytest.approx(float(expected) + 8 * consistency, rel=1e-4)
    accuracy = float((logits.argmax(-1) == labels).mean())
    assert float(parts["accuracy"]) == accuracy


def test_objective_of_cdc_is_the_sum_of_its_parts(world):
    model, _ = world
    config = methods.configure("cdc")
    with config.unlocked():
        config.prompts.layers = 3
    made, parameters = create(world, config)
    classes = made.classes(model, NAMES)
    views = jax.random.normal(jax.random.key(1), (4, 2, 32, 32, 3))
    labels = jnp.array([2, 0])
    total, parts = made.objective(model, parameters, classes, views, labels, 1.0)
    text = made.text_features(model, parameters, classes)
    image = prompts.image_features(model, parameters, views)
    logits = model.logit_scale * np.einsum("mbd,mkd->bmk", image, text)
    expected = made.head.loss(jnp.asarray(logits), labels, 1.0).mean()
    expected += 0.1 * decoupling.pairwise(text)
    expected += 8 * decoupling.cosine_consistency(text, classes.anchors)
    assert float(total) == pytest.approx(float(expected), rel=1e-4)
    assert made.head.shift == 5.0
    gradient = jax.grad(lambda p: made.objective(model, p, classes, views, labels, 1.0)[0])(
        parameters
    )
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert float(abs(leaf).max()) > 0


@pytest.mark.parametrize(
    ("changes", "template", "message"),
    [
        ({"loss.decoupling": "hsic"}, TEMPLATE, "unknown loss.decoupling 'hsic'"),
        ({"loss.consistency": "l2"}, TEMPLATE, "unknown loss.consistency 'l2'"),
        ({"head.name": "svm"}, TEMPLATE, "unknown head.name 'svm': choose one of softmax"),
        ({"head.fusion": "dempster"}, TEMPLATE, "unknown fusion 'dempster' for this head"),
        ({}, "a photo", "a template needs one {} for the class name, got 'a photo'"),
    ],
)
def test_refusals(world, changes, template, message):
    config = methods.configure("coop")
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        create(world, config, template)
