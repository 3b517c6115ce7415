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
        assert np.array_equal(scores.predicted, expected.probability.argmax(-1))
        assert np.array_equal(scores.template_predicted, own.argmax(-1))
        np.testing.assert_allclose(scores.probability, expected.probability, atol=1e-5)
        np.testing.assert_allclose(scores.template_confidence, own.max(-1), atol=1e-5)
        np.testing.assert_allclose(scores.uncertainty, expected.uncertainty, atol=1e-4)


def scores_of(labels, predicted, uncertainty, log_vacuity=np.nan):
    """Scores of two classes; the predicted one has 0.8."""
    predicted, count = np.array(predicted), len(labels)
    probability = np.where(np.arange(2) == predicted[:, None], 0.8, 0.2)
    own = np.stack([predicted, 1 - predicted], 1)
    vacuity = np.broadcast_to(log_vacuity, count)
    conflict = np.linspace(0, 1, count)
    return evaluate.Scores(
        np.array(labels), predicted, probability, np.array(uncertainty), vacuity, conflict,
        own, np.full((count, 2), 0.8), np.full((count, 2), 0.2),
    )  # fmt: skip


def test_figures_by_hand():
    base = scores_of([0, 1, 1, 0], [0, 1, 0, 0], [0.1, 0.4, 0.3, 0.2], [-4.0, -2.0, -3.0, -5.0])
    new = scores_of([0, 1], [0, 1], [0.1, 0.2], [-1.0, -3.5])
    iid = scores_of([0, 1], [1, 1], [0.3, 0.2])
    made = evaluate.summarize({"base_int": base, "new_int": new, "base_iid": iid})
    figures, summary = made["splits"]["base_int"], made["summary"]
    assert figures["images"] == 4
    assert figures["accuracy"] == summary["base_int"] == 75
    assert figures["template_accuracy"] == [75, 25]
    assert figures["ece"] == pytest.approx(5)  # 0.8 said, 0.75 right
    assert figures["nll"] == pytest.approx(-(3 * np.log(0.8) + np.log(0.2)) / 4)
    assert figures["brier"] == pytest.approx((3 * 0.08 + 1.28) / 4)
    assert figures["auroc"] == pytest.approx(100 * 2 / 3)  # the error is above two of three
    assert figures["conflict"] == pytest.approx(0.5)
    assert made["splits"]["new_int"]["auroc"] is None  # no error
    assert summary["auroc"] is None  # a mean over fewer splits would be another figure
    assert summary["ece"] == pytest.approx((5 + 20) / 2)
    assert summary["H_int"] == pytest.approx(2 * 75 * 100 / 175)
    # Vacuity: new -1 is above all four of base, -3.5 above -4 and -5.
    assert summary["novelty_int"] == pytest.approx(100 * 6 / 8)
    assert "H_iid" not in summary


def test_a_softmax_head_tells_new_classes_by_its_uncertainty():
    base, new = scores_of([0, 1], [0, 0], [0.1, 0.3]), scores_of([0, 1], [0, 0], [0.4, 0.2])
    summary = evaluate.summarize({"base_iid": base, "new_iid": new})["summary"]
    assert summary["novelty_iid"] == pytest.approx(75)
