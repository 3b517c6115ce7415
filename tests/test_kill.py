"""A run that is killed (SIGKILL) ends, started again, as if nothing had happened."""

import importlib.util
import random
import time
from pathlib import Path

import pytest

from cdc_jax import report

pytestmark = pytest.mark.slow  # starts and kills runs

SCRIPT = Path(__file__).parent.parent / "experiments" / "kill_test.py"


@pytest.fixture(scope="module")
def kill_test():
    """The script's functions; it is no part of the package."""
    spec = importlib.util.spec_from_file_location("kill_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_killed_between_steps_while_saving_and_while_evaluating(kill_test, tmp_path):
    cache = tmp_path / "programs"
    kill_test.finish(kill_test.start(tmp_path / "alone", kill_test.CONFIG, cache))
    phases = ("stepping", "saving", "evaluating")
    killed, unequal = kill_test.differences(
        tmp_path, kill_test.CONFIG, cache, phases, random.Random(0)
    )
    assert len(killed) >= 2, "the runs ended before they could be killed"
    assert not unequal


def test_a_killed_sweep_ends_in_the_same_tables(kill_test, tmp_path):
    config = (
        "fewshot.py:methods=coop,sweep.seeds=1,2,shots=1,world.test_images=2,progress=False,"
        "log_every=2,checkpoint_every=3,curve_every=3,coop.views=flip,coop.optimizer.epochs=30"
    )
    cache = tmp_path / "programs"
    kill_test.finish(kill_test.start(tmp_path / "alone", config, cache))
    process = kill_test.start(tmp_path / "killed", config, cache)
    first, second = (
        tmp_path / f"killed/world-aligned-rho0.9-1shot-seed{seed}/coop/results.json"
        for seed in (1, 2)
    )
    while not (first.exists() and list(second.parent.glob("checkpoints/[0-9]*"))):
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert not second.exists(), "the sweep ended before it could be killed"
    kill_test.finish(kill_test.start(tmp_path / "killed", config, cache))
    alone, killed = (report.make([tmp_path / name]).files for name in ("alone", "killed"))
    assert len(alone) > 8 and alone == killed
