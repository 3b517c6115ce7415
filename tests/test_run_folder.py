"""What a run writes: complete files, one configuration a folder, scores and gallery."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from etils import epath
from PIL import Image

from cdc_jax import run_folder
from cdc_jax.evaluate import Scores
from cdc_jax.tasks import Examples

COUNT, CLASSES, TEMPLATES = 20, 4, 2
NAMES = ("a", "b", "c", "d")


@pytest.fixture
def split():
    """Images whose grey value is their number, and scores less certain from image to image."""
    rng = np.random.default_rng(0)
    grey = np.arange(COUNT, dtype=np.uint8)[:, None, None, None]
    examples = Examples(grey * np.ones((1, 3, 3, 3), np.uint8), np.arange(COUNT) % 4, NAMES)
    probability = rng.dirichlet(np.ones(CLASSES), COUNT)
    templates = rng.dirichlet(np.ones(CLASSES), (COUNT, TEMPLATES))
    return examples, Scores(
        labels=examples.labels, predicted=probability.argmax(-1), probability=probability,
        uncertainty=np.arange(COUNT) / COUNT,
        log_vacuity=np.full(COUNT, np.nan), conflict=np.full(COUNT, 0.5),
        template_predicted=templates.argmax(-1),
        template_confidence=templates.max(-1), template_uncertainty=1 - templates.max(-1),
    )  # fmt: skip


def test_a_folder_belongs_to_one_configuration(tmp_path):
    run_folder.claim(tmp_path / "run", {"shots": 1, "method": {"views": "flip"}})
    # As long as it has not begun, another may have it: the first may have failed on its data.
    run_folder.claim(tmp_path / "run", {"shots": 4, "method": {"views": "flip"}})
    (tmp_path / "run/checkpoints/3").mkdir(parents=True)
    run_folder.claim(tmp_path / "run", {"shots": 4, "method": {"views": "flip"}})
    message = r"\(method.views: 'flip' there, 'clean' now; shots: 4 there, 2 now\)"
    with pytest.raises(ValueError, match=message):
        run_folder.claim(tmp_path / "run", {"shots": 2, "method": {"views": "clean"}})
    # A setting that the run did not know yet had what is the default now.
    newer = {"shots": 4, "method": {"views": "flip", "prompts": {"class_specific": True}}}
    with pytest.raises(ValueError, match=r"\(method.prompts.class_specific: False there, True now"):
        run_folder.claim(tmp_path / "run", newer)
    newer["method"]["prompts"]["class_specific"] = False
    run_folder.claim(tmp_path / "run", newer)


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
    run_folder.write_scores(tmp_path, {"base_int": scores, "new_int": scores})
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as stored:
        assert len(stored.files) == 14
        np.testing.assert_array_equal(stored["base_int/predicted"], scores.probability.argmax(1))
        np.testing.assert_array_equal(stored["new_int/confidence"], scores.probability.max(1))
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
            assert entry["predicted"] == NAMES[scores.probability[number].argmax()]
            assert entry["probability"][0][1] == pytest.approx(scores.probability[number].max())
            assert len(entry["templates"]) == TEMPLATES


def test_a_folder_is_one_runs_at_a_time(tmp_path):
    with run_folder.locked(tmp_path / "run"):
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on"):
            with run_folder.locked(tmp_path / "run"):
                pass
    with run_folder.locked(tmp_path / "run"):
        pass


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
        with run_folder.locked(epath.Path(tmp_path / "file" / "run")):
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
        run_folder.claim(bucket, {"shots": 4})
        run_folder.require_space(bucket, 10**15)
        for step in (2, 4):
            run_folder.append(bucket / "metrics.jsonl", {"step": step})
        run_folder.claim(bucket, {"shots": 4})
        with pytest.raises(ValueError, match="shots: 4 there, 2 now"):
            run_folder.claim(bucket, {"shots": 2})
        run_folder.cut(bucket / "metrics.jsonl", 3)
        run_folder.write_scores(bucket, {"test": scores})
        run_folder.write_gallery(bucket, {"test": scores}, {"test": examples})
    assert (bucket / "metrics.jsonl").read_text() == '{"step": 2}\n'
    with (bucket / "scores.npz").open("rb") as file:
        assert np.array_equal(np.load(file)["test/labels"], examples.labels)
    entries = json.loads((bucket / "gallery.json").read_text())
    assert all((bucket / entry["file"]).exists() for entry in entries)
