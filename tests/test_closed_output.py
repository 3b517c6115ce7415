"""A command whose reader leaves goes on to its end."""

import os
import subprocess
import sys

import forked_runs
import jax
import pytest

pytestmark = pytest.mark.slow  # starts commands


@pytest.mark.parametrize("lines", [0, 1])
def test_a_training_goes_on_to_its_end(tmp_path, lines):
    """As with `| head -0` and `| head -1`."""
    setting = (
        "fewshot.py:methods=zero_shot,coop,shots=1,world.test_images=1,evaluation_batch_size=12,"
        "coop.optimizer.epochs=2"
    )
    command = [sys.executable, str(forked_runs.EXPERIMENTS / "run.py"), f"--config={setting}"]
    command += [f"--workdir={tmp_path}", "--config.sweep.seeds=1,2"]
    environment = os.environ | {
        "PYTHONIOENCODING": "ascii",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }
    with open(tmp_path / "errors", "wb") as errors:
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        for _ in range(lines):
            assert run.stdout.readline() == b"1 of 2: world-aligned-rho0.9-1shot-seed1\n"
        run.stdout.close()
        assert run.wait(1200) == 0, (tmp_path / "errors").read_text()
    assert "Error" not in (tmp_path / "errors").read_text()
    assert len(list(tmp_path.glob("*/*/results.json"))) == 4
