"""What a run writes: complete files, one configuration a folder, scores and gallery."""

import fcntl
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from etils import epath
from PIL import Image

from cdc_jax import run_folder
from cdc_jax.evaluate import Scores
from cdc_jax.methods.heads import Prediction
from cdc_jax.records import Results, RowRecord, SplitRecord, TaskRecord
from cdc_jax.tasks import Examples

COUNT, CLASSES, TEMPLATES = 20, 4, 2
NAMES = ("a", "b", "c", "d")


@pytest.fixture
def tmp_path(tmp_path):
    return epath.Path(tmp_path)


@pytest.fixture
def split():
    """Images whose grey value is their number, and scores less certain from image to image."""
    rng = np.random.default_rng(0)
    grey = np.arange(COUNT, dtype=np.uint8)[:, None, None, None]
    examples = Examples(grey * np.ones((1, 3, 3, 3), np.uint8), np.arange(COUNT) % 4, NAMES)
    probability = rng.dirichlet(np.ones(CLASSES), COUNT)
    templates = rng.dirichlet(np.ones(CLASSES), (COUNT, TEMPLATES))
    prediction = Prediction(
        predicted=probability.argmax(-1),
        probability=probability,
        uncertainty=np.arange(COUNT) / COUNT,
        conflict=np.full(COUNT, 0.5),
        template_predicted=templates.argmax(-1),
        template_confidence=templates.max(-1),
        template_uncertainty=1 - templates.max(-1),
    )
    return examples, Scores(SplitRecord(), examples.labels, prediction, NAMES)


DEFAULTS = {"views": "shared", "prompts": {"class_specific": False}}


def test_a_folder_belongs_to_one_configuration(tmp_path):
    first = {"shots": 1, "method": {"views": "flip"}}
    run_folder.check(tmp_path / "run", first, DEFAULTS)
    run_folder.claim(tmp_path / "run", first)
    # As long as it has not begun, another may have it: the first may have failed on its data.
    second = {"shots": 4, "method": {"views": "flip"}}
    run_folder.check(tmp_path / "run", second, DEFAULTS)
    run_folder.claim(tmp_path / "run", second)
    (tmp_path / "run/checkpoints/3").mkdir(parents=True)
    run_folder.check(tmp_path / "run", second, DEFAULTS)
    message = (
        r"run holds a run of another configuration \(method.views: 'flip' there, 'clean' now; "
        r"shots: 4 there, 2 now\): choose another --workdir, or delete that folder"
    )
    with pytest.raises(ValueError, match=message):
        run_folder.check(tmp_path / "run", {"shots": 2, "method": {"views": "clean"}}, DEFAULTS)
    # A setting that the run did not know yet had what is the default now.
    newer = {"shots": 4, "method": {"views": "flip", "prompts": {"class_specific": True}}}
    with pytest.raises(ValueError, match=r"\(method.prompts.class_specific: False there, True now"):
        run_folder.check(tmp_path / "run", newer, DEFAULTS)
    newer["method"]["prompts"]["class_specific"] = False
    run_folder.check(tmp_path / "run", newer, DEFAULTS)
    # A check writes nothing.
    assert json.loads((tmp_path / "run/config.json").read_text()) == second


@pytest.mark.parametrize("begun", ["metrics.jsonl", "results.json", "checkpoints/3"])
def test_a_run_has_begun_once_it_has_logged_saved_or_ended(tmp_path, begun):
    run_folder.claim(tmp_path, {"shots": 1, "method": {}})
    run_folder.check(tmp_path, {"shots": 2, "method": {}}, {})
    (tmp_path / begun).mkdir(parents=True)
    with pytest.raises(ValueError, match="shots: 1 there, 2 now"):
        run_folder.check(tmp_path, {"shots": 2, "method": {}}, {})


def test_a_probe_of_an_older_release_had_prompts_and_still_is_the_same_probe(tmp_path):
    old = {"views": "flip", "prompts": {"modality": "probe", "context": 4}, "loss": {"margin": 0.0}}
    run_folder.claim(tmp_path, {"shots": 1, "method": old})
    (tmp_path / "metrics.jsonl").write_text("")
    run_folder.check(tmp_path, {"shots": 1, "method": {"views": "flip"}}, {"views": "shared"})
    with pytest.raises(ValueError, match=r"\(method.views: 'flip' there, 'clean' now\)"):
        run_folder.check(tmp_path, {"shots": 1, "method": {"views": "clean"}}, {"views": "shared"})


def test_a_run_keeps_to_its_images(tmp_path):
    items = {"train": [("a.jpg", 0, "hat")], "test": [("b.jpg", 0, "hat")]}
    run_folder.write_json(tmp_path / "split.json", items)
    other = items | {"test": [("c.jpg", 0, "hat")]}
    run_folder.require_same_items(tmp_path, other)  # it has not begun
    (tmp_path / "checkpoints/3").mkdir(parents=True)
    run_folder.require_same_items(tmp_path, items)
    message = "begun with other images: 2 differ, such as b.jpg of class 'hat' in test"
    with pytest.raises(ValueError, match=message):
        run_folder.require_same_items(tmp_path, other)


def test_lines_after_the_checkpoint_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (2, 4, 6):
        run_folder.append(path, {"step": step})
    run_folder.cut(path, 4)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4]
    run_folder.cut(tmp_path / "none.jsonl", 4)
    assert not (tmp_path / "none.jsonl").exists()


def test_scores_come_back(tmp_path, split):
    _, scores = split
    probability = scores.prediction.probability
    vacuity = np.linspace(-3, 0, COUNT)
    opinions = scores._replace(prediction=scores.prediction._replace(log_vacuity=vacuity))
    run_folder.write_scores(tmp_path, {"base_int": opinions, "new_int": opinions, "test": scores})
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as stored:
        assert len(stored.files) == 7 + 7 + 6  # a head without opinions has no vacuity
        assert "test/log_vacuity" not in stored.files
        np.testing.assert_array_equal(stored["base_int/labels"], scores.labels)
        np.testing.assert_array_equal(stored["base_int/predicted"], probability.argmax(1))
        np.testing.assert_array_equal(stored["base_int/log_vacuity"], vacuity)
        np.testing.assert_array_equal(stored["new_int/confidence"], probability.max(1))
        np.testing.assert_array_equal(stored["new_int/uncertainty"], np.arange(COUNT) / COUNT)
        np.testing.assert_array_equal(stored["test/conflict"], np.full(COUNT, 0.5))
        np.testing.assert_array_equal(stored["new_int/template_predicted"].shape, (COUNT, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["scores.npz"]


def test_the_gallery_shows_both_ends(tmp_path, split):
    examples, scores = split
    run_folder.write_gallery(tmp_path, {"test": scores}, {"test": examples})
    entries = json.loads((tmp_path / "gallery.json").read_text())
    numbers = {"most certain": [0, 1, 2, 3, 4, 5], "least certain": [19, 18, 17, 16, 15, 14]}
    for end, expected in numbers.items():
        chosen = [entry for entry in entries if entry["end"] == end]
        for entry, number in zip(chosen, expected, strict=True):
            assert np.asarray(Image.open(tmp_path / entry["file"]))[0, 0, 0] == number
            assert entry["label"] == NAMES[number % 4]
            probability = scores.prediction.probability[number]
            assert entry["predicted"] == NAMES[probability.argmax()]
            assert entry["probability"][0][1] == pytest.approx(probability.max())
            assert (entry["uncertainty"], entry["conflict"]) == (number / COUNT, 0.5)
            assert len(entry["templates"]) == TEMPLATES


def test_a_folder_is_one_runs_at_a_time(tmp_path):
    with run_folder.locked(tmp_path / "run"):
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on"):
            with run_folder.locked(tmp_path / "run"):
                pass
    with run_folder.locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize("there", ["", "runs", "runs/pets"])
def test_a_run_that_writes_nothing_leaves_nothing(tmp_path, there):
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    before = list(os.walk(tmp_path))
    with pytest.raises(ValueError, match="refused"):
        with run_folder.locked(tmp_path / "runs" / "pets"):
            raise ValueError("refused")
    assert list(os.walk(tmp_path)) == before


def test_a_run_that_writes_keeps_its_files(tmp_path):
    with pytest.raises(ValueError, match="stopped"):
        with run_folder.locked(tmp_path / "run"):
            (tmp_path / "run" / "cdc").mkdir()
            raise ValueError("stopped")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "cdc"]


def test_a_lock_that_its_last_holder_removes_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """The other run ends between the opening of the file and the lock on it."""
    folder, flock = tmp_path / "run", fcntl.flock

    def late(file, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        shutil.rmtree(folder)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with run_folder.locked(folder):
        with pytest.raises(ValueError, match="in use by process"):
            with run_folder.locked(folder):
                pass


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_free(tmp_path):
    script = f"""
import os, signal
from etils import epath
from cdc_jax import run_folder
with run_folder.locked(epath.Path({str(tmp_path)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert (tmp_path / ".lock").read_text()
    with run_folder.locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    message = r"file/run can't be written to \(Not a directory\): choose another --workdir"
    with pytest.raises(OSError, match=message):
        with run_folder.locked(tmp_path / "file" / "run"):
            pass


def test_logs_are_cut_back_to_a_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (2, 4, 6):
        run_folder.append(path, {"step": step, "loss": 1 / 3})
    whole = path.read_text()
    with open(path, "a") as file:
        file.write('{"step": 8, "lo')  # killed
    run_folder.cut(path, 8)
    assert path.read_text() == whole
    run_folder.cut(path, 4)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4]
    run_folder.cut(tmp_path / "curve.jsonl", 4)
    assert not (tmp_path / "curve.jsonl").exists()


def test_room_on_the_disk(tmp_path):
    run_folder.require_space(tmp_path, 1)
    with pytest.raises(OSError, match="needs about 1000000000 MB"):
        run_folder.require_space(tmp_path, 10**15)


def test_a_folder_in_an_object_store(bucket, split):
    examples, scores = split
    with run_folder.locked(bucket):
        assert (bucket / run_folder.LOCK).read_text().startswith("process ")
        run_folder.check(bucket, {"shots": 4, "method": {}}, {})
        run_folder.claim(bucket, {"shots": 4, "method": {}})
        run_folder.require_space(bucket, 10**15)
        for step in (2, 4):
            run_folder.append(bucket / "metrics.jsonl", {"step": step})
        run_folder.check(bucket, {"shots": 4, "method": {}}, {})
        with pytest.raises(ValueError, match="shots: 4 there, 2 now"):
            run_folder.check(bucket, {"shots": 2, "method": {}}, {})
        run_folder.cut(bucket / "metrics.jsonl", 3)
        run_folder.write_scores(bucket, {"test": scores})
        run_folder.write_gallery(bucket, {"test": scores}, {"test": examples})
    assert (bucket / "metrics.jsonl").read_text() == '{"step": 2}\n'
    with (bucket / "scores.npz").open("rb") as file:
        assert np.array_equal(np.load(file)["test/labels"], examples.labels)
    entries = json.loads((bucket / "gallery.json").read_text())
    assert all((bucket / entry["file"]).exists() for entry in entries)


RESULTS = Results(
    row=RowRecord("cdc@views=flip", "cdc", "CDC, views=flip", "reference", {"views": "flip"}, True),
    task=TaskRecord("pets", "base_new", "", 4, 1, {"dataset": "pets"}),
    splits={"base": SplitRecord("base"), "new": SplitRecord("new", "", False)},
    figures={"base": {"images": 9, "accuracy": 75.0}, "new": {"images": 8, "accuracy": 50.0}},
    summary={"H_test": 60.0},
    facts={"phrases": "a photo of a"},
    steps=12,
    trainable_parameters=512,
    skipped=[{"file": "a.jpg", "reason": "it is empty"}],
    device="1 x cpu",
)


def test_results_come_back_and_are_none_of_a_run_that_is_not_complete(tmp_path):
    assert run_folder.read_results(tmp_path) is None
    run_folder.write_json(tmp_path / "results.json", RESULTS.to_json())
    assert run_folder.read_results(tmp_path) == RESULTS
    assert json.loads((tmp_path / "results.json").read_text())["format"] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 2, "ro', "results.json: half-written or not JSON .*; delete its folder and"),
        ("[]", "results.json: expected a JSON object, got list"),
        (
            json.dumps(RESULTS.to_json() | {"format": 3}),
            "results.json: is of format 3, this release reads 1 and 2; delete its folder and run",
        ),
        (
            json.dumps(RESULTS.to_json() | {"row": {}}),
            "results.json: row lacks name, row, title, .*; delete its folder and run it again",
        ),
    ],
)
def test_results_that_can_not_be_read_are_refused_with_the_remedy(tmp_path, content, message):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        run_folder.read_results(tmp_path)


# As release 0.1.0 wrote them, of `cdc@views=flip` on the bundled world.
CONFIG_1 = {
    "dataset": "world", "classes": "all", "targets": "", "shots": 16, "seed": 2, "model": "world",
    "dtype": "float32", "world": {"kind": "task_misaligned", "rho": 0.9, "test_images": 40},
    "data": {"root": "", "split": ""},
    "method": {
        "prompts": {
            "templates": 4, "phrases": "a photo of a", "pick": False, "context": 4, "layers": 1,
            "modality": "text", "class_specific": False, "noise": 0.02, "anchors": "",
            "ensemble": False,
        },
        "views": "flip", "train_on": "train",
        "head": {
            "name": "evidential", "fusion": "dempster", "template_weight": 1.0, "fused_weight": 1.0,
            "evidence": "exp", "shift_multiple": 1.0, "centred": False, "learned": False,
            "kl_weight": 0.01, "uncertainty": "vacuity",
        },
        "loss": {
            "decoupling": "pairwise", "decoupling_weight": 0.1, "margin": 0.0,
            "consistency": "cosine", "consistency_weight": 2.0,
        },
        "optimizer": {
            "name": "adam", "learning_rate": 0.03, "warmup_rate": 1e-5, "weight_decay": 0.0,
            "batch_size": 32, "epochs": 40,
        },
    },
}  # fmt: skip
RESULTS_1 = {
    "method": "cdc@views=flip",
    "splits": {name: {"images": 4, "accuracy": 75.0} for name in ("base_iid", "new_iid", "base_int",
                                                                  "new_int")},
    "summary": {"H_int": 60.0}, "phrases": "a photo of a", "steps": 40,
    "trainable_parameters": 2048, "skipped": {"images": []}, "device": "1 x cpu",
}  # fmt: skip


def test_results_of_format_1_say_in_records_what_their_names_said(tmp_path):
    run_folder.write_json(tmp_path / "config.json", CONFIG_1)
    run_folder.write_json(tmp_path / "results.json", RESULTS_1)
    found = run_folder.read_results(tmp_path)
    assert found.row == RowRecord(
        "cdc@views=flip", "cdc", "CDC, views=flip", "reference", {"views": "flip"}, False
    )
    assert (found.task.dataset, found.task.protocol) == ("world task_misaligned", "base_new")
    assert (found.task.shots, found.task.seed) == (16, 2)
    assert found.splits == {
        "base_iid": SplitRecord("base", "iid", False),
        "new_iid": SplitRecord("new", "iid", False),
        "base_int": SplitRecord("base", "int", True),
        "new_int": SplitRecord("new", "int", True),
    }
    assert found.figures == RESULTS_1["splits"]
    assert (found.summary, found.facts) == ({"H_int": 60.0}, {"phrases": "a photo of a"})
    assert (found.steps, found.trainable_parameters, found.device) == (40, 2048, "1 x cpu")


def test_results_of_format_1_that_lack_something_are_refused(tmp_path):
    run_folder.write_json(tmp_path / "config.json", CONFIG_1)
    lacking = {key: value for key, value in RESULTS_1.items() if key not in ("steps", "device")}
    run_folder.write_json(tmp_path / "results.json", lacking)
    message = "results.json lacks steps, device, so it is not a whole run's; delete its folder"
    with pytest.raises(ValueError, match=message):
        run_folder.read_results(tmp_path)


@pytest.mark.parametrize("there", [True, False])
def test_a_lock_follows_no_link(tmp_path, there):
    folder = tmp_path / "run"
    folder.mkdir()
    if there:
        (tmp_path / "precious").write_text("mine")
    os.symlink(tmp_path / "precious", folder / ".lock")
    with pytest.raises(ValueError, match=r"\.lock is a symbolic link, and a lock follows none"):
        with run_folder.locked(folder):
            pass
    assert (tmp_path / "precious").exists() == there
    assert not there or (tmp_path / "precious").read_text() == "mine"


def test_a_lock_leaves_the_contents_of_another_file_alone(tmp_path):
    (tmp_path / "precious").write_text("mine")
    os.link(tmp_path / "precious", tmp_path / ".lock")
    with pytest.raises(ValueError, match="is not a lock that a run wrote: move it elsewhere"):
        with run_folder.locked(tmp_path):
            pass
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    "content", ["", "process 1 on another.host", "process 99999 on " + "x" * 300]
)
def test_a_lock_of_an_earlier_run_is_taken(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with run_folder.locked(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_lock_that_is_no_file_is_refused_at_once(tmp_path, kind):
    os.mkfifo(tmp_path / ".lock") if kind == "pipe" else (tmp_path / ".lock").mkdir()
    with pytest.raises((ValueError, OSError), match="is not a regular file|can't be written to"):
        with run_folder.locked(tmp_path):
            pass


def test_an_error_of_any_letters_is_kept(tmp_path):
    run_folder.write_error(tmp_path, "no image caf\udce9")
    assert (tmp_path / "error.txt").read_bytes() == rb"no image caf\udce9"
