"""What a power loss leaves of a run's folder, and that the run goes on from what is whole."""

import json
import os
import pathlib
import shutil

import hypothesis
import numpy as np
import pytest
from etils import epath
from hypothesis import strategies as st
from synthetic_runs import write_cell

from cdc_jax import run_folder, train
from cdc_jax.checkpoint import Checkpoints
from cdc_jax.log import Log

# A restore that fails leaves reads under way, whose event loop Orbax has closed when they end.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LINES = [{"step": step, "loss": 1 / step} for step in (2, 4, 6, 8)]
WHOLE = "".join(json.dumps(line) + "\n" for line in LINES)
HALF = '{"step": 10, "lo'


def kept(*numbers):
    return [LINES[i] for i in numbers]


@pytest.mark.parametrize(
    ("content", "lines", "damaged"),
    [
        (WHOLE, kept(0, 1, 2, 3), 0),
        ("", [], 0),
        (WHOLE + HALF, kept(0, 1, 2, 3), 1),
        (WHOLE + "\0" * 4096, kept(0, 1, 2, 3), 1),
        (WHOLE + "\0" * 100 + "\n", kept(0, 1, 2, 3), 1),
        (WHOLE + "\n", kept(0, 1, 2, 3), 1),
        (WHOLE + "\n\n  \n", kept(0, 1, 2, 3), 3),
        (WHOLE + HALF + "\0\0\0", kept(0, 1, 2, 3), 1),
        (WHOLE[:-1], kept(0, 1, 2), 1),  # whole, but its end was never written
        (WHOLE.replace('4, "loss"', "4, \0\0\0\0"), kept(0, 2, 3), 1),
        ("\0" * 30 + WHOLE, kept(1, 2, 3), 1),
        (WHOLE.replace("\n", "", 1), kept(2, 3), 1),  # two lines in one
        (WHOLE + WHOLE, kept(0, 1, 2, 3), 4),
        (WHOLE + "[1]\nnull\n3\n", kept(0, 1, 2, 3), 3),
        (WHOLE + '{"loss": 1}\n{"step": "10"}\n{"step": -1}\n', kept(0, 1, 2, 3), 3),
        (WHOLE + "[" * 100_000 + "\n", kept(0, 1, 2, 3), 1),
        (WHOLE.replace("\n", "\r\n"), kept(0, 1, 2, 3), 0),
    ],
)
@pytest.mark.parametrize("name", run_folder.LOGS)
def test_whole_lines_of_a_log_are_kept(tmp_path, name, content, lines, damaged):
    path = epath.Path(tmp_path) / name
    path.write_text(content)
    assert run_folder.read_log(path) == (lines, damaged)
    said = run_folder.settle(epath.Path(tmp_path))
    assert bool(said) == bool(damaged) and "\n" not in said
    if damaged:
        count = f"{damaged} line{'s' if damaged > 1 else ''} of {name}"
        assert f"was damaged, as by a power loss: dropped {count};" in said
    run_folder.cut(path, 8)
    assert path.read_text() == "".join(json.dumps(line) + "\n" for line in lines)
    assert run_folder.settle(epath.Path(tmp_path)) == ""


@pytest.mark.parametrize("content", [b"\xff\xfe{}\n", b"\x80\n", b'{"step": 1, "a": "\xe9"}\n'])
def test_lines_that_are_no_text_are_dropped(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(WHOLE.encode() + content)
    assert run_folder.read_log(tmp_path / "metrics.jsonl")[0] == LINES


def test_a_log_that_goes_on_holds_whole_lines_only(tmp_path):
    folder = epath.Path(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(WHOLE + HALF + "\0\0")
    with Log(folder) as log:
        log.start(6)
        log.write("metrics", LINES[3])
    assert (tmp_path / "metrics.jsonl").read_text() == WHOLE


@hypothesis.given(st.data())
def test_any_damage_of_a_log_leaves_whole_lines_in_order(tmp_path_factory, data):
    damaged = bytearray(WHOLE.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        first = data.draw(st.integers(0, len(damaged)))
        last = data.draw(st.integers(first, len(damaged)))
        damaged[first:last] = data.draw(
            st.sampled_from([b"", b"\0" * (last - first), b"\n", b"{", b"\xff"]) | st.binary()
        )
    path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    path.write_bytes(damaged)
    lines, _ = run_folder.read_log(path)
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)) and all(type(step) is int for step in steps)
    run_folder.cut(path, max(steps, default=0))
    assert run_folder.read_log(path) == (lines, 0)


@pytest.fixture
def complete(tmp_path):
    """A folder as a complete run leaves it, with something for a checkpoint."""
    optional = ("scores", "curve", "interpretation", "gallery")
    cell = write_cell(tmp_path / "cdc", images=12, optional=optional)
    (cell / "metrics.jsonl").write_text(WHOLE)
    run_folder.write_json(cell / "split.json", {"train": [["a.jpg", 0, "hat"]]})
    (cell / "adapted").mkdir()
    run_folder.write_json(cell / "adapted/adapted.json", {"format": 2})
    (cell / "checkpoints/30").mkdir(parents=True)
    return epath.Path(cell)


def read(path):
    return json.loads(path.read_text())


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "zeros": lambda content: b"\0" * len(content),
    "zeros at the end": lambda content: content[: len(content) // 2] + b"\0" * 50,
    "zeros in the middle": lambda content: content[:20] + b"\0" * 40 + content[60:],
}
FILES = (
    "results.json", "config.json", "split.json", "gallery.json", "interpretation.json",
    "adapted/adapted.json", "scores.npz",
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_dropped_and_the_run_not_complete(complete, name, damage):
    path = complete / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    there = {"shots": 1, "method": {}} if name == "config.json" else read(complete / "config.json")
    said = run_folder.settle(complete)
    assert f"dropped {name}; the run goes on from what is whole" in said and "\n" not in said
    assert ("takes the settings of now for its own" in said) == (name == "config.json")
    assert not path.exists() and not (complete / "results.json").exists()
    run_folder.check(complete, there, {})
    run_folder.require_same_items(complete, {"train": [("a.jpg", 0, "hat")]})
    assert run_folder.read_results(complete) is None
    assert run_folder.settle(complete) == ""


def test_what_is_whole_stays_as_it_is(complete):
    files = [path for path in pathlib.Path(complete).rglob("*") if path.is_file()]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    assert run_folder.settle(complete) == "" and len(files) > 10
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before


def test_results_that_could_not_be_made_again_are_kept(complete):
    shutil.rmtree(complete / "checkpoints")
    (complete / "gallery.json").write_text("[")
    said = run_folder.settle(complete)
    assert "is complete, but gallery.json can't be read, and no checkpoint is left" in said
    assert run_folder.read_results(complete) is not None


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", "results.json", "scores.npz"])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(complete, name):
    (complete / name).unlink()
    os.mkfifo(complete / name)
    with pytest.raises(ValueError, match=f"{name} is a pipe, not a regular file"):
        run_folder.settle(complete)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of steps 2 and 4, and the state at 2."""
    folder = tmp_path_factory.mktemp("saved")
    rng = np.random.default_rng(0)
    states = {
        step: {"trained": {"context": rng.normal(size=(64, 64)).astype(np.float32)}, "step": step}
        for step in (2, 4)
    }
    states = {step: state | {"step": np.int32(step)} for step, state in states.items()}
    with Checkpoints(folder) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {"window": [step]})
    return folder, states


def newest(folder, state):
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore_newest(lambda step: state)
        if found is not None:  # and it can be saved again
            checkpoints.save(4, state | {"step": np.int32(4)}, {"window": ["again"]})
            assert checkpoints.latest_step() == 4
    return found


def largest(folder):
    return max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )


def overwrite(path, content):
    path.write_bytes(content)


CHECKPOINT_DAMAGES = {
    "arrays gone": lambda folder: shutil.rmtree(folder / "state"),
    "all files empty": lambda folder: [
        overwrite(path, b"") for path in folder.rglob("*") if path.is_file()
    ],
    "all files zeros": lambda folder: [
        overwrite(path, b"\0" * path.stat().st_size) for path in folder.rglob("*") if path.is_file()
    ],
    "largest file cut": lambda folder: overwrite(
        largest(folder), largest(folder).read_bytes()[:1000]
    ),
    "zeros within the largest": lambda folder: overwrite(
        largest(folder),
        largest(folder).read_bytes()[:4000] + b"\0" * 512 + largest(folder).read_bytes()[4512:],
    ),
    "a bit of an array": lambda folder: overwrite(
        largest(folder),
        bytes(x ^ (i == 9000) for i, x in enumerate(largest(folder).read_bytes())),
    ),
    "notes empty": lambda folder: [
        overwrite(path, b"") for path in (folder / "notes").rglob("*") if path.is_file()
    ],
    "notes gone": lambda folder: shutil.rmtree(folder / "notes"),
    "everything gone": lambda folder: [
        shutil.rmtree(path) if path.is_dir() else path.unlink() for path in folder.iterdir()
    ],
}


@pytest.mark.parametrize("damage", CHECKPOINT_DAMAGES)
def test_of_a_damaged_checkpoint_the_one_before_it(tmp_path, saved, damage, capsys):
    folder, states = saved
    shutil.copytree(folder, tmp_path / "run")
    CHECKPOINT_DAMAGES[damage](tmp_path / "run/4")
    step, state, notes = newest(tmp_path / "run", states[2])
    assert (step, notes) == (2, {"window": [2]})
    np.testing.assert_array_equal(state["trained"]["context"], states[2]["trained"]["context"])
    said = capsys.readouterr().err
    assert (
        "the run goes on from the checkpoint of step 2" in said and str(tmp_path / "run/4") in said
    )


def test_the_newest_whole_checkpoint_is_taken_without_a_word(tmp_path, saved, capsys):
    folder, states = saved
    with Checkpoints(folder) as checkpoints:
        step, state, notes = checkpoints.restore_newest(lambda step: states[2])
    assert (step, notes, int(state["step"])) == (4, {"window": [4]}, 4)
    assert capsys.readouterr().err == ""
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.restore_newest(lambda step: states[2]) is None


def test_where_no_checkpoint_is_whole_the_newest_is_named(tmp_path, saved):
    folder, states = saved
    shutil.copytree(folder, tmp_path / "run")
    for step in (2, 4):
        shutil.rmtree(tmp_path / f"run/{step}/state")
    with Checkpoints(tmp_path / "run") as checkpoints:
        with pytest.raises(ValueError, match="run/4 does not hold what this run saves"):
            checkpoints.restore_newest(lambda step: states[2])
    assert (tmp_path / "run/4").exists()  # nothing is thrown away in vain


@pytest.mark.slow
def test_a_run_goes_on_after_a_power_loss_and_ends_with_the_same_numbers(
    get_config, tmp_path, capsys
):
    setting = "methods=coop,shots=2,world.test_images=5,coop.optimizer.epochs=6,log_every=1"
    config = get_config("fewshot", f"{setting},checkpoint_every=2,curve_every=2,progress=False")
    expected = train.train_and_evaluate(config, tmp_path / "run")
    folder = tmp_path / "run/coop"
    with np.load(folder / "scores.npz") as file:
        scores = dict(file)
    lines = (folder / "metrics.jsonl").read_text()
    steps = sorted(int(path.name) for path in folder.glob("checkpoints/[0-9]*"))
    overwrite(largest(folder / f"checkpoints/{steps[-1]}"), b"")
    for name in ("results.json", "config.json", "gallery.json"):
        (folder / name).write_text("")
    (folder / "split.json").write_text((folder / "split.json").read_text()[:40])
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(HALF + "\0" * 512)
    capsys.readouterr()
    assert train.train_and_evaluate(config, tmp_path / "run") == expected
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    dropped = "config.json, split.json, gallery.json, results.json, 1 line of metrics.jsonl"
    assert f"dropped {dropped}; the run goes on" in said[0]
    assert f"goes on from the checkpoint of step {steps[0]}" in said[1]
    with np.load(folder / "scores.npz") as file:
        for name, array in scores.items():
            np.testing.assert_array_equal(file[name], array)
    assert (folder / "metrics.jsonl").read_text() == lines
