"""A run that is killed (SIGKILL) ends, started again, as if nothing had happened."""

import importlib
import random
import time

import forked_runs
import pytest

from cdc_jax import report

pytestmark = pytest.mark.slow  # starts and kills runs


CONFIG = (
    "fewshot.py:methods=coop,shots=4,world.test_images=5,evaluation_batch_size=60,log_every=2,"
    "checkpoint_every=3,curve_every=4,progress=False,coop.views=flip,coop.optimizer.epochs=12,"
    "coop.optimizer.batch_size=8"
)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Compiled programs of the runs, which are killed while they write some."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def kill_test():
    """The script's functions; it is no part of the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(forked_runs.EXPERIMENTS)
        return importlib.import_module("kill_test")  # once: it defines flags


def test_killed_while_caching_between_steps_while_saving_and_while_evaluating(
    kill_test, programs, tmp_path, monkeypatch
):
    """Against a run as the script starts it; those that are killed are forked."""
    for name, value in forked_runs.variables().items():
        monkeypatch.setenv(name, value)
    kill_test.finish(kill_test.start(tmp_path / "alone", CONFIG, programs))
    monkeypatch.setattr(kill_test, "start", forked_runs.train)
    phases = ("caching", "stepping", "saving", "evaluating")
    killed, unequal = kill_test.differences(tmp_path, CONFIG, programs, phases, random.Random(0))
    assert len(killed) >= 3, "the runs ended before they could be killed"
    assert not unequal


def test_a_killed_sweep_ends_in_the_same_tables(kill_test, programs, tmp_path):
    config = (
        "fewshot.py:methods=coop,sweep.seeds=1,2,shots=1,world.test_images=2,progress=False,"
        "evaluation_batch_size=60,log_every=2,checkpoint_every=3,curve_every=3,coop.views=flip,coop.optimizer.epochs=30"
    )
    kill_test.finish(forked_runs.train(tmp_path / "alone", config, programs))
    process = forked_runs.train(tmp_path / "killed", config, programs)
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
    kill_test.finish(forked_runs.train(tmp_path / "killed", config, programs))
    alone, killed = (report.make([tmp_path / name]).files for name in ("alone", "killed"))
    assert len(alone) > 8 and alone == killed
