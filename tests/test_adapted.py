"""An adapted model on disk: whole, or refused with the reason."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from cdc_jax import adapted, clip, methods

VECTORS = {
    "context": np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4),
    "coupling": {"kernel": np.ones((2, 1, 4, 5), np.float32), "bias": np.zeros((2, 1, 5))},
}


@pytest.fixture(scope="module")
def described():
    model, _ = clip.load("world")
    parameters = {"context": jnp.asarray(VECTORS["context"]), "coupling": VECTORS["coupling"]}
    names = ("großer Hund", "cat")
    method = methods.configure("cdc", small=True)
    weights = clip.weights_hash(model)
    made = adapted.describe(parameters, names, "a {}.", method, 24.1, "world", model, weights)
    return made, model


@pytest.fixture
def folder(described, tmp_path):
    adapted.write(tmp_path / "adapted", described[0])
    return tmp_path / "adapted"


def test_what_is_written_is_read(described, folder):
    written, model = described
    read = adapted.read(folder)
    assert np.array_equal(read.parameters["context"], VECTORS["context"])
    assert np.array_equal(read.parameters["coupling"]["kernel"], VECTORS["coupling"]["kernel"])
    assert read.parameters["coupling"]["bias"].dtype == np.float64
    assert read.class_names == ["großer Hund", "cat"]
    assert (read.template, read.mean_logit) == ("a {}.", 24.1)
    assert read.method["head"]["fusion"] == "dempster"
    assert read.method["prompts"] == methods.configure("cdc", small=True).prompts.to_dict()
    assert read.base == {"model": "world", "dtype": "float32", "hash": clip.weights_hash(model)}
    assert read.preprocessing == {
        "size": 32,
        "mean": list(model.config.mean),
        "std": list(model.config.std),
    }


def test_the_files_are_what_others_read(folder):
    assert {path.name for path in folder.iterdir()} == {"adapted.json", "prompts.safetensors"}
    tensors = safetensors.numpy.load_file(folder / "prompts.safetensors")
    assert set(tensors) == {"context", "coupling.kernel", "coupling.bias"}
    assert json.loads((folder / "adapted.json").read_text())["format"] == 1


def test_an_interrupted_write_leaves_nothing_that_is_read(described, folder, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(adapted.safetensors.numpy, "save", full)
    with pytest.raises(OSError, match="no space"):
        adapted.write(folder, described[0])
    with pytest.raises(FileNotFoundError, match="adapted.json is missing from"):
        adapted.read(folder)


def spoil(folder, **changes):
    path = folder / "adapted.json"
    contents = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in contents.items() if v is not None}))


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: (f / "adapted.json").unlink(), FileNotFoundError, "adapted.json is missing"),
        (lambda f: (f / "prompts.safetensors").unlink(), FileNotFoundError, "prompts.* is missing"),
        (lambda f: cut(f / "adapted.json"), ValueError, "adapted.json is not JSON"),
        (lambda f: cut(f / "prompts.safetensors"), ValueError, "prompts.safetensors is damaged"),
        (lambda f: flip(f / "prompts.safetensors"), ValueError, "does not hold the vectors of"),
        (lambda f: spoil(f, format=2), ValueError, "is of format 2, this release reads format 1"),
        (lambda f: spoil(f, template=None), ValueError, "lacks template: adapt again"),
    ],
)  # fmt: skip
def test_damage_is_refused(folder, damage, error, message):
    damage(folder)
    with pytest.raises(error, match=message):
        adapted.read(folder)


def test_find_takes_a_method_a_run_or_the_folder_itself(described, tmp_path):
    cell = tmp_path / "cell"
    adapted.write(cell / "cdc/adapted", described[0])
    for run in ("..", ".", "cdc", "cdc/adapted"):
        assert adapted.find(cell / run).samefile(cell / "cdc/adapted")
    adapted.write(cell / "coop/adapted", described[0])
    for run in (cell, str(tmp_path)):
        with pytest.raises(FileNotFoundError, match="2 adapted .*, choose one: .*/cdc, .*/coop"):
            adapted.find(run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match="empty holds no adapted/adapted.json: a run writes"
    ):
        adapted.find(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="nowhere is no folder: give a run's"):
        adapted.find(tmp_path / "nowhere")
