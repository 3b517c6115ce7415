"""Evaluation: every image is scored once, whatever the size of the batches."""

import jax
import numpy as np
import pytest

from cdc_jax import adapter, clip, devices, evaluate, methods, views
from cdc_jax.tasks import Examples

NAMES = ("striped star", "solid heart", "dotted key")
VISUAL = "cdc@prompts.modality=multimodal;prompts.templates=2"


@pytest.mark.parametrize("name", ["zero_shot", VISUAL])  # image features that are shared, or own
def test_batches_of_any_size_score_every_image_once(name):
    model, tokenizer = clip.load("world")
    config = methods.configure(name, small=True)
    made = adapter.create(config, model, tokenizer, "a photo of a {}.", NAMES, mean_logit=5.0)
    parameters = made.initialize(jax.random.key(0), model)
    assert ("coupling" in parameters) == (name == VISUAL)
    images = np.random.default_rng(0).integers(0, 256, (17, 32, 32, 3), np.uint8)
    examples = Examples(images, np.arange(17) % 3, NAMES)

    @jax.jit
    def predict(classes):
        """All at once, without batches and padding."""
        text = made.text_features(model, parameters, classes)
        clean = views.clean_view(images, model.config.mean, model.config.std)
        return made.head.predict(made.logits(model, parameters, text, clean[None]))

    expected = predict(made.classes(model, NAMES))
    own = expected.template_probability
    for size in (7, 240):  # two batches and a part of one; a part of one
        features = evaluate.ImageFeatures(devices.make_mesh(), size)
        scores = evaluate.Evaluator(made, features).scores(model, parameters, examples)
        assert np.array_equal(scores.labels, examples.labels)
        assert scores.probability.shape == (17, 3)
        assert np.array_equal(scores.probability.argmax(-1), expected.probability.argmax(-1))
        assert np.array_equal(scores.template_predicted, own.argmax(-1))
        np.testing.assert_allclose(scores.probability, expected.probability, atol=1e-5)
        np.testing.assert_allclose(scores.template_confidence, own.max(-1), atol=1e-5)
        np.testing.assert_allclose(scores.uncertainty, expected.uncertainty, atol=1e-4)
