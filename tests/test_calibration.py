"""Guarantees from a run's validation images, as `predict` gives them."""

import csv
import dataclasses
import itertools
import json
import math

import forked_runs
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sklearn.metrics
from PIL import Image

import cdc_jax
from cdc_jax import calibration, export, image_prediction, prediction, tasks, train
from cdc_jax.methods.heads import Prediction


def predicted(probability):
    p = np.asarray(probability, np.float32)
    alone = {f"template_{name}": p.max(-1, keepdims=True) for name in ("confidence", "uncertainty")}
    return Prediction(
        predicted=p.argmax(-1),
        probability=p,
        uncertainty=1 - p.max(-1),
        conflict=np.zeros(len(p)),
        template_predicted=p.argmax(-1)[:, None],
        **alone,
    )


def test_thresholds_by_hand():
    own = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1, 0.95])
    found = calibration.of(predicted(np.stack([own, 1 - own], 1)), np.zeros(9, int))
    np.testing.assert_allclose(found.true_score, 1 - own, atol=1e-6)
    np.testing.assert_allclose(found.confidence, np.maximum(own, 1 - own), atol=1e-6)
    assert found.correct.tolist() == (own > 0.5).tolist()
    # ceil(10 · 0.8) = 8th smallest of 1 − p_y: 0.8. Classes of p >= 0.2 are in the set.
    sets = found.sets(0.8)(predicted([[0.85, 0.15], [0.5, 0.5], [0.19, 0.81]]))
    assert sets.tolist() == [[True, False], [True, True], [False, True]]
    # ceil(10 · 0.9) = 9th smallest of 1 − max p: 0.4.
    assert found.largest_novelty(0.1) == pytest.approx(0.4, abs=1e-6)


def test_a_set_is_never_empty():
    sure = calibration.of(predicted([[0.99, 0.005, 0.005]] * 9), np.zeros(9, int))
    assert sure.sets(0.9)(predicted([[0.4, 0.35, 0.25]])).tolist() == [[True, False, False]]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda c: c.sets(0.95), "level 0.95 needs 19 validation images, got 9"),
        (lambda c: c.least_confidence(0.05), "risk of at most 0.05 .* needs 59 validation images"),
        (lambda c: c.largest_novelty(0.05), "rate of 0.05 needs 19 validation images, got 9"),
        (
            lambda c: c.least_confidence(0.4),
            "0 of 9 validation images are right, and they show no risk",
        ),
    ],
)
def test_what_the_images_can_not_show_is_refused(ask, message):
    wrong = calibration.of(predicted([[0.9, 0.1]] * 9), np.ones(9, int))
    with pytest.raises(ValueError, match=message):
        ask(wrong)


@pytest.mark.parametrize(
    "changed",
    [
        {"novelty": np.zeros(3)},
        {"novelty": np.array([0, np.nan])},
        {"novelty": np.zeros((2, 2))},
        {"novelty": np.array(["a", "b"])},
        {"novelty": {"nested": np.zeros(2)}},
        {"novelty": np.zeros(2, np.float32)},
        {"other": np.zeros(2)},
    ],
)
def test_stored_numbers_are_checked(changed):
    whole = calibration.of(predicted([[0.9, 0.1]] * 2), np.zeros(2, int)).arrays()
    assert calibration.from_arrays(whole).arrays() == whole
    assert calibration.from_arrays({}) is None
    with pytest.raises(ValueError, match="validation"):
        calibration.from_arrays(whole | changed)


# ---- A run


@pytest.fixture(scope="module")
def finished(get_config, tmp_path_factory):
    """A run of zero-shot CLIP, and its task."""
    config = get_config("fewshot", "shots=4,world.test_images=4,methods=zero_shot,progress=False")
    workdir = tmp_path_factory.mktemp("run")
    train.train_and_evaluate(config, workdir)
    return workdir / "zero_shot", tasks.load(config, 32)


def test_the_guarantees_of_a_run(finished):
    """By the definitions, from what is predicted for its validation images."""
    run, task = finished
    images, labels, names = task.val.images[:], task.val.labels, task.class_names
    count = len(labels)
    whole = cdc_jax.predict(run, images, top_k=len(names), sets=0.8, unknown=0.1)
    p = np.array([[dict(row.probability)[name] for name in names] for row in whole])
    true = p[np.arange(count), labels]
    least = np.sort(true)[::-1][math.ceil((count + 1) * 0.8) - 1]
    novel = np.sort(1 - p.max(1))[math.ceil((count + 1) * 0.9) - 1]
    for row, own in zip(whole, p, strict=True):
        expected = {name for name, share in zip(names, own, strict=True) if share > least - 1e-6}
        assert set(row.class_set) == expected | {row.predicted}
        assert list(row.class_set) == [n for n, _ in row.probability if n in row.class_set]
        assert row.unknown == (1 - own.max() > novel + 1e-6)
    covered = [names[y] in row.class_set for y, row in zip(labels, whole, strict=True)]
    assert np.mean(covered) >= 0.8
    accepted = cdc_jax.predict(run, images, abstain="risk:0.3")
    decided = [not row.abstained for row in accepted]
    confidence = p.max(1)
    assert any(decided) and min(confidence[decided]) >= max(
        confidence[np.invert(decided)], default=0
    )
    wrong = [row.predicted != names[y] for y, row in zip(labels, accepted, strict=True)]
    assert np.mean(np.array(wrong)[decided]) < 0.3


def test_a_calibrated_run(get_config, tmp_path):
    """Its probabilities are powers of the uncalibrated run's, of the exponents by definition."""
    settings = (
        "shots=4,world.test_images=4,classes=base_new,progress=False,coop.optimizer.epochs=2,"
        "methods=zero_shot,coop,coop@head.calibrated=True"
    )
    config = get_config("fewshot", settings)
    train.train_and_evaluate(config, tmp_path)
    task = tasks.load(config, 32)
    runs = [tmp_path / name for name in ("zero_shot", "coop", "coop@head.calibrated=True")]

    def probability(run, examples):
        names = examples.class_names
        asked = None if names == task.class_names else names
        rows = cdc_jax.predict(run, examples.images[:], top_k=len(names), class_names=asked)
        return np.array([[dict(row.probability)[name] for name in names] for row in rows])

    def temperature(p):
        def loss(log_t):
            own = scipy.special.log_softmax(np.log(p) / np.exp(log_t), 1)
            own = own[np.arange(len(p)), task.val.labels]
            return -own.sum() + log_t**2 / (2 * 0.5**2)

        return np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-3, 3)).x)

    plain, tuned = (temperature(probability(run, task.val)) for run in runs[:2])
    for split, power in {"base_int": 1 / tuned, "new_int": (1 / tuned / plain) ** 0.5}.items():
        raw, scaled = (probability(run, task.test[split]) for run in runs[1:])
        expected = raw**power / (raw**power).sum(1, keepdims=True)
        np.testing.assert_allclose(scaled, expected, rtol=2e-3, atol=1e-6)
    with np.load(runs[2] / "scores.npz") as scores:
        kept = scores["new_int/confidence"]
    np.testing.assert_allclose(kept, scaled.max(1), atol=1e-5)
    # New classes are told by predictions among the training classes.
    for run in runs:
        base, new = (
            [row.uncertainty for row in cdc_jax.predict(run, task.test[split].images[:])]
            for split in ("base_int", "new_int")
        )
        auroc = sklearn.metrics.roc_auc_score([0] * len(base) + [1] * len(new), base + new)
        summary = json.loads((run / "results.json").read_text())["summary"]
        assert summary["novelty_int"] == pytest.approx(100 * auroc, abs=0.2)


def test_calibration_needs_validation_images(get_config, tmp_path):
    for part, shade in itertools.product(("train", "test"), (50, 200)):
        folder = tmp_path / "photos" / part / f"shade {shade}"
        folder.mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (32, 32), (shade + i, shade, 9 * (part == "test"))).save(
                folder / f"{i}.png"
            )
    config = get_config(
        "fewshot",
        f"dataset=folder,data.root={tmp_path / 'photos'},shots=4,methods=coop@head.calibrated=True",
    )
    with pytest.raises(
        ValueError, match="calibrated=True needs validation images, and folder photos has"
    ):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run" / "coop@head.calibrated=True" / "config.json").exists()


def test_results_say_how_the_guarantees_hold_on_test_images(finished):
    """As predictions of the test images with the same level and risk."""
    run, task = finished
    examples, names = task.test["base_iid"], task.class_names
    figures = json.loads((run / "results.json").read_text())["splits"]["base_iid"]
    truth = [names[y] for y in examples.labels]
    rows = cdc_jax.predict(run, examples.images[:], sets=calibration.LEVEL)
    covered = [name in row.class_set for name, row in zip(truth, rows, strict=True)]
    assert figures["coverage"] == pytest.approx(100 * np.mean(covered))
    assert figures["set_size"] == pytest.approx(np.mean([len(row.class_set) for row in rows]))
    rows = cdc_jax.predict(run, examples.images[:], abstain=f"risk:{calibration.RISK}")
    decided = np.array([not row.abstained for row in rows])
    wrong = np.array([row.predicted != name for name, row in zip(truth, rows, strict=True)])
    assert figures["decided"] == pytest.approx(100 * decided.mean())
    assert figures["risk"] == pytest.approx(100 * wrong[decided].mean())
    assert figures["classes"] == list(names)
    assert sum(count for *_, count in figures["confusion"]) == len(truth)


def test_guarantees_are_refused_for_other_classes(finished):
    run, task = finished
    image = task.val.images[:1]
    other = prediction.load(run, class_names=["hollow star", "striped key"])
    with pytest.raises(ValueError, match="has other classes than these: name no classes"):
        other.stream(image, sets=0.5)
    with pytest.raises(
        ValueError, match="^sets=1.0: expected a number between 0 and 1, such as 0.9"
    ):
        cdc_jax.predict(run, image, sets=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": 0.999}, "^sets=0.999: a guarantee at level 0.999 needs 999 validation images"),
        ({"unknown": 0.001}, "^unknown=0.001: a false-alarm rate of 0.001 needs 999 validation"),
        ({"abstain": "risk:0.001"}, "^abstain=risk:0.001: a risk of at most 0.001 .* needs 2995"),
    ],
)
def test_a_guarantee_that_needs_more_images_names_its_option(finished, options, message):
    """The numbers of images: ceil(v / (1 - v)), ceil((1 - v) / v), ceil(log 0.05 / log(1 - r))."""
    run, task = finished
    with pytest.raises(image_prediction.OptionError, match=message):
        cdc_jax.predict(run, task.val.images[:1], **options)


@pytest.mark.slow
def test_the_command_names_the_flag(finished, tmp_path):
    run, task = finished
    Image.fromarray(task.val.images[:][0]).save(tmp_path / "a.png")
    script = forked_runs.EXPERIMENTS / "predict.py"
    for option, message in {
        "--sets=0.999": "ValueError: --sets=0.999: a guarantee at level 0.999 needs",
        "--sets=2": "ValueError: --sets=2.0: expected a number between 0 and 1",
        "--abstain=luck:2": "ValueError: --abstain=luck:2: expected MEASURE:VALUE",
    }.items():
        command = forked_runs.Script(script, run, tmp_path, option)
        _, errors = command.communicate()
        assert command.returncode == 1 and message in errors


def test_a_task_without_validation_images_stores_none(finished, get_config, tmp_path, monkeypatch):
    task = finished[1]
    config = get_config("fewshot", "shots=1,world.test_images=1,methods=zero_shot,progress=False")
    load = train.load

    def without(*arguments):
        whole = load(*arguments)
        none = tasks.Examples(whole.val.images[:0], whole.val.labels[:0], whole.class_names)
        return dataclasses.replace(whole, val=none)

    monkeypatch.setattr(train, "load", without)
    train.train_and_evaluate(config, tmp_path)
    assert prediction.load(tmp_path / "zero_shot").stream(task.val.images[:1]) is not None
    with pytest.raises(ValueError, match="has no validation images.*a validation split"):
        cdc_jax.predict(tmp_path / "zero_shot", task.val.images[:1], abstain="risk:0.2")


def test_damaged_numbers_are_refused_in_one_line(finished, tmp_path):
    run, task = finished
    adapted = export.read(run / "adapted")
    broken = dataclasses.replace(adapted, validation={"novelty": np.zeros(3)})
    export.write(tmp_path / "adapted", broken)
    with pytest.raises(ValueError, match="adapted: validation needs .*; adapt again"):
        cdc_jax.predict(tmp_path, task.val.images[:1], sets=0.5)
    assert len(cdc_jax.predict(tmp_path, task.val.images[:1])) == 1


@pytest.mark.slow
def test_the_command_tells_and_writes_them(finished, tmp_path):
    run, task = finished
    for i in range(3):
        Image.fromarray(task.val.images[:][i]).save(tmp_path / f"{i}.png")
    command = forked_runs.Script(
        forked_runs.EXPERIMENTS / "predict.py", run, tmp_path, "--sets=0.8", "--unknown=0.1",
        "--abstain=risk:0.3", f"--csv={tmp_path}/out.csv", f"--json={tmp_path}/out.json",
    )  # fmt: skip
    output, errors = command.communicate()
    assert command.returncode == 0, errors
    rows = json.loads((tmp_path / "out.json").read_text())
    with open(tmp_path / "out.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    expected = cdc_jax.predict(run, task.val.images[:3], sets=0.8, unknown=0.1, abstain="risk:0.3")
    for row, line, theirs in zip(rows, lines, expected, strict=True):
        assert row["class_set"] == list(theirs.class_set)
        assert line["class_set"].split(";") == row["class_set"]
        assert row["unknown"] == theirs.unknown and line["unknown"] == str(theirs.unknown)
        assert row["abstained"] == theirs.abstained
    assert f"undecided: {sum(row['abstained'] for row in rows)} of 3\n" in output
    assert f"unknown: {sum(row['unknown'] for row in rows)} of 3\n" in output
    size = np.mean([len(row["class_set"]) for row in rows])
    assert f"classes in a set: {size:.1f} on average\n" in output
