"""A command whose reader leaves goes on to its end."""

import os
import subprocess
import sys

import forked_runs
import pytest

pytestmark = pytest.mark.slow  # starts commands


COMMAND = (
    str(forked_runs.EXPERIMENTS / "run.py"),
    "--config=fewshot.py:methods=zero_shot,coop,shots=1,world.test_images=1,"
    "evaluation_batch_size=12,coop.optimizer.epochs=1,coop.views=clean",
    "--config.sweep.seeds=1,2",
)


def test_a_training_goes_on_to_its_end(tmp_path):
    """As with `| head -0`, in a process that is started anew and ends as Python does."""
    environment = os.environ | {
        "PYTHONIOENCODING": "ascii",
        **forked_runs.variables(),
    }
    command = [sys.executable, *COMMAND, f"--workdir={tmp_path}"]
    with open(tmp_path / "errors", "wb") as errors:
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        run.stdout.close()
        assert run.wait(1200) == 0, (tmp_path / "errors").read_text()
    assert "Error" not in (tmp_path / "errors").read_text()
    assert len(list(tmp_path.glob("*/*/results.json"))) == 4


def test_a_training_whose_reader_leaves_after_a_line_goes_on_to_its_end(tmp_path):
    """As with `| head -1`."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    workdir = f"--workdir={tmp_path}"
    run = forked_runs.Script(*COMMAND, workdir, stdout=pipe, PYTHONIOENCODING="ascii")
    with pipe.open() as reader:
        line = reader.readline()
    _, errors = run.communicate(1200)
    assert line == "1 of 2: world-aligned-rho0.9-1shot-seed1\n", errors
    assert run.returncode == 0, errors
    assert "Error" not in errors
    assert len(list(tmp_path.glob("*/*/results.json"))) == 4
