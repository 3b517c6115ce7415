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


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("shift_multiple", 1.5, "shift", 7.5),
        ("evidence", "softplus", "kind", "softplus"),
        ("fusion", "pool", "fusion", "pool"),
        ("template_weight", 0.5, "template_weight", 0.5),
        ("fused_weight", 2.0, "fused_weight", 2.0),
        ("kl_weight", 0.3, "kl_weight", 0.3),
        ("centred", True, "centred", True),
        ("uncertainty", "confidence", "uncertainty", "confidence"),
    ],
)
def test_settings_reach_the_evidential_head(world, key, value, field, expected):
    config = methods.configure(f"cdc@head.{key}={value}", small=True)
    head = create(world, config)[0].head
    assert getattr(head, field) == expected
    default = create(world, methods.configure("cdc", small=True))[0].head
    assert getattr(default, field) != expected


def test_the_margin_reaches_the_loss(world):
    model, _ = world
    images, labels = jnp.ones((2, 32, 32, 3)), jnp.array([0, 1])
    found = []
    for margin in (0.0, 0.3):
        made, parameters = create(world, methods.configure(f"vsd@loss.margin={margin}", small=True))
        classes = made.classes(model, NAMES)
        parts = made.objective(model, parameters, classes, images[None], labels, 0.5)[1]
        found.append(float(parts["decoupling"]))
    assert found[0] - found[1] == pytest.approx(4 * 0.3, abs=1e-4)  # all are more alike than that


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
    assert float(total) == pytest.approx(
        float(expected) + config.loss.consistency_weight * consistency, rel=1e-4
    )
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


def test_an_ensemble_is_the_renormalised_mean_of_features(world):
    model, tokenizer = world
    config = methods.configure("zero_shot_ensemble", small=True)
    made, parameters = create(world, config)
    text = made.text_features(model, parameters, made.classes(model, NAMES))
    each = [
        model.encode_text(tokenizer([t.format(name) for name in NAMES]))
        for t in config.prompts.anchors.split("|")
    ]
    mean = np.mean(np.asarray(each, np.float64), 0)
    expected = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(text[0], expected, atol=1e-6)


def test_own_anchors_and_the_phrase_that_the_training_images_pick(world):
    model, tokenizer = world
    config = methods.configure("coop_con_picked", small=True)
    phrases = config.prompts.phrases.split("|")
    texts = [model.encode_text(tokenizer([f"{p} {name}." for name in NAMES])) for p in phrases]
    # Images that the third phrase knows: its own text features; the labels are right for it only.
    wrong = np.asarray(texts[2])[[1, 2, 0]]
    seen = jnp.asarray(np.concatenate([np.asarray(texts[2]), wrong]))
    predicted = [np.asarray(seen @ t.T).argmax(-1) for t in texts]
    labels = predicted[2]
    accuracy = [(p == labels).mean() for p in predicted]
    settled, mean_logit = adapter.calibrate(config, model, tokenizer, TEMPLATE, NAMES, seen, labels)
    best = int(np.argmax(accuracy))
    assert settled.prompts.phrases == phrases[best]
    assert not settled.prompts.pick
    assert mean_logit == pytest.approx(
        float(model.logit_scale * (seen @ texts[best].T).mean()), rel=1e-5
    )
    made = adapter.create(settled, model, tokenizer, TEMPLATE, NAMES, mean_logit)
    np.testing.assert_allclose(made.classes(model, NAMES).anchors[0], texts[best], atol=1e-6)


def test_a_probe_is_logistic_regression_on_image_features(world):
    model, _ = world
    made, parameters = create(world, methods.configure("linear_probe", small=True))
    images, labels = jax.random.normal(jax.random.key(1), (4, 32, 32, 3)), jnp.array([0, 1, 2, 0])
    kernel = jax.random.normal(jax.random.key(2), parameters["classifier"].shape)
    classes = made.classes(model, NAMES)
    total, _ = made.objective(model, {"classifier": kernel}, classes, images[None], labels, 0.0)
    logits = model.logit_scale * model.encode_image(images) @ kernel[0].T
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    assert made.covers(NAMES)
    assert not made.covers(("red star", "blue star", "green star"))


def test_a_learned_scale_and_shift_of_the_evidence(world):
    model, _ = world
    made, parameters = create(world, methods.configure("cdc@head.learned=True", small=True))
    text = made.text_features(model, parameters, made.classes(model, NAMES))
    images = jax.random.normal(jax.random.key(1), (1, 2, 32, 32, 3))
    plain = made.logits(model, parameters, text, images)
    parameters["evidence"] = {"log_scale": jnp.log(0.5), "shift": jnp.array(3.0)}
    changed = made.logits(model, parameters, text, images)
    np.testing.assert_allclose(changed, 0.5 * plain - 3, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "template", "message"),
    [
        ({"loss.decoupling": "hsic"}, TEMPLATE, "unknown loss.decoupling 'hsic'"),
        ({"loss.consistency": "l2"}, TEMPLATE, "unknown loss.consistency 'l2'"),
        ({"head.name": "svm"}, TEMPLATE, "unknown head.name 'svm': choose one of softmax"),
        ({"head.fusion": "dempster"}, TEMPLATE, "unknown fusion 'dempster' for this head"),
        ({"prompts.anchors": "a {}.|the {}."}, TEMPLATE, "2 hand-crafted templates: 1 learned"),
        ({"prompts.anchors": "a dot"}, TEMPLATE, "needs one {} for the class name, got 'a dot'"),
        ({}, "a photo", "a template needs one {} for the class name, got 'a photo'"),
    ],
)
def test_refusals(world, changes, template, message):
    config = methods.configure("coop")
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        create(world, config, template)
