"""Checkpoints: what is saved is restored, whole or not at all."""

import shutil

import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from cdc_jax.checkpoint import KEPT, Checkpoints


@pytest.fixture
def state():
    parameters = {"context": jnp.arange(6.0).reshape(2, 3), "coupling": {"bias": jnp.ones(2)}}
    optimizer = optax.sgd(0.1, momentum=0.9).init(parameters)
    return {"parameters": parameters, "optimizer": optimizer, "step": jnp.zeros((), jnp.int32)}


def test_the_newest_are_kept_and_restored(tmp_path, state):
    window = [{"loss": 0.1 + 0.2}]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in range(1, KEPT + 2):
            checkpoints.save(step, state | {"step": np.int32(step)}, {"window": window})
            window.append({"loss": 1.0})  # while it is being saved
    assert sorted(path.name for path in tmp_path.glob("[0-9]*")) == ["2", "3"]
    with Checkpoints(tmp_path) as checkpoints:
        restored, notes = checkpoints.restore(checkpoints.latest_step(), state)
    assert type(restored["optimizer"]) is type(state["optimizer"])
    assert restored["step"] == 3
    assert np.array_equal(restored["parameters"]["context"], [[0, 1, 2], [3, 4, 5]])
    assert notes == {"window": [{"loss": 0.1 + 0.2}] + 2 * [{"loss": 1.0}]}


def test_a_half_written_one_is_not_picked_up(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, state)
        checkpoints.latest_step()
        half = tmp_path / "6.orbax-checkpoint-tmp"
        shutil.copytree(tmp_path / "4", half)
        (half / "commit_success.txt").unlink(missing_ok=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 4
        checkpoints.save(6, state)
        assert checkpoints.latest_step() == 6
    assert not half.exists()


def test_arrays_of_another_shape_are_refused(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        state["parameters"]["context"] = jnp.zeros((2, 4))
        with pytest.raises(ValueError, match=r"1 does not hold .*(?s:.*)2, 3(?s:.*)2, 4"):
            checkpoints.restore(checkpoints.latest_step(), state)


def test_arrays_of_another_release_are_refused(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        state["trained"] = state.pop("parameters")
        with pytest.raises(ValueError, match="another release, delete the run's folder"):
            checkpoints.restore(checkpoints.latest_step(), state)


@pytest.mark.parametrize("path", ["gs://bucket/run", "folder"])
def test_orbax_gets_an_absolute_path_and_a_bucket_as_it_is(monkeypatch, tmp_path, path):
    monkeypatch.chdir(tmp_path)
    begun = []
    monkeypatch.setattr(ocp, "CheckpointManager", lambda path, options: begun.append(str(path)))
    Checkpoints(path)
    assert begun == [path if "://" in path else str(tmp_path / path)]
