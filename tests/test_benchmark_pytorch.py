"""The benchmark beside PyTorch: both sides compute the same; what becomes of a step that fails.

`references/torch_forms.npz` holds what the PyTorch forms answered, so that no test needs torch.
Where torch is there, its forms run again.
"""

import contextlib
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
REFERENCE = Path(__file__).parent / "references" / "torch_forms.npz"
METHODS = ("coop", "kgcoop", "maple", "cdc")


@pytest.fixture(scope="module")
def benchmarks():
    """The modules of experiments/benchmarks that are tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)
        from benchmarks import measuring, pytorch, torch_process

        yield pytorch, torch_process, measuring


@pytest.fixture(scope="module")
def stored():
    with np.load(REFERENCE, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def interpreter(tmp_path):
    """Writes a program that answers like PyTorch's process, whatever it is asked."""

    def write(script):
        file = tmp_path / "python"
        file.write_text(f"#!/bin/sh\nread -r task\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return str(file)

    return write


# ---- Both sides compute the same


def assert_same(benchmarks, answer, stored, method, losses_within, momentum_within):
    pytorch, *_ = benchmarks
    losses, velocity = answer
    expected = {name for name in stored if name.startswith(f"{method}/")}
    assert {f"{method}/{name}" for name in ("losses", *velocity)} == expected
    assert pytorch.difference(losses, stored[f"{method}/losses"]) < losses_within
    for name, value in velocity.items():
        assert pytorch.difference(value, stored[f"{method}/{name}"]) < momentum_within, name


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_three_steps_equal_those_of_pytorch(benchmarks, stored, method):
    pytorch, *_ = benchmarks
    assert_same(benchmarks, pytorch.our_steps(pytorch.small(method)), stored, method, 5e-6, 1e-4)


def test_a_step_or_a_term_less_would_show(benchmarks, stored):
    pytorch, *_ = benchmarks
    assert tuple(pytorch.METHODS) == METHODS
    losses = {method: stored[f"{method}/losses"] for method in METHODS}
    for method, values in losses.items():
        assert values.shape == (pytorch.STEPS,)
        assert np.all(-np.diff(values) > 1e-5 * values[1:]), method
        others = [other[0] for name, other in losses.items() if name != method]
        assert np.abs(np.array(others) - values[0]).min() > 1e-3, method


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_references_are_what_torch_answers(benchmarks, stored, tmp_path, method):
    pytest.importorskip("torch")
    pytorch, *_ = benchmarks
    answer = pytorch.torch_steps(pytorch.small(method), sys.executable, tmp_path)
    assert_same(benchmarks, answer, stored, method, 1e-6, 1e-5)


def test_texts_of_full_length(benchmarks):
    pytorch, *_ = benchmarks
    phase, (_, backbone, _, classes, _) = pytorch.step.prepare(pytorch.small("maple"))
    method = phase.stage.method
    ids, ends = pytorch.texts(method.prompts, backbone, classes.names)
    start, end = backbone.tokenizer.start_id, pytorch.SMALL.eot_id
    of_a = backbone.tokenizer.words("a photo of a")[2:]
    assert ids.shape == (1, 6, 77) and ends.tolist() == [14] * 6
    for row, name in zip(ids[0], classes.names, strict=True):
        assert row.tolist() == [start, start, start, *of_a, *name, *[0] * 62]
        assert row[14] == end and name.tolist().count(end) == 1


# ---- PyTorch's process


def test_an_interpreter_without_torch_is_refused(benchmarks):
    _, torch_process, _ = benchmarks
    with pytest.raises(ValueError, match="needs torch, which /bin/false cannot import: pip"):
        torch_process.require_torch("/bin/false")
    with pytest.raises(ValueError, match="torch_python=/no/python does not run .No such file"):
        torch_process.require_torch("/no/python")


def test_answers_of_the_process(benchmarks, interpreter):
    _, torch_process, _ = benchmarks
    python = interpreter("""
echo '{}'
read -r program; echo '{"seconds": 1.5, "peak": 7, "loss": 2.0}'
read -r program; echo '{"refused": "not enough memory: you tried to allocate 9 bytes"}'
""")
    with contextlib.closing(torch_process.TorchCase(python, {"programs": ["step"]})) as case:
        assert case.programs == ("step",)
        assert case.seconds("step") == 1.5 and case.peak() == 7
        with pytest.raises(MemoryError, match="you tried to allocate 9 bytes"):
            case.seconds("step")
        with pytest.raises(OSError, match="ended with code 0"):
            case.seconds("step")


@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        ("kill -KILL $$", MemoryError, "ended by SIGKILL"),
        ("exit 3", OSError, "ended with code 3"),
    ],
)
def test_a_process_that_ends(benchmarks, interpreter, end, error, message):
    _, torch_process, _ = benchmarks
    with pytest.raises(error, match=message):
        torch_process.TorchCase(interpreter(end), {"programs": ["step"]})


def test_memory_is_bounded(benchmarks, monkeypatch):
    pytest.importorskip("torch")
    _, torch_process, _ = benchmarks
    monkeypatch.setattr(torch_process, "free_memory", lambda: 2**30)
    task = {"programs": ["product"], "dtype": "float32", "side": 30_000}
    with pytest.raises(MemoryError, match="allocate"):
        torch_process.TorchCase(sys.executable, task)


# ---- The table


def test_ratios_are_those_of_the_same_round(benchmarks):
    pytorch, _, measuring = benchmarks
    seconds = {"ours": np.array([1.0, 2.0, 4.0]), "PyTorch": np.array([3.0, 4.0, 4.0])}
    times = {(side, "step"): measuring.Times(values, values) for side, values in seconds.items()}
    assert pytorch.ratios(times, "step") == "2.00 [1.00 .. 3.00]"


class Ours:
    """In the place of a case of ours."""

    programs = ("step",)

    def __init__(self, build, *arguments):
        del build
        self.seconds = lambda program: 30.0
        self.peak = lambda: 2_000_000_000
        self.close = lambda: None


def test_rows_of_the_table(benchmarks, interpreter, tmp_path, monkeypatch):
    pytorch, _, measuring = benchmarks
    monkeypatch.setattr(measuring, "Case", Ours)
    setup = pytorch.small("coop")
    fitting = interpreter("""
echo '{}'
while read -r program; do echo '{"seconds": 60.0, "peak": 8000000000}'; done
""")
    row = pytorch.row(setup, fitting, tmp_path, rounds=2)
    assert row.split() == (
        "coop 4, K = 6 float32 30 s [30 .. 30] 60 s [60 .. 60] 2.00 [2.00 .. 2.00] "
        "2.00 GB 8.00 GB 0.25"
    ).split()  # fmt: skip
    refused = pytorch.row(setup, interpreter("""echo '{"refused": "9 bytes"}'"""), tmp_path, 1)
    assert refused.split() == (
        "coop 4, K = 6 float32 30 s [30 .. 30] does not fit 2.00 GB (9 bytes)"
    ).split()  # fmt: skip
