"""The benchmark of an accelerator, tried on the CPU: its verdicts, its budget, its report."""

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import forked_runs
import numpy as np
import pytest

from cdc_jax import methods

ROOT = Path(__file__).parent.parent
MISSING = ("grain", "ml_collections", "tensorflow_datasets", "matplotlib", "sklearn", "torch")
BLOCKED = f"""
import sys
from importlib.machinery import PathFinder

class Blocked(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in {MISSING}
        return None if absent else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Blocked
"""


@pytest.fixture(scope="module")
def benchmarks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "experiments")
        from benchmarks import accelerator, row_settings
        from benchmarks.accelerator import context, parity, runs, table, worker

        yield types.SimpleNamespace(**{
            module.__name__.rpartition(".")[2]: module
            for module in (accelerator, row_settings, context, parity, runs, table, worker)
        })  # fmt: skip


def tiny(benchmarks, seconds):
    return benchmarks.context.Context(True, seconds, sys.executable)


@pytest.mark.parametrize("row", methods.ROWS)
def test_settings_without_ml_collections(benchmarks, row):
    def plain(settings):
        return {
            key: plain(value) if isinstance(value, types.SimpleNamespace) else value
            for key, value in vars(settings).items()
        }

    assert plain(benchmarks.row_settings.configure(row)) == methods.configure(row).config.to_dict()


def test_changed_settings(benchmarks):
    changed = benchmarks.row_settings.configure("cdc", {"optimizer.batch_size": 7})
    assert changed.optimizer.batch_size == changed["optimizer"]["batch_size"] == 7
    with pytest.raises(ValueError, match="cdc has no setting optimizer.batch"):
        benchmarks.row_settings.configure("cdc", {"optimizer.batch": 7})


# ---- Parity


def stored(benchmarks, prefix):
    with np.load(benchmarks.parity.REFERENCES, allow_pickle=False) as file:
        names = [name for name in file.files if name.startswith(f"{prefix}/")]
        return {name.partition("/")[2]: file[name] for name in names}


@pytest.mark.parametrize("row", ["coop", "maple", "cdc", "views"])
def test_what_counts_as_parity(benchmarks, row):
    reference = stored(benchmarks, row)
    assert benchmarks.parity.compare(reference, row)["passed"]
    for name, value in reference.items():
        off = value.copy()
        at = np.unravel_index(np.abs(value).argmax(), value.shape)
        for factor, passed in ((1 + 0.9e-4, True), (1 + 1.1e-4, False), (np.nan, False)):
            off[at] = factor * value[at]
            verdict = benchmarks.parity.compare(reference | {name: off}, row)
            assert verdict["passed"] == passed
            assert verdict["worst"] == name


def test_the_references_say_something(benchmarks):
    for row in benchmarks.parity.ROWS:
        figures = stored(benchmarks, row)
        assert np.abs(figures["gradient"]).max() > 1e-2
        # Features differ between classes and images, and logits with them.
        assert min(figures[name].std(1).max() for name in ("text", "image")) > 0.01
        np.testing.assert_allclose(np.linalg.norm(figures["text"], axis=-1), 1, atol=1e-5)
    with np.load(benchmarks.parity.REFERENCES, allow_pickle=False) as file:
        among_all, among_half = file["decisions"].swapaxes(0, 1)
    assert among_all.size + among_half.size == 10_000
    classes = np.arange(benchmarks.parity.IMAGES) % 24
    assert (among_all == classes).mean() > 0.8  # chance: 0.04
    assert (among_half // 12 == classes // 12).all()
    assert benchmarks.parity.REFERENCES.stat().st_size < 200_000


# ---- Budget and report


@pytest.fixture
def clock(benchmarks, monkeypatch):
    """A clock that only the measurements move: each case by the seconds of its part's name."""
    now = [0.0]
    monkeypatch.setattr(
        benchmarks.accelerator, "time", types.SimpleNamespace(monotonic=lambda: now[0])
    )

    def run(measure, cases, context):
        end = now[0] + context.seconds
        for case in cases:
            over = now[0] + took_seconds.get(case, 5) > end
            now[0] = end if over else now[0] + took_seconds.get(case, 5)
            measured = {"platform": platform[0], "kind": "X", "devices": 1}
            yield case, benchmarks.worker.NO_TIME if over else measured

    took_seconds, platform = {}, ["tpu"]
    monkeypatch.setattr(benchmarks.worker, "run", run)
    return types.SimpleNamespace(now=now, took=took_seconds, platform=platform)


def test_parts_that_do_not_fit_are_named(benchmarks, clock, tmp_path):
    clock.took["views"] = 280  # of a part that may take 300
    file = tmp_path / "report.json"
    context = benchmarks.context.Context(False, 400, sys.executable)
    report = benchmarks.accelerator.measure(file, context)
    assert clock.now[0] <= 400
    assert json.loads(file.read_text()) == report
    seconds = {name: part["seconds"] for name, part in report["parts"].items()}
    assert seconds["device"] == 20 and seconds["parity"] == 300
    assert report["parts"]["parity"]["cases"]["decisions bfloat16"] == {"not_run": "time"}
    # 80 s are left: too few for the steps, enough for PyTorch's.
    assert {m["not_run"] for m in report["parts"]["steps"]["cases"].values()} == {"time"}
    assert seconds["steps"] == 0 and seconds["pytorch"] == 15
    printed = benchmarks.table.text(report)
    for name, part in report["parts"].items():
        for case, measured in part["cases"].items():
            assert case in printed
            if "not_run" in measured:
                assert f"{case:<30} not run: time" in printed, name


def test_no_accelerator_is_said_before_the_work(benchmarks, clock, tmp_path):
    clock.platform[0] = "cpu"
    file = tmp_path / "report.json"
    context = benchmarks.context.Context(False, 480, sys.executable)
    with pytest.raises(ValueError, match="JAX sees only the CPU.*or give --tiny"):
        benchmarks.accelerator.measure(file, context)
    assert clock.now[0] == 5 and not file.exists()


def test_no_report_is_lost(benchmarks, clock, tmp_path):
    file = tmp_path / "report.json"
    file.write_text("measured yesterday")
    with pytest.raises(FileExistsError, match="report.json exists: name another file"):
        benchmarks.accelerator.measure(file, tiny(benchmarks, 480))
    assert file.read_text() == "measured yesterday" and not clock.now[0]


def test_what_a_run_compiled(benchmarks):
    log = (
        "Finished XLA compilation of jit(step) in 22.812345678 sec\n"
        "W1126 17:58:27.1 140 dispatch.py:99] Finished XLA compilation of jit(step) in "
        "22.812345678 sec\nFinished XLA compilation of jit(<lambda>) in 0.016459227 sec\n"
        "Finished XLA compilation of class_features in 3.5 sec\n"
    )
    found = benchmarks.runs._compilation(log)
    assert found["programs"] == 3
    assert found["seconds"] == pytest.approx(26.328804905)
    assert [p["program"] for p in found["slowest"]] == ["step", "class_features", "<lambda>"]


def test_why_a_run_failed(benchmarks):
    lacking = "Traceback …\nModuleNotFoundError: No module named 'grain.python'\n"
    assert benchmarks.runs._failure("exit code 1", lacking) == {"not_run": "needs grain"}
    other = benchmarks.runs._failure("exit code 1", "no memory\n")
    assert other == {"error": "exit code 1", "log": ["no memory"]}


# ---- Processes


def measure(case, context):
    """What a process of its own is given below."""
    if case == "lacks a library":
        raise ModuleNotFoundError("No module named 'grain'", name="grain")
    if case == "fails":
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand more")
    if case == "dies":
        os._exit(3)
    if case == "hangs":
        time.sleep(1000)
    return {"pid": os.getpid(), "tiny": context.tiny}


@pytest.mark.slow
def test_a_case_that_fails_ends_no_other(benchmarks):
    cases = ("works", "lacks a library", "fails", "works on", "dies", "is not reached")
    found = dict(benchmarks.worker.run(measure, cases, tiny(benchmarks, 300)))
    assert tuple(found) == cases
    assert found["works"]["tiny"] and found["works"]["pid"] == found["works on"]["pid"]
    assert found["works"]["pid"] != os.getpid()
    assert found["lacks a library"]["not_run"] == "needs grain"
    assert found["fails"]["error"] == "RuntimeError: RESOURCE_EXHAUSTED: out of memory"
    assert "and more" in found["fails"]["traceback"]
    assert found["dies"] == found["is not reached"] == {"error": "the process ended with code 3"}


@pytest.mark.slow
def test_a_case_that_hangs_is_stopped(benchmarks):
    start = time.monotonic()
    found = dict(benchmarks.worker.run(measure, ("hangs", "later"), tiny(benchmarks, 1)))
    assert found == {"hangs": {"not_run": "time"}, "later": {"not_run": "time"}}
    assert time.monotonic() - start < 100


# ---- The script


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The whole script where only jax and the libraries beside it are installed."""
    folder = tmp_path_factory.mktemp("accelerator")
    (folder / "sitecustomize.py").write_text(BLOCKED)
    command = [
        sys.executable, str(ROOT / "experiments" / "benchmark.py"), "--only=accelerator", "--tiny",
        "--accelerator_seconds=1500", "--accelerator_json=report.json",
    ]  # fmt: skip
    environment = os.environ | forked_runs.variables() | {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert not ended.returncode, ended.stderr[-3000:]
    return json.loads((folder / "report.json").read_text()), ended.stdout


@pytest.mark.slow
def test_the_script_without_other_libraries(benchmarks, report):
    """Its parity is that of this machine with the references."""
    written, printed = report
    cases = {name: part["cases"] for name, part in written["parts"].items()}
    assert cases["device"]["facts"]["platform"] == "cpu" and written["tiny"]
    assert all(
        cases["device"][rate]["operations_per_second"] > 0 for rate in ("float32", "bfloat16")
    )
    assert {"views", *benchmarks.parity.ROWS} < cases["parity"].keys()
    for case, measured in cases["parity"].items():
        assert measured["passed"], (case, measured)
        assert measured.get("same_pixels", True)
    for part in ("steps", "steps_float32", "batches", "options"):
        for case, measured in cases[part].items():
            assert len(measured["seconds"]) == 5 and min(measured["seconds"]) > 0, case
            assert np.isfinite(measured["loss"]) and measured["program_bytes"] > 0
            assert measured["compile_seconds"] > 0 and measured["products"] > 40
            assert measured["peak_bytes"] is None  # the CPU does not say
    low = cases["steps"]["cdc bfloat16 batch 2"]["loss"]
    assert low == pytest.approx(cases["steps_float32"]["cdc float32 batch 2"]["loss"], rel=0.02)
    for part in ("pytorch", "pytorch_float32", "pytorch_batches"):
        assert {m["not_run"].partition(",")[0] for m in cases[part].values()} == {"needs torch"}
    assert cases["command"]["first command"]["not_run"].startswith("needs ")
    assert cases["resume"]["kill and resume"]["not_run"].startswith("needs ")
    for part in written["parts"].values():
        assert part["title"] in printed


@pytest.mark.slow
def test_the_first_command_and_a_resumed_run(benchmarks, monkeypatch):
    """The command as a process of its own; the runs that are killed are forked."""
    import kill_test

    def start(workdir, config, programs):
        return forked_runs.train(workdir, config)  # by the programs of the command

    monkeypatch.setattr(kill_test, "start", start)
    for name, value in (forked_runs.variables() | {"JAX_PLATFORMS": "cpu"}).items():
        monkeypatch.setenv(name, value)
    command = benchmarks.runs.measure_command("", tiny(benchmarks, 900))
    assert "error" not in command, command
    assert set(command["summaries"]) == {"coop"} and command["compiled"]["programs"] > 5
    assert "step" in {program["program"] for program in command["compiled"]["slowest"]}
    resumed = benchmarks.runs.measure_resume("", tiny(benchmarks, 900))
    assert resumed["passed"] and resumed["equal"], resumed
    assert resumed["difference"] == 0 and resumed["killed_after"] in (3, 6, 9, 12)
