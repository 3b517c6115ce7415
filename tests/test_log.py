"""What a run logs, and what TensorBoard reads of it."""

import json
import sys

import pytest
from etils import epath
from tensorboard.backend.event_processing import event_accumulator

from cdc_jax import train
from cdc_jax.log import Log, require_tensorboard


def shown(folder):
    """Tag -> {step: value}, as TensorBoard reads a folder; no step is there twice."""
    events = event_accumulator.EventAccumulator(str(folder), {"tensors": 0}).Reload()
    read = {}
    for tag in events.Tags()["tensors"]:
        points = events.Tensors(tag)
        read[tag] = {point.step: point.tensor_proto.float_val[0] for point in points}
        assert len(read[tag]) == len(points)
    return read


def test_tensorboard_shows_the_lines(tmp_path):
    folder = epath.Path(tmp_path)
    with Log(folder, tensorboard=True) as log:
        log.start(0)
        log.write("metrics", {"step": 2, "loss": 0.5})
        log.write("metrics", {"step": 4, "loss": 0.25})
        log.write("curve", {"epoch": 1, "step": 4, "H_int": 70.5})
        assert shown(tmp_path)["metrics/loss"] == {2: 0.5, 4: 0.25}  # while the run goes on
        log.finish({"step": 4, "H_int": 70.5, "AUROC": None})  # no errors, so none
    assert shown(tmp_path) == {
        "metrics/loss": {2: 0.5, 4: 0.25},
        "curve/epoch": {4: 1},
        "curve/H_int": {4: 70.5},
        "results/H_int": {4: 70.5},
    }


def test_tensorboard_forgets_what_was_lost(tmp_path):
    """The steps after the checkpoint. Where it is new to a run, it learns of those before."""
    folder = epath.Path(tmp_path)
    for tensorboard, checkpoint, losses in (
        (False, 0, {2: 3.0, 4: 2.0}),
        (True, 2, {4: 1.5, 6: 1.0}),
        (True, 2, {4: 1.25, 6: 0.5}),
    ):
        with Log(folder, tensorboard) as log:
            log.start(checkpoint)
            for step, loss in losses.items():
                log.write("metrics", {"step": step, "loss": loss})
    assert shown(tmp_path) == {"metrics/loss": {2: 3.0, 4: 1.25, 6: 0.5}}
    assert len(list(tmp_path.glob("events*"))) == 1
    with Log(folder) as log:
        log.start(2)  # without it, nothing is left that could be wrong
    assert not list(tmp_path.glob("events*"))


def test_tensorboard_in_an_object_store(bucket, tmp_path):
    bucket.mkdir(parents=True)
    for losses in ({2: 0.5, 4: 0.25}, {4: 0.125}):
        with Log(bucket, tensorboard=True) as log:
            log.start(2)
            for step, loss in losses.items():
                log.write("metrics", {"step": step, "loss": loss})
    (file,) = bucket.glob("events*")
    (tmp_path / file.name).write_bytes(file.read_bytes())
    assert shown(tmp_path) == {"metrics/loss": {2: 0.5, 4: 0.125}}


@pytest.mark.slow
def test_a_run_shows_what_it_logs(get_config, tmp_path):
    """And the setting may change from one start to the next: no figure depends on it."""
    setting = "shots=2,world.test_images=2,methods=coop,coop.optimizer.epochs=4,log_every=1"
    config = get_config(
        "fewshot",
        f"{setting},evaluation_batch_size=24,curve_every=2,progress=False,tensorboard=True",
    )
    result = train.train_and_evaluate(config, tmp_path)["coop"]
    read = shown(tmp_path / "coop")
    for name in ("metrics", "curve"):
        lines = [json.loads(x) for x in (tmp_path / f"coop/{name}.jsonl").read_text().splitlines()]
        assert len(lines) > 1
        for key in lines[0].keys() - {"step"}:
            steps = {line["step"]: pytest.approx(line[key], rel=1e-6) for line in lines}
            assert read[f"{name}/{key}"] == steps
    assert read["results/H_int"] == {result["steps"]: pytest.approx(result["summary"]["H_int"])}
    config.tensorboard = False
    assert train.train_and_evaluate(config, tmp_path)["coop"] == result
    for file in (tmp_path / "coop").glob("events*"):
        file.unlink()
    config.tensorboard = True  # a run that is complete can still be shown
    assert train.train_and_evaluate(config, tmp_path)["coop"] == result
    assert shown(tmp_path / "coop") == read


def test_without_the_package_nothing_starts(get_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[tensorboard\]'"):
        require_tensorboard()
    config = get_config("fewshot", "tensorboard=True")
    with pytest.raises(ValueError, match="tensorboard=True needs a package"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with Log(epath.Path(tmp_path)) as log:  # nobody asked for it
        log.start(0)
        log.write("metrics", {"step": 1, "loss": 1.0})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n'
