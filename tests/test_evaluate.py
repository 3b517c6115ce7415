"""Evaluation: every image is scored once, whatever the size of the batches."""

import jax
import numpy as np
import pytest

from cdc_jax import backbone, devices, evaluate, inference, methods, views
from cdc_jax.methods.heads import Prediction
from cdc_jax.records import SplitRecord
from cdc_jax.tasks import Examples

NAMES = ("striped star", "solid heart", "dotted key")
VISUAL = "cdc@prompts.modality=multimodal;prompts.templates=2"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero_shot", VISUAL])  # image features that are shared, or own
def test_batches_of_any_size_score_every_image_once(name):
    clip = backbone.load("world")
    support = methods.Support(clip.encode_texts(["star", "heart", "key"]), np.arange(3))
    choice = methods.configure(name, "small")
    method = methods.build(choice, clip, NAMES, "a photo of a {}.", support)
    learned = method.initialize(jax.random.key(0), clip, support)
    assert method.changes_images == (name == VISUAL)
    images = np.random.default_rng(0).integers(0, 256, (17, 32, 32, 3), np.uint8)
    examples = Examples(images, np.arange(17) % 3, NAMES)

    @jax.jit
    def predict(clip, learned, classes):
        """All at once, without batches and padding."""
        clean = views.clean_view(images, clip.mean, clip.std)
        image = method.image_features(clip, learned, clean[None])
        return method.predict(learned, method.forward(clip, learned, classes, image).logits)

    expected = predict(clip, learned, method.classes(clip, NAMES))
    for size in (7, 240):  # two batches and a part of one; a part of one
        frozen = inference.FrozenFeatures(clip, devices.make_mesh(), size)
        found = evaluate.evaluate(inference.Inference(method, frozen), learned, {"test": examples})[
            "test"
        ]
        assert np.array_equal(found.labels, examples.labels)
        scores = found.prediction
        assert scores.probability.shape == (17, 3)
        assert np.array_equal(scores.predicted, expected.probability.argmax(-1))
        assert np.array_equal(scores.template_predicted, expected.template_predicted)
        np.testing.assert_allclose(scores.probability, expected.probability, atol=1e-5)
        np.testing.assert_allclose(
            scores.template_confidence, expected.template_confidence, atol=1e-5
        )
        np.testing.assert_allclose(scores.uncertainty, expected.uncertainty, atol=1e-4)


def scores_of(split, labels, predicted, uncertainty, log_vacuity=None):
    """Scores of two classes; the predicted one has 0.8."""
    predicted, count = np.array(predicted), len(labels)
    prediction = Prediction(
        predicted=predicted,
        probability=np.where(np.arange(2) == predicted[:, None], 0.8, 0.2),
        uncertainty=np.array(uncertainty),
        conflict=np.linspace(0, 1, count),
        template_predicted=np.stack([predicted, 1 - predicted], 1),
        template_confidence=np.full((count, 2), 0.8),
        template_uncertainty=np.full((count, 2), 0.2),
        log_vacuity=None if log_vacuity is None else np.array(log_vacuity),
    )
    return evaluate.Scores(split, np.array(labels), prediction)


BASE_INT, NEW_INT = SplitRecord("base", "int"), SplitRecord("new", "int")
BASE_IID, NEW_IID = SplitRecord("base", "iid", False), SplitRecord("new", "iid", False)


def test_figures_by_hand():
    base = scores_of(
        BASE_INT, [0, 1, 1, 0], [0, 1, 0, 0], [0.1, 0.4, 0.3, 0.2], [-4.0, -2.0, -3.0, -5.0]
    )
    new = scores_of(NEW_INT, [0, 1], [0, 1], [0.1, 0.2], [-1.0, -3.5])
    iid = scores_of(BASE_IID, [0, 1], [1, 1], [0.3, 0.2])
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
    base = scores_of(BASE_IID, [0, 1], [0, 0], [0.1, 0.3])
    new = scores_of(NEW_IID, [0, 1], [0, 0], [0.4, 0.2])
    summary = evaluate.summarize({"base_iid": base, "new_iid": new})["summary"]
    assert summary["novelty_iid"] == pytest.approx(75)
