"""A run that is killed (SIGKILL) ends, started again, as if nothing had happened."""

import importlib.util
import random
from pathlib import Path

import pytest

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
