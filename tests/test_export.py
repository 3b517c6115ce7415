"""An adapted model on disk: whole, or refused with the reason."""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from cdc_jax import adapted_folder, backbone, clip, export, methods

NAMES = ("großer Hund", "cat")
TRAINED = {
    "prompts": {
        "context": np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4),
        "coupling": {"kernel": np.ones((2, 1, 4, 5), np.float32), "bias": np.zeros((2, 1, 5))},
    },
    "head": {"log_scale": np.float32(0.25), "shift": np.float32(-1.5)},
}
FIXED = {
    "head": {"offset": np.float32(24.125)},
    "cache": {"keys": {"first": np.full((3, 2), 0.5, np.float32)}, "labels": np.array([2, 0, 1])},
}


@pytest.fixture(scope="module")
def world():
    return backbone.load("world")


def build(world, row):
    support = methods.Support(world.encode_texts(["big dog", "cat"]), np.arange(2))
    choice = methods.configure(row, "small")
    return choice, methods.build(choice, world, NAMES, "a {}.", support)


@pytest.fixture(scope="module")
def described(world):
    choice, method = build(world, "cdc")
    trained = copy.deepcopy(TRAINED)
    trained["prompts"]["context"] = jnp.asarray(trained["prompts"]["context"])
    learned = methods.Learned(trained, FIXED)
    digest = world.weights_hash()
    return export.describe(method, choice.family_name, learned, "world", world, digest)


@pytest.fixture
def folder(described, tmp_path):
    export.write(tmp_path / "adapted", described)
    return tmp_path / "adapted"


def assert_same(found, expected):
    """Trees of the same names whose arrays are equal in dtype, shape and value."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, np.shape(b))
        np.testing.assert_array_equal(a, b)


def test_what_is_written_is_read(world, folder):
    read = export.read(folder)
    assert_same(read.learned.trained, TRAINED)
    assert_same(read.learned.fixed, FIXED)
    assert read.learned.trained["prompts"]["coupling"]["bias"].dtype == np.float64
    assert read.class_names == ["großer Hund", "cat"]
    assert (read.template, read.family) == ("a {}.", "prompt_tuning")
    assert read.settings.head.fusion == "dempster"
    assert read.settings == build(world, "cdc")[1].config
    assert read.settings.is_locked
    assert read.base == {"model": "world", "dtype": "float32", "hash": world.weights_hash()}
    assert read.base["hash"] == clip.weights_hash(world.clip)
    assert read.preprocessing == {
        "size": 32,
        "mean": list(world.clip.config.mean),
        "std": list(world.clip.config.std),
    }


def test_the_files_are_what_others_read(folder):
    assert {path.name for path in folder.iterdir()} == {"adapted.json", "learned.safetensors"}
    tensors = safetensors.numpy.load_file(folder / "learned.safetensors")
    assert set(tensors) == {
        "trained.prompts.context", "trained.prompts.coupling.kernel",
        "trained.prompts.coupling.bias", "trained.head.log_scale", "trained.head.shift",
        "fixed.head.offset", "fixed.cache.keys.first", "fixed.cache.labels",
    }  # fmt: skip
    np.testing.assert_array_equal(tensors["trained.prompts.context"], TRAINED["prompts"]["context"])
    description = json.loads((folder / "adapted.json").read_text(encoding="utf-8"))
    assert description["format"] == 2
    assert description["settings"]["prompts"]["templates"] == 4
    assert set(description) == {
        "format", "arrays", "text", "family", "settings", "class_names", "template", "base",
        "preprocessing",
    }  # fmt: skip


def test_text_features_belong_to_the_settings_and_classes(described, tmp_path):
    text = np.random.default_rng(0).normal(size=(4, 2, 8)).astype(np.float32)
    export.write(tmp_path, dataclasses.replace(described, text=text))
    np.testing.assert_array_equal(export.read(tmp_path).text, text)
    for field, value in {"class_names": ["cat", "dog"], "template": "the {}."}.items():
        export.write(tmp_path, dataclasses.replace(described, text=text))
        spoil(tmp_path, **{field: value})
        read = export.read(tmp_path)
        assert read.text is None
        assert getattr(read, field) == value
    for wrong in (text[:, :1], text[0], np.where(text > 1, np.nan, text)):
        export.write(tmp_path, dataclasses.replace(described, text=wrong))
        with pytest.raises(ValueError, match="text features of shape .* numbers of 2 classes: ad"):
            export.read(tmp_path)


def test_what_a_method_starts_from_is_read_as_it_was(world, tmp_path):
    """Of every family, with parts that hold nothing; each is put together again."""
    for row in ("zero_shot", "linear_probe", "coop", "cdc@head.learned=True"):
        choice, method = build(world, row)
        support = methods.Support(world.encode_texts(["big dog", "cat"]), np.arange(2))
        learned = method.initialize(jax.random.key(0), world, support)
        adapted = export.describe(method, choice.family_name, learned, "world", world, "0")
        export.write(tmp_path / row, adapted)
        read = export.read(tmp_path / row)
        for part in ("prompts", "head"):
            assert_same(read.learned.part(part), learned.part(part))
        assert jax.tree.leaves(read.learned.fixed) == jax.tree.leaves(learned.fixed)
        for found, array in zip(*map(jax.tree.leaves, (read.learned, learned)), strict=True):
            np.testing.assert_array_equal(found, array)
        again = methods.rebuild(read.family, read.settings, world, read.class_names, read.template)
        assert type(again) is type(method)
        assert (again.class_names, again.template, again.head, again.config) == (
            method.class_names, method.template, method.head, method.config,
        )  # fmt: skip


def test_another_model_in_the_same_folder_replaces_the_first(world, folder):
    choice, method = build(world, "linear_probe")
    learned = methods.Learned({"classifier": np.ones((1, 2, 128), np.float32)}, {})
    export.write(folder, export.describe(method, choice.family_name, learned, "m", world, "0"))
    read = export.read(folder)
    assert (read.family, read.base["model"]) == ("linear_probe", "m")
    assert_same(read.learned.trained, learned.trained)
    assert read.learned.fixed == {}


def test_an_interrupted_write_leaves_nothing_that_is_read(described, folder, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(export.safetensors.numpy, "save", full)
    with pytest.raises(OSError, match="no space"):
        export.write(folder, described)
    with pytest.raises(FileNotFoundError, match="adapted.json is missing from"):
        export.read(folder)


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


OTHER_FORMAT = (
    "is of format 3, this release reads formats 1 and 2: adapt again, or use the release that wrote"
)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: (f / "adapted.json").unlink(), FileNotFoundError, "adapted.json is missing"),
        (lambda f: (f / "learned.safetensors").unlink(), FileNotFoundError, "learned.* is missing"),
        (lambda f: cut(f / "adapted.json"), ValueError, "adapted.json: half-written or not JSON"),
        (lambda f: cut(f / "learned.safetensors"), ValueError, "learned.safetensors is damaged"),
        (lambda f: flip(f / "learned.safetensors"), ValueError, "does not hold the arrays of"),
        (lambda f: spoil(f, format=3), ValueError, OTHER_FORMAT),
        (lambda f: spoil(f, format=None), ValueError, "is of format None"),
        (lambda f: spoil(f, template=None), ValueError, "lacks template; adapt again"),
        (lambda f: spoil(f, arrays=None, family=None), ValueError, "lacks arrays, family; adapt"),
    ],
)  # fmt: skip
def test_damage_is_refused(folder, damage, error, message):
    damage(folder)
    with pytest.raises(error, match=message):
        export.read(folder)


def test_find_takes_a_method_a_run_or_the_folder_itself(described, tmp_path):
    cell = tmp_path / "cell"
    export.write(cell / "cdc/adapted", described)
    for run in ("..", ".", "cdc", "cdc/adapted"):
        assert adapted_folder.find(cell / run).samefile(cell / "cdc/adapted")
    export.write(cell / "coop/adapted", described)
    for run in (cell, str(tmp_path)):
        with pytest.raises(FileNotFoundError, match="2 adapted .*, choose one: .*/cdc, .*/coop"):
            adapted_folder.find(run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match="empty holds no adapted/adapted.json: a run writes"
    ):
        adapted_folder.find(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="nowhere is no folder: give a run's"):
        adapted_folder.find(tmp_path / "nowhere")


# ---- Format 1: what release 0.1.0 wrote, digests and all

ARRAYS_1 = {
    "context": np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4),
    "coupling.kernel": np.arange(40, dtype=np.float32).reshape(2, 1, 4, 5),
    "coupling.bias": np.full((2, 1, 5), 0.5, np.float32),
    "evidence.log_scale": np.array(0.25, np.float32),
    "evidence.shift": np.array(-1.5, np.float32),
}
DESCRIPTION_1 = {
    "format": 1,
    "vectors": "71bb3d6e51c9a0eb81d43c17410027de3309944d34ac9e597b1e0228ac113d28",
    "class_names": ["großer Hund", "cat"],
    "template": "a {}.",
    "method": {
        "prompts": {
            "anchors": "", "class_specific": False, "context": 4, "ensemble": False, "layers": 1,
            "modality": "text", "noise": 0.02, "phrases": "a photo of a", "pick": False,
            "templates": 4,
        },
        "head": {
            "centred": False, "evidence": "exp", "fused_weight": 1.0, "fusion": "dempster",
            "kl_weight": 0.01, "learned": True, "name": "evidential", "shift_multiple": 1.5,
            "template_weight": 1.0, "uncertainty": "vacuity",
        },
    },
    "mean_logit": 24.125,
    "base": {
        "model": "world", "dtype": "float32",
        "hash": "1191630c575a00f0a016f1a05db0a7b05587b656622c3c9bd1e8a38d043b3626",
    },
    "preprocessing": {
        "size": 32,
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
    },
}  # fmt: skip
CLASSIFIER_1 = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
CLASSIFIER_DIGEST_1 = "67ce673ef6b4c4f21dab32bed919f6f62795a820656ab41f52fb47ecc86394ea"
EMPTY_DIGEST_1 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def write_1(tmp_path):
    """Writes a folder of format 1: arrays, and what differs in its description's parts."""

    def write(arrays, prompts=None, head=None, **changes):
        description = copy.deepcopy(DESCRIPTION_1) | changes
        description["method"]["prompts"] |= prompts or {}
        description["method"]["head"] |= head or {}
        safetensors.numpy.save_file(arrays, tmp_path / "prompts.safetensors")
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        (tmp_path / "adapted.json").write_text(text, encoding="utf-8")
        return tmp_path

    return write


def test_prompts_of_format_1_are_read(world, write_1):
    read = export.read(write_1(ARRAYS_1))
    assert_same(
        read.learned.trained,
        {
            "prompts": {
                "context": ARRAYS_1["context"],
                "coupling": {
                    "kernel": ARRAYS_1["coupling.kernel"],
                    "bias": ARRAYS_1["coupling.bias"],
                },
            },
            "head": {
                "log_scale": ARRAYS_1["evidence.log_scale"],
                "shift": ARRAYS_1["evidence.shift"],
            },
        },
    )
    assert read.learned.fixed == {}
    assert read.family == "prompt_tuning"
    assert read.settings.prompts.to_dict() == DESCRIPTION_1["method"]["prompts"]
    added = {"shift": 1.5 * 24.125, "calibrated": False}  # shift_multiple * mean_logit
    assert read.settings.head.to_dict() == DESCRIPTION_1["method"]["head"] | added
    assert read.settings.is_locked
    assert read.settings.keys() == methods.configure("cdc").config.keys()
    for name in ("class_names", "template", "base", "preprocessing"):
        assert getattr(read, name) == DESCRIPTION_1[name]
    assert read.base["hash"] == world.weights_hash()
    method = methods.rebuild(read.family, read.settings, world, read.class_names, read.template)
    assert (method.templates, method.head.learned, method.head.shift) == (4, True, 1.5 * 24.125)


def test_a_probe_of_format_1_is_read(world, write_1):
    softmax = {"name": "softmax", "fusion": "mean_logit", "learned": False}
    folder = write_1(
        {"classifier": CLASSIFIER_1}, {"modality": "probe"}, softmax, vectors=CLASSIFIER_DIGEST_1
    )
    read = export.read(folder)
    assert_same(read.learned.trained, {"classifier": CLASSIFIER_1})
    assert read.learned.fixed == {}
    assert read.family == "linear_probe"
    assert "prompts" not in read.settings and "loss" not in read.settings
    expected = DESCRIPTION_1["method"]["head"] | softmax | {"calibrated": False}
    assert read.settings.head.to_dict() == expected
    method = methods.rebuild(read.family, read.settings, world, read.class_names, read.template)
    assert method.covers(NAMES) and not method.covers(("dog", "cat"))


@pytest.mark.parametrize("head", ["softmax", "evidential"])
def test_hand_crafted_templates_of_format_1_are_read(write_1, head):
    fusion = {"softmax": "mean_logit", "evidential": "dempster"}[head]
    settings = {"name": head, "fusion": fusion, "learned": False, "shift_multiple": 1.0}
    read = export.read(write_1({}, {"context": 0}, settings, vectors=EMPTY_DIGEST_1))
    assert not jax.tree.leaves(read.learned.trained)
    assert read.learned.fixed == {}
    assert read.settings.head.get("shift") == (24.125 if head == "evidential" else None)
    assert read.settings.prompts.context == 0


def test_settings_that_an_older_release_did_not_have_are_todays_defaults(write_1):
    folder = write_1(ARRAYS_1)
    description = json.loads((folder / "adapted.json").read_text())
    del description["method"]["prompts"]["class_specific"], description["method"]["head"]["centred"]
    (folder / "adapted.json").write_text(json.dumps(description))
    settings = export.read(folder).settings
    assert settings.prompts.class_specific is False
    assert settings.head.centred is False


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: (f / "prompts.safetensors").unlink(), FileNotFoundError, "prompts.* is missing"),
        (lambda f: cut(f / "prompts.safetensors"), ValueError, "prompts.safetensors is damaged"),
        (lambda f: flip(f / "prompts.safetensors"), ValueError, "does not hold the arrays of"),
        (lambda f: spoil(f, mean_logit=None), ValueError, "lacks mean_logit; adapt again"),
        (lambda f: spoil(f, vectors=None), ValueError, "lacks vectors; adapt again"),
    ],
)
def test_damage_to_format_1_is_refused(write_1, damage, error, message):
    folder = write_1(ARRAYS_1)
    damage(folder)
    with pytest.raises(error, match=message):
        export.read(folder)
