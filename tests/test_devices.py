"""Devices and processes: eight devices, two processes of four, and one agree."""

import json
import os
import re
import shutil
import socket
from pathlib import Path

import forked_runs
import jax
import numpy as np
import pytest
from PIL import Image

from cdc_jax import backbone, devices, interruption, views

pytestmark = pytest.mark.slow  # starts processes of several devices

# A low rate: at 0.0005, eight devices differ from one by 1e-3 of the loss after nine steps, and so
# does one device from itself when its initial noise is changed by 1e-7.
# Of 12 test images, a second batch of 8 gives 4 to the first of two processes, none to the other.
CONFIG = (
    "shots=4,world.test_images=1,methods=cdc,progress=False,log_every=2,checkpoint_every=8,"
    "tensorboard=True,cache.gigabytes=0,"  # each encodes for itself: that is what is compared
    "evaluation_batch_size=8,"
    "cdc.views=flip,cdc.optimizer.epochs=3,cdc.optimizer.batch_size=16,cdc.optimizer.name=sgd,"
    "cdc.optimizer.learning_rate=0.00005,cdc.prompts.modality=multimodal,cdc.prompts.layers=2"
)


# Of 48 cached views, a second batch of 40 gives 8 to the first of two processes.
CACHED = (
    "shots=2,world.test_images=1,methods=linear_probe,progress=False,log_every=1,"
    "evaluation_batch_size=40,linear_probe.views=jitter,linear_probe.cached_views=2,"
    "linear_probe.optimizer.epochs=3,linear_probe.optimizer.batch_size=8"
)

# What families add to a step: views for a teacher, random numbers in the towers, and stages.
OF_FAMILIES = ("coprompt", "clip_lora", "two_sfs")
FAMILIES = (
    f"shots=4,world.test_images=1,methods={','.join(OF_FAMILIES)},progress=False,log_every=1,"
    "evaluation_batch_size=8,coprompt.optimizer.learning_rate=0.00005,coprompt.optimizer.epochs=1,"
    "clip_lora.optimizer.steps=4,two_sfs.optimizer.steps=4,"
    + ",".join(f"{row}.optimizer.batch_size=16" for row in OF_FAMILIES)
)


def start(*arguments, config=CONFIG, **environment):
    """Starts tests/pod.py; the last of the keywords are environment variables."""
    pod = Path(__file__).parent / "pod.py"
    return forked_runs.Script(pod, config, *arguments, **environment)


def virtual(count):
    """So many devices; programs are compiled in half the time, and not as fast."""
    flags = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
    return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run on one device, in one process."""
    workdir = tmp_path_factory.mktemp("alone")
    run_alone(workdir)
    return workdir / "cdc"


def run_alone(workdir, config=CONFIG):
    process = start(workdir, config=config, **virtual(1))
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """A run on eight devices that got SIGTERM at step 4; its measurements, exit code, messages."""
    workdir = tmp_path_factory.mktemp("eight")
    process = start(workdir, "eight", **virtual(8))
    output, errors = process.communicate()
    assert output, errors
    return workdir, json.loads(output.splitlines()[0]), process.returncode, errors


@pytest.fixture(scope="module")
def pair(eight, tmp_path_factory):
    """Runs of two processes with four devices each: one stopped and gone on with, one that goes on
    with `eight`'s.

    And the exit codes of the stop, and what each process printed in the end.
    """
    new, resumed = tmp_path_factory.mktemp("pair"), tmp_path_factory.mktemp("resumed") / "run"
    shutil.copytree(eight[0], resumed)
    stopped = [(code, errors) for code, _, errors in two_processes(new, "stopped")]
    ended = two_processes(resumed, "run", new)
    assert [code for code, _, _ in ended] == [0, 0], ended
    (trained,) = new.glob("*/cdc")
    return trained, resumed / "cdc", stopped, [output for _, output, _ in ended]


def two_processes(*arguments, config=CONFIG):
    """Exit code, output and errors of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pod = {"CDC_COORDINATOR": address, "CDC_PROCESSES": "2"}
    processes = [
        start(*arguments, config=config, CDC_PROCESS=str(i), **pod, **virtual(4)) for i in range(2)
    ]
    printed = [process.communicate() for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, printed, strict=True)]


def one_and_two_processes(folder, config):
    """Folders of runs on one device, and on two processes of four."""
    run_alone(folder / "one", config)
    ended = two_processes(folder / "two", config=config)
    assert [code for code, _, _ in ended] == [0, 0], ended
    return folder / "one", folder / "two"


def test_processes_encode_what_one_of_them_lacks(tmp_path):
    """With one folder for both, with folders that differ, and with one that can't be written to."""
    pixels = np.random.default_rng(0).integers(0, 256, (21, 32, 32, 3), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    world = backbone.load("world")
    plain = world.encode_images(views.clean_view(pixels, world.mean, world.std))

    def encoded(cache, first=0, last=21):
        """What the processes decoded; all of them have the features of a plain forward pass."""
        ended = two_processes(tmp_path, "encoded", cache, first, last)
        assert [code for code, _, _ in ended] == [0, 0], ended
        for process in range(2):
            features = np.load(tmp_path / f"{process}.npy")
            np.testing.assert_allclose(features[0], plain[first:last], atol=1e-6)
        # Gloo prints on the same line.
        told = [json.loads(re.search(r"\{.*\}", output)[0]) for _, output, _ in ended]
        assert told[0]["encoded"] == told[1]["encoded"]
        errors = [text for _, _, text in ended]
        return told[0]["encoded"], [line["decoded"] for line in told], errors

    shared = tmp_path / "shared"
    assert encoded(shared, 0, 8)[:2] == (8, [4, 4])
    # Batches of 8, of which each process decodes half: 8, and 5 that are padded by their last.
    assert encoded(shared)[:2] == (13, [8, 5])
    assert encoded(shared)[:2] == (0, [0, 0])
    shutil.copytree(shared, tmp_path / "of-0" / "below")
    own = tmp_path / "of-PROCESS" / "below"
    (tmp_path / "of-1").write_text("no folder for features")
    # The second process lacks 4, 4 and 1 of 8, 8 and 5 images. Both decode 8, and 1 for padding.
    missing, decoded, errors = encoded(own)
    assert (missing, decoded) == (9, [5, 5])
    assert "of-1/below can't be written to (Not a directory)" in errors[1]
    assert "can't be written to" not in errors[0]


def assert_equal_runs(one, other):
    """Losses to 1e-5, the same predictions, and every test image scored once."""
    logs = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (one, other)
    ]
    for mine, theirs in zip(*logs, strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine:
            tolerance = 1e-3 if key.endswith("norm") else 1e-5
            assert mine[key] == pytest.approx(theirs[key], rel=tolerance, abs=tolerance)
    scores = [np.load(run / "scores.npz") for run in (one, other)]
    assert scores[0].files == scores[1].files
    for name in scores[0].files:
        assert len(scores[0][name]) == 12  # one image of each class, no multiple of 8
        if name.endswith(("labels", "predicted")):
            assert np.array_equal(scores[0][name], scores[1][name]), name
        else:
            np.testing.assert_allclose(scores[0][name], scores[1][name], rtol=1e-3, atol=1e-4)


def test_two_processes_of_four_devices_agree_with_one_device(alone, pair):
    assert json.loads((pair[0] / "results.json").read_text())["device"].startswith("8 x")
    assert_equal_runs(alone, pair[0])
    assert len(list(pair[0].glob("events*"))) == 1  # process 0 writes, anew when it goes on


def test_sigterm_of_one_process_saves_and_stops_both(pair):
    """That the run which then went on ends as the others do is tested above."""
    for code, errors in pair[2]:
        assert code == 75, errors
    assert "stopped after step 2 of 9" in pair[2][0][1]


def test_only_process_0_prints(pair):
    first, second = pair[3]
    assert "Everything about this run" in first
    # Gloo, which connects them, says so on stdout, in pieces that its threads mix.
    pieces = (
        r"\[Gloo\] Rank|is connected to|peer ranks\.|"
        r"Expected number of connected peer ranks is :|\d+"
    )
    assert not re.sub(pieces, "", second).strip()


def test_sigterm_saves_and_ends_with_its_own_exit_code(eight):
    workdir, _, code, errors = eight
    assert code == interruption.EXIT_CODE == 75, errors
    assert [path.name for path in (workdir / "cdc/checkpoints").glob("[0-9]*")] == ["5"]
    assert not (workdir / "cdc/results.json").exists()


def test_a_checkpoint_of_eight_devices_goes_on_on_one(alone, eight, tmp_path):
    shutil.copytree(eight[0], tmp_path / "run")
    run_alone(tmp_path / "run")
    assert_equal_runs(alone, tmp_path / "run" / "cdc")


def test_a_checkpoint_of_eight_devices_goes_on_on_two_processes_of_four(alone, pair):
    assert_equal_runs(alone, pair[1])


@pytest.mark.parametrize("bound", ["images", "classes"])
def test_devices_share_the_work(eight, bound):
    one, *several = eight[1][bound]
    for flops in several:
        assert one < flops < 1.08 * one


def test_the_mesh_follows_the_batch(eight):
    # 8 devices; batches of 16, 12, 4 and 3 images
    assert eight[1]["meshes"] == [[8, 1], [4, 2], [4, 2], [1, 8]]


def test_two_processes_of_four_devices_cache_the_views_of_one_device(tmp_path):
    one, two = (
        (workdir / "linear_probe/metrics.jsonl").read_text().splitlines()
        for workdir in one_and_two_processes(tmp_path, CACHED)
    )
    assert len(one) == len(two) == 9
    for mine, theirs in zip(map(json.loads, one), map(json.loads, two), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_two_processes_of_four_devices_train_every_kind_of_step(tmp_path):
    one, two = one_and_two_processes(tmp_path, FAMILIES)
    for row in OF_FAMILIES:
        assert_equal_runs(one / row, two / row)


def test_the_same_under_pmap(eight):
    differences = eight[1]["pmap"]
    assert differences["evidence"] == 0
    assert differences["prompts"] < 1e-5
    assert differences["step"] < 1e-5
    assert differences["combined_step"] < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host:1234", 2, None), "need all of coordinator"),
        ((None, None, 1), "need all of coordinator"),
        (("host", 2, 0), "expected coordinator as host:port"),
        (("host:1234", 2, 2), "expected coordinator as host:port and 0 <= process < processes"),
    ],
)
def test_a_start_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        devices.start(*arguments)


def test_a_variable_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("CDC_PROCESSES", "two")
    with pytest.raises(ValueError, match="CDC_PROCESSES must be a number, got 'two'"):
        devices.start()


def test_one_process_starts_alone():
    devices.start()
    assert not jax.distributed.is_initialized()
    assert devices.is_first()


def test_rows_are_padded_by_the_last():
    padded = devices.pad({"a": np.array([[1], [2]])}, 4)
    assert padded["a"].tolist() == [[1], [2], [2], [2]]


def test_what_process_0_decides_is_raised():
    def full():
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        devices.first_decides(full)
    devices.first_decides(lambda: None)
