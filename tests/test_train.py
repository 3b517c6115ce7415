"""Training end to end: learning, determinism, resume, guards, and what is written."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from PIL import Image

import cdc_jax
from cdc_jax import checkpoint, clip, interruption, methods, optimizer, run_folder, train
from cdc_jax.clip.backbone import ClipBackbone
from cdc_jax.tasks import Examples
from cdc_jax.tasks.batches import TrainingBatches

SMALL = (
    "shots=4,world.test_images=1,evaluation_batch_size=12,methods=cdc,cdc.optimizer.epochs=3,"
    "cdc.optimizer.batch_size=16,"
    "cdc.prompts.modality=multimodal,cdc.prompts.layers=3,cdc.prompts.context=2,"
    "cdc.optimizer.name=sgd,cdc.optimizer.learning_rate=0.0035"
)


@pytest.fixture(scope="module")
def small(get_config):
    """A configuration of nine steps, with checkpoints in the middle."""
    config = get_config("fewshot", SMALL)
    config.log_every, config.checkpoint_every = 2, 4
    return config


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """A whole run of it: its folder, and what was returned."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train.train_and_evaluate(small, workdir)


def lines(workdir, method="cdc"):
    text = (workdir / method / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_results_hold_every_figure(finished):
    workdir, results = finished
    assert json.loads((workdir / "cdc/results.json").read_text()) == results["cdc"]
    result = results["cdc"]
    for half in ("base", "new"):
        for split in ("iid", "int", "rev", "style"):
            figures = result["splits"][f"{half}_{split}"]
            assert figures["images"] == 12
            assert figures["accuracy"] == result["summary"][f"{half}_{split}"]
            assert len(figures["template_accuracy"]) == 4
    base, new = result["summary"]["base_int"], result["summary"]["new_int"]
    assert result["summary"]["H_int"] == pytest.approx(2 * base * new / (base + new))
    # 4 templates x 3 layers x (2 x 128 text + 128 x 192 + 192 coupling)
    assert result["trainable_parameters"] == 4 * 3 * (2 * 128 + 128 * 192 + 192)
    assert [line["step"] for line in lines(workdir)] == [2, 4, 6, 8, 9]


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(small, finished):
    workdir, results = finished
    before = (workdir / "cdc/metrics.jsonl").stat().st_mtime_ns
    assert train.train_and_evaluate(small, workdir) == results
    assert (workdir / "cdc/metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_to_the_bit(small, finished, tmp_path, monkeypatch):
    """And the step of a configuration is compiled once."""
    workdir, results = finished
    make_step = train.make_step

    def counted(phase, seed, axis=None):
        return chex.assert_max_traces(make_step(phase, seed, axis), n=1)

    chex.clear_trace_counter()
    monkeypatch.setattr(train, "make_step", counted)
    assert train.train_and_evaluate(small, tmp_path) == results
    assert lines(tmp_path) == lines(workdir)


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_numbers(small, finished, tmp_path, monkeypatch):
    workdir, results = finished
    stream, stop_at = TrainingBatches.stream, 7  # after the checkpoint at 4 and a log at 6

    def dying(self, first, last, put):
        for step, batch in enumerate(stream(self, first, last, put), first):
            if step == stop_at:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(TrainingBatches, "stream", dying)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(small, tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6]
    assert not (tmp_path / "cdc/results.json").exists()
    taken = []

    def counting(self, first, last, put):
        taken.extend(range(first, last))
        return stream(self, first, last, put)

    monkeypatch.setattr(TrainingBatches, "stream", counting)
    assert train.train_and_evaluate(small, tmp_path) == results
    assert taken == [4, 5, 6, 7, 8]
    assert lines(tmp_path) == lines(workdir)


def adapted_to_photographs(get_config, root, model="world"):
    """CoOp's results on red and blue JPEG files of many forms, one of which can't be decoded.

    Its predictions for the test's files are those of its evaluation.
    """
    rng = np.random.default_rng(0)
    for colour, name in enumerate(("red", "blue")):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 80, (30 + 3 * i, 60 - 2 * i, 3), np.uint8)
            pixels[..., 2 * colour] += 150
            Image.fromarray(pixels).save(root / "photos" / name / f"{i}.jpg")
    (root / "photos" / "red" / "5.jpg").write_bytes(b"")
    (root / "photos" / "task.toml").write_text("val = 0\ntest = 0.5")  # all are used
    config = get_config(
        "fewshot",
        "dataset=folder,shots=6,methods=coop,coop.views=shared,coop.optimizer.epochs=5,"
        f"evaluation_batch_size=12,data.on_error=skip,data.root={root / 'photos'},model={model}",
    )
    result = train.train_and_evaluate(config, root / "run")["coop"]
    test = json.loads((root / "run/coop/split.json").read_text())["test"]
    rows = cdc_jax.predict(root / "run/coop", [root / "photos" / file for file, _, _ in test])
    scores = np.load(root / "run/coop/scores.npz")
    names = [row.predicted for row in rows]
    assert names == [("blue", "red")[label] for label in scores["test/predicted"]]
    probability = [row.probability[0][1] for row in rows]
    np.testing.assert_allclose(probability, scores["test/confidence"], atol=1e-5)
    return result, names


@pytest.mark.slow
def test_photographs_end_to_end(get_config, tmp_path):
    """The one that can't be decoded is left out and listed."""
    result, names = adapted_to_photographs(get_config, tmp_path)
    (skipped,) = result["skipped"]
    assert skipped["file"].endswith("red/5.jpg") and "empty" in skipped["reason"]
    items = json.loads((tmp_path / "run/coop/split.json").read_text())
    used = [file for part in items.values() for file, _, _ in part]
    assert len(set(used)) == len(used) == 23
    assert len(items["test"]) == result["splits"]["test"]["images"]
    assert all(file.startswith(name) for file, _, name in items["test"])
    assert "red/5.jpg" not in used
    assert result["summary"]["test"] > 90
    assert result["trainable_parameters"] == 2 * 4 * 128  # each class has its own
    right = [name == own for name, (_, _, own) in zip(names, items["test"], strict=True)]
    assert 100 * np.mean(right) == pytest.approx(result["summary"]["test"])


@pytest.mark.slow
def test_photographs_by_a_clip_of_another_size(get_config, tmp_path):
    small = clip.Transformer(width=32, depth=2, heads=2, mlp_width=64)
    embedded, tokenizer = clip.load("world")
    config = dataclasses.replace(
        embedded.config, vision=small, text=small, embed_width=16, image_size=48,
        patch_size=12, profile="",
    )  # fmt: skip
    clip.save_pretrained(clip.Clip(config, nnx.Rngs(0)), tokenizer, tmp_path / "clip")
    result, _ = adapted_to_photographs(get_config, tmp_path, tmp_path / "clip")
    assert result["trainable_parameters"] == 4 * 32
    settings = json.loads((tmp_path / "run/coop/config.json").read_text())["method"]
    assert settings["optimizer"]["name"] == "sgd"  # as published; the bundled model takes Adam
    adapted = json.loads((tmp_path / "run/coop/adapted/adapted.json").read_text())
    assert adapted["preprocessing"]["size"] == 48


@pytest.mark.slow
def test_a_copy_of_the_embedded_clip_is_treated_like_it(get_config, tmp_path):
    shutil.copytree(Path(clip.__file__).parent / "world", tmp_path / "copy")
    results, settings = [], []
    for model in ("world", str(tmp_path / "copy")):
        argument = (
            "shots=1,world.test_images=1,evaluation_batch_size=12,methods=coop,"
            f"coop.optimizer.epochs=1,model={model}"
        )
        run = tmp_path / f"run{len(results)}"
        results.append(train.train_and_evaluate(get_config("fewshot", argument), run)["coop"])
        settings.append(json.loads((run / "coop/config.json").read_text())["method"])
    assert settings[0] == settings[1]
    assert settings[0]["optimizer"]["name"] == "adam"
    assert results[0]["splits"] == results[1]["splits"]
    assert results[0]["row"] == results[1]["row"]


@pytest.mark.slow
def test_what_was_refused_can_be_mended_in_the_same_folder(get_config, tmp_path):
    for name in ("red", "blue"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (40 + i, 30), name).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "photos/red/5.png").write_bytes(b"")
    (tmp_path / "photos/task.toml").write_text("val = 0\ntest = 0.5")

    def run(root, **data):
        config = get_config("fewshot", f"dataset=folder,shots=3,methods=zero_shot,data.root={root}")
        config.data.update(data)
        return train.train_and_evaluate(config, tmp_path / "run")["zero_shot"]

    with pytest.raises(FileNotFoundError, match="phtos is not there"):
        run(tmp_path / "phtos")
    with pytest.raises(ValueError, match="5.png .* it is empty"):
        run(tmp_path / "photos", check=True)
    assert not list((tmp_path / "run").rglob("config.json"))
    assert len(run(tmp_path / "photos", on_error="skip")["skipped"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("prompts.layers=99", "prompts.layers=99 exceeds the"),
        ("views=flop", "'flop'"),
        ("optimizer.name=sdg", "unknown optimizer.name 'sdg'"),
        ("optimizer.batch_size=0", "batch_size must be at least 1, got 0"),
        ("train_on=orakel", "no training set 'orakel'"),
        ("head.evidence=foo", "'foo'"),
    ],
)
def test_settings_of_all_methods_are_judged_before_the_first_trains(
    get_config, tmp_path, setting, message
):
    config = get_config(
        "fewshot", f"shots=1,world.test_images=1,methods=zero_shot,cdc,cdc.{setting}"
    )
    with pytest.raises(ValueError, match=message):
        train.train_and_evaluate(config, tmp_path / "runs" / "world")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_sigterm_saves_and_the_run_ends_with_the_same_numbers(
    small, finished, tmp_path, monkeypatch
):
    workdir, results = finished
    append = run_folder.append

    def appending(path, line):
        append(path, line)
        if line["step"] == 4:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "append", appending)
        with pytest.raises(interruption.Interrupted, match="stopped after step 5 of 9") as stopped:
            train.train_and_evaluate(small, tmp_path)
    assert stopped.value.code == interruption.EXIT_CODE
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with checkpoint.Checkpoints(tmp_path / "cdc/checkpoints") as checkpoints:
        assert checkpoints.latest_step() == 5
    assert [line["step"] for line in lines(tmp_path)] == [2, 4]
    # The line of step 6 is a mean over steps before and after.
    assert train.train_and_evaluate(small, tmp_path) == results
    assert (tmp_path / "cdc/metrics.jsonl").read_bytes() == (
        workdir / "cdc/metrics.jsonl"
    ).read_bytes()


@pytest.mark.slow
def test_checkpoints_hold_no_frozen_weight(finished):
    workdir, results = finished
    saved = ocp.StandardCheckpointer().restore(workdir / "cdc/checkpoints/9/state")
    sizes = [leaf.size for leaf in jax.tree.leaves(saved["trained"])]
    assert sum(sizes) == results["cdc"]["trainable_parameters"]
    # The momentum, the schedule's count of steps, and the step.
    total = sum(leaf.size for leaf in jax.tree.leaves(saved))
    assert total == 2 * sum(sizes) + 2


@pytest.mark.slow
def test_an_interrupted_run_does_not_go_on_with_another_clip(get_config, tmp_path, monkeypatch):
    # Of the same name: the folder that it names may have changed meanwhile.
    config = get_config(
        "fewshot",
        "shots=1,world.test_images=1,evaluation_batch_size=12,methods=coop,coop.optimizer.epochs=1",
    )
    train.train_and_evaluate(config, tmp_path)
    (tmp_path / "coop/results.json").unlink()
    monkeypatch.setattr(ClipBackbone, "weights_hash", lambda clip: "0" * 64)
    with pytest.raises(
        ValueError, match="was begun on a CLIP of weights .*, but 'world' now has weights 0000"
    ):
        train.train_and_evaluate(config, tmp_path)


@pytest.mark.slow
def test_another_configuration_in_the_same_folder_is_refused(small, finished, get_config):
    workdir, _ = finished
    changed = get_config("fewshot", SMALL + ",shots=2")
    changed.log_every, changed.checkpoint_every = 2, 4
    with pytest.raises(ValueError, match=r"another configuration \(shots: 4 there, 2 now\)"):
        train.train_and_evaluate(changed, workdir)


def test_schedule_and_sgd_by_hand(get_config):
    config = get_config("fewshot").coop.optimizer
    values = dict(
        name="sgd", learning_rate=0.1, warmup_rate=1e-5, weight_decay=5e-4, epochs=3, batch_size=4,
        steps=0, unit="epoch", warmup=1, epsilon=1e-8, final_rate=0.0,
    )  # fmt: skip
    config.update(values)
    update = optimizer.make(config, steps_per_epoch=2)
    w, momentum, rates = 2.0, 0.0, [1e-5, 1e-5, 0.1, 0.1, 0.075, 0.075]
    parameters = {"w": jnp.array(2.0)}
    state = update.init(parameters)
    for rate in rates:
        momentum = 0.9 * momentum + (3.0 + 5e-4 * w)
        w -= rate * momentum
        updates, state = update.update({"w": jnp.array(3.0)}, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        assert float(parameters["w"]) == pytest.approx(w, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sdg"}, "unknown optimizer.name 'sdg': choose one of sgd, adam"),
        ({"learning_rate": -1.0}, "optimizer.learning_rate must not be negative, got -1.0"),
    ],
)
def test_a_bad_optimizer_is_refused(get_config, changes, message):
    config = methods.configure("coop").config.optimizer
    with config.unlocked():
        config.update(changes)
    with pytest.raises(ValueError, match=message):
        optimizer.make(config, 5)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(get_config, tmp_path, monkeypatch):
    argument = "shots=2,log_every=10,checkpoint_every=2,coop.views=clean,coop_con.views=clean"
    argument += ",world.test_images=1,evaluation_batch_size=12"
    config = get_config("fewshot", argument)
    config.methods = "coop,coop_con,zero_shot"
    objectives = methods.objectives

    def failing(method, clip, learned, classes, images, labels, progress, features, **draws):
        arguments = (method, clip, learned, classes, images, labels, progress, features)
        sums, parts = objectives(*arguments, **draws)
        scale = jnp.where(progress * 40 >= 4.5, jnp.nan, 1.0)  # from the sixth of 40 steps on
        sums = {"loss": scale * sums["loss"]}
        return sums, parts | sums

    monkeypatch.setattr(methods, "objectives", failing)
    with pytest.raises(FloatingPointError) as raised:
        train.train_and_evaluate(config, tmp_path)
    items = sorted(range(24))  # 12 classes x 2 shots are one batch
    message, another = str(raised.value).split("; coop_con: ")
    assert message.startswith("coop: ") and "loss is nan" in another
    assert "loss is nan" in message and "gradient_norm is nan" in message
    assert "at step 6" in message
    named = message.partition("images [")[2].partition("]")[0]
    assert sorted(map(int, named.split(", "))) == items
    assert message.count(str(tmp_path / "coop/checkpoints/4")) == 1
    with checkpoint.Checkpoints(tmp_path / "coop/checkpoints") as checkpoints:
        assert checkpoints.latest_step() == 4
    assert not (tmp_path / "coop/results.json").exists()
    assert (tmp_path / "zero_shot/results.json").exists()  # the others don't wait


@pytest.mark.slow
def test_a_disk_without_room_is_found_before_training(get_config, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    with pytest.raises(OSError, match="needs about 3[0-9] MB and has 1 MB free"):
        train.train_and_evaluate(get_config("fewshot", "shots=1,methods=coop"), tmp_path)
    assert not (tmp_path / "coop/checkpoints").exists()


def examples(count):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return Examples(images, np.arange(count) % 3, ("a", "b", "c"))


def test_batches_cover_an_epoch_once_and_are_pure():
    batches, again = (TrainingBatches(examples(10), 3, seed=1) for _ in range(2))
    assert batches.per_epoch == 3  # the tenth is dropped
    orders = []
    for epoch in range(4):
        drawn = [batches[3 * epoch + i] for i in range(3)]
        indices = np.concatenate([b["indices"] for b in drawn])
        assert len(set(indices)) == 9
        orders.append(tuple(indices))
        for batch in drawn:
            assert np.array_equal(batch["labels"], batch["indices"] % 3)
            assert np.array_equal(batch["images"][:, 0, 0, 0], batch["indices"])
    assert len(set(orders)) == 4
    assert np.array_equal(again[7]["indices"], batches[7]["indices"])
    assert not np.array_equal(TrainingBatches(examples(10), 3, 2)[0]["indices"], orders[0][:3])


def test_the_items_of_a_batch_are_known_without_reading_them():
    batches = TrainingBatches(examples(10), 4, seed=1)
    halves = [TrainingBatches(examples(10), 4, 1, host, 2)[5]["indices"] for host in range(2)]
    assert batches.indices(5) == batches[5]["indices"].tolist() == np.concatenate(halves).tolist()


def test_a_set_smaller_than_a_batch_is_one_batch():
    batches = TrainingBatches(examples(5), 8, seed=0)
    assert batches.per_epoch == 1
    assert sorted(batches[3]["indices"]) == list(range(5))
