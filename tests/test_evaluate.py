"""Evaluation: every image is scored once, whatever the size of the batches."""

import json

import jax
import numpy as np
import pytest
import sklearn.metrics

from cdc_jax import backbone, calibration, devices, evaluate, inference, methods, views
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
    among_training = prediction if split.group == "new" else None
    return evaluate.Scores(split, np.array(labels), prediction, ("star", "key"), among_training)


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


def drawn(seed, images, classes, vacuous, skill=3.0):
    """Scores of all classes but the last, with probabilities drawn from a seed."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes - 1, images)
    logits = rng.normal(0, 1, (images, classes))
    logits[np.arange(images), labels] += skill * rng.random(images)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    prediction = Prediction(
        predicted=p.argmax(1),
        probability=p,
        uncertainty=rng.random(images),
        conflict=rng.random(images),
        template_predicted=p.argmax(1)[:, None],
        template_confidence=p.max(1)[:, None],
        template_uncertainty=1 - p.max(1)[:, None],
        log_vacuity=rng.normal(0, 1, images) if vacuous else None,
    )
    names = tuple(f"class {k}" for k in range(classes))
    return evaluate.Scores(BASE_INT, labels, prediction, names)


@pytest.mark.parametrize("vacuous", [True, False])
def test_errors_are_ranked_by_each_uncertainty(vacuous):
    scores = drawn(0, 90, 4, vacuous)
    figures = evaluate.summarize({"base_int": scores})["splits"]["base_int"]
    wrong = scores.prediction.predicted != scores.labels
    ranked_by = {
        "auroc": scores.prediction.uncertainty,
        "auroc_probability": 1 - scores.prediction.probability.max(1),
        "auroc_vacuity": scores.prediction.log_vacuity,
    }
    for name, score in ranked_by.items():
        if score is None:
            assert name == "auroc_vacuity" and figures[name] is None
        else:
            expected = sklearn.metrics.roc_auc_score(wrong, score)
            assert figures[name] == pytest.approx(100 * expected)


def test_figures_by_class_against_scikit_learn():
    scores = drawn(1, 50, 5, vacuous=False)
    figures = evaluate.summarize({"test": scores})["splits"]["test"]
    matrix = np.zeros((5, 5), int)
    for true, predicted, count in figures["confusion"]:
        assert count > 0
        matrix[true, predicted] += count
    expected = sklearn.metrics.confusion_matrix(
        scores.labels, scores.prediction.predicted, labels=range(5)
    )
    assert np.array_equal(matrix, expected)
    recall = 100 * np.diag(expected)[:4] / expected.sum(1)[:4]
    assert figures["class_accuracy"] == [*map(pytest.approx, recall), None]  # the last has no image
    assert figures["macro_accuracy"] == pytest.approx(recall.mean())
    assert figures["macro_accuracy"] != pytest.approx(figures["accuracy"])
    assert figures["classes"] == [f"class {k}" for k in range(5)]
    json.dumps(figures, allow_nan=False)


def test_guarantees_of_a_split_by_their_definitions():
    validation, test = (drawn(seed, n, 4, False, skill=5.0) for seed, n in ((2, 60), (3, 80)))
    p, y = validation.prediction.probability, validation.labels
    calibrated = calibration.of(validation.prediction, y)
    figures = evaluate.summarize({"test": test}, calibrated)["splits"]["test"]
    own = test.prediction.probability
    # ceil(61 · 0.9) = 55th largest of the true classes' probabilities
    least = np.sort(p[np.arange(60), y])[::-1][54]
    sets = own >= least
    sets[np.arange(80), own.argmax(1)] = True
    assert figures["coverage"] == pytest.approx(100 * sets[np.arange(80), test.labels].mean())
    assert figures["set_size"] == pytest.approx(sets.sum(1).mean())
    threshold = calibrated.least_confidence(0.1)
    accepted = own.max(1) > threshold
    assert 0 < accepted.mean() < 1
    assert figures["decided"] == pytest.approx(100 * accepted.mean())
    wrong = (own.argmax(1) != test.labels)[accepted]
    assert figures["risk"] == pytest.approx(100 * wrong.mean())


def test_guarantees_that_the_validation_images_do_not_allow_are_none():
    test = {"test": drawn(3, 80, 4, vacuous=False)}

    def figures(calibrated):
        found = evaluate.summarize(test, calibrated)["splits"]["test"]
        return [found[name] is None for name in ("coverage", "set_size", "risk", "decided")]

    def validated(images, skill):
        scores = drawn(4, images, 4, vacuous=False, skill=skill)
        return calibration.of(scores.prediction, scores.labels)

    assert figures(None) == [True] * 4
    assert figures(validated(8, skill=9.0)) == [True] * 4  # sets need 9 images
    assert figures(validated(28, skill=9.0)) == [False, False, True, True]  # a risk needs 29
    assert figures(validated(29, skill=90.0)) == [False] * 4
    assert figures(validated(200, skill=0.0)) == [False, False, True, True]  # no such risk


def test_a_rule_that_decides_no_image_has_no_risk():
    confidence = np.linspace(0.5, 1, 60)
    right = (confidence > 0.7).astype(float)
    calibrated = calibration.Calibration(1 - confidence, confidence, right, 1 - confidence)
    assert 0.5 < calibrated.least_confidence(0.1) < 0.7
    test = drawn(6, 2, 4, vacuous=False)
    unsure = test.prediction._replace(probability=np.array([[0.4, 0.3, 0.2, 0.1]] * 2))
    made = evaluate.summarize({"test": test._replace(prediction=unsure)}, calibrated)
    figures = made["splits"]["test"]
    assert (figures["risk"], figures["decided"]) == (None, 0)


def test_novelty_figures_by_hand():
    base = scores_of(BASE_INT, [0, 1, 1, 0], [0, 1, 0, 0], [0.1] * 4, [-4.0, -2.0, -3.0, -5.0])
    new = scores_of(NEW_INT, [0, 1], [0, 1], [0.1] * 2, [-1.0, -3.5])
    summary = evaluate.summarize({"base_int": base, "new_int": new})["summary"]
    # All new images are found from -3.5 on; -2 and -3 of the base images are above it.
    assert summary["novelty_fpr95_int"] == 50
    assert summary["novelty_probability_int"] == 50  # every image has 0.8
