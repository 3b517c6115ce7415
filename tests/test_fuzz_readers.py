"""Damaged files of a model or a run: each reader ends in success or in one clear line, at once.

CDC_FUZZ_EXAMPLES=10000 tries as many random examples of each file, in place of a few fixed ones.
"""

import copy
import functools
import json
import os
import shutil
import time
import warnings

import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from references import clip_reference as reference

from cdc_jax import clip, export, methods, run_folder
from cdc_jax.clip import hub, pretrained
from cdc_jax.clip.tokenizer import Tokenizer
from cdc_jax.methods import defaults
from cdc_jax.records import Results, RowRecord, SplitRecord, TaskRecord

_EXAMPLES = int(os.environ.get("CDC_FUZZ_EXAMPLES", "50"))
fuzz = settings(
    max_examples=_EXAMPLES,
    derandomize=_EXAMPLES <= 1000,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

CONFIG = reference.CONFIGS["patch16"]
DEEP: list = []
for _ in range(100):
    DEEP = [DEEP]
ODD = [
    None, True, False, 0, -1, 1, 2, 3, 7, 48, 127, 2**31, -(2**63), 3 * 10**7, 10**30, 0.5, 128.0,
    1e-5, -1e-300, 1e308, float("nan"), float("inf"), "", "128", "-1", "nan", "x" * 5000, "\ud800",
    "\x1b[31m\n", "[/b]", "a b", "a\0b", "../../etc/passwd", "{}", [], [128], [None], [[1, 2], 3],
    [0.1, 0.2, 0.3], ["a", "b"], {}, {"a": 1}, {"content": 3}, {"height": 8, "width": 8}, DEEP,
]  # fmt: skip


def places(value, path=()):
    """Where every value within a JSON value stands."""
    yield path
    if isinstance(value, (dict, list)):
        children = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in list(children)[:30]:
            yield from places(child, (*path, key))


@st.composite
def damaged(draw, valid):
    """The bytes of a file after one to three changes of its values, or of its bytes."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        if not value:
            break
        *parents, last = draw(st.sampled_from([place for place in places(value) if place]))
        owner = value
        for key in parents:
            owner = owner[key]
        change = draw(st.sampled_from(["replace", "replace", "swap", "delete", "add"]))
        if change == "delete":
            del owner[last]
        elif change == "add" and isinstance(owner, dict):
            key = draw(st.sampled_from(["x", "", "\n", "a.b", "size"]))
            owner[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif change == "swap":
            owner[last] = copy.deepcopy(draw(st.sampled_from(list(_values(valid)))))
        else:
            owner[last] = copy.deepcopy(draw(st.sampled_from(ODD)))
    content = json.dumps(value).encode()
    change = draw(st.sampled_from(["none"] * 6 + ["cut", "flip", "insert", "encode"]))
    at = draw(st.integers(0, len(content) - 1))
    if change == "cut":
        content = content[:at] + b"\0" * draw(st.integers(0, 3))
    elif change == "flip":
        content = content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]
    elif change == "insert":
        odd = [b"\0", b"\xff", b",", b"{", b"]", b"1e999", b"9" * 5000, b"[" * 100_000, b'"']
        content = content[:at] + draw(st.sampled_from(odd)) + content[at:]
    elif change == "encode":
        content = content.decode().encode(draw(st.sampled_from(["utf-8-sig", "utf-16", "utf-32"])))
    return content


def _values(valid):
    for place in places(valid):
        value = valid
        for key in place:
            value = value[key]
        yield value


def assert_clear(read, *names):
    """Calls a reader; an error must be one printable line that names one of the files."""
    start = time.process_time()
    try:
        read()
    except (ValueError, OSError) as error:
        message = str(error)
        assert message.isprintable(), repr(message)
        assert len(message) < 2000, message
        assert any(name in message for name in names), message
    assert time.process_time() - start < 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = reference.write_folder(tmp_path_factory.mktemp("model") / "clip", CONFIG)
    reference.write_weights(folder, reference.weights(CONFIG))
    return folder


@fuzz
@given(damaged(CONFIG | {"text_config_dict": {"hidden_size": 48}, "cdc_jax": {"profile": "small"}}))
def test_config(folder, content):
    (folder / "config.json").write_bytes(content)
    assert_clear(lambda: clip.read_config(folder), "config.json")


PREPROCESSOR = {
    "do_resize": True, "size": {"shortest_edge": 56}, "resample": 2, "do_center_crop": True,
    "crop_size": {"height": 48, "width": 48}, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip


@fuzz
@given(damaged(PREPROCESSOR))
def test_preprocessor(folder, content):
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "preprocessor_config.json").write_bytes(content)
    assert_clear(lambda: clip.read_config(folder), "preprocessor_config.json")


@fuzz
@given(damaged({"image_processor": PREPROCESSOR, "processor_class": "CLIPProcessor"}))
def test_processor(folder, content):
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    (folder / "processor_config.json").write_bytes(content)
    assert_clear(lambda: clip.read_config(folder), "processor_config.json")


SHARD = "model-00001-of-00001.safetensors"


@fuzz
@given(damaged({"metadata": {"total_size": 8}, "weight_map": {"a": SHARD, "b": SHARD}}))
def test_index(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "index"
    folder.mkdir(exist_ok=True)
    (folder / SHARD).write_bytes(b"")
    (folder / "model.safetensors.index.json").write_bytes(content)
    assert_clear(lambda: hub.weights_files(folder), "model.safetensors.index.json")


# ---- Tokenizers


@pytest.fixture(scope="module")
def tokenizer_folder(folder, tmp_path_factory):
    """The files of both forms: a vocabulary with merges, and one tokenizer.json."""
    made = tmp_path_factory.mktemp("tokenizer")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(folder / name, made)
    Tokenizer.from_pretrained(made, 77).save(made / "saved")
    for name in ("config.json",):
        for place in (made, made / "saved"):
            (place / name).write_text(json.dumps(CONFIG))
    return made


def whole(name):
    """A tokenizer's file of the reference model; drawn before any fixture exists."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as made:
        folder = reference.write_folder(Path(made) / "clip", CONFIG)
        Tokenizer.from_pretrained(folder, 77).save(folder / "saved")
        found = folder / "saved" / name
        return json.loads((found if found.exists() else folder / name).read_text())


def check_tokenizer(folder, name, content):
    before = (folder / name).read_bytes() if (folder / name).exists() else None
    (folder / name).write_bytes(content)
    try:
        assert_clear(lambda: _read_tokenizer(folder), name, str(folder))
    finally:
        if before is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(before)


def _read_tokenizer(folder):
    tokenizer = Tokenizer.from_pretrained(folder, 77)
    pretrained._check_vocabulary(clip.ClipConfig.from_hf(CONFIG), tokenizer, f"{folder}: ")
    tokenizer.vocabulary()


@fuzz
@given(damaged(whole("tokenizer.json")))
def test_tokenizer(tokenizer_folder, content):
    check_tokenizer(tokenizer_folder / "saved", "tokenizer.json", content)


@fuzz
@given(damaged(whole("tokenizer_config.json")))
def test_tokenizer_config(tokenizer_folder, content):
    check_tokenizer(tokenizer_folder, "tokenizer_config.json", content)


@fuzz
@given(
    damaged(
        {
            "bos_token": "<|startoftext|>",
            "eos_token": {
                "content": "<|endoftext|>",
                "lstrip": False,
                "normalized": True,
                "rstrip": False,
                "single_word": False,
            },
        }
    )
)
def test_special_tokens(tokenizer_folder, content):
    check_tokenizer(tokenizer_folder, "special_tokens_map.json", content)


@fuzz
@given(damaged(whole("vocab.json")))
def test_vocabulary(tokenizer_folder, content):
    check_tokenizer(tokenizer_folder, "vocab.json", content)


@fuzz
@given(st.data())
def test_merges(tokenizer_folder, data):
    content = (tokenizer_folder / "merges.txt").read_bytes()
    at = data.draw(st.integers(0, len(content)))
    odd = [
        b"",
        b"\0",
        b"\xff",
        b"x y\n",
        b" ",
        b"\n",
        b"a b c\n",
        "\u2028é\n".encode(),
        b"a" * 9999,
    ]
    content = (
        content[:at]
        + data.draw(st.sampled_from(odd))
        + content[at + data.draw(st.integers(0, 9)) :]
    )
    check_tokenizer(tokenizer_folder, "merges.txt", content)


# ---- Weights


@fuzz
@given(st.data())
def test_weights(folder, data):
    (folder / "config.json").write_text(json.dumps(CONFIG))
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    at = data.draw(st.one_of(st.integers(0, 8), st.integers(0, header), st.integers(0, len(whole))))
    change = data.draw(st.sampled_from(["cut", "flip", "insert"]))
    odd = data.draw(st.binary(min_size=1, max_size=8))
    kept = {"cut": whole[:at], "flip": whole[:at] + odd + whole[at + len(odd) :]}
    content = kept.get(change, whole[:at] + odd + whole[at:])
    damaged_folder = folder / "damaged"
    damaged_folder.mkdir(exist_ok=True)
    (damaged_folder / "model.safetensors").write_bytes(content)
    shapes()  # outside of what is timed

    def read():
        files = hub.weights_files(damaged_folder)
        found = pretrained.weights.read(files)
        with warnings.catch_warnings(action="ignore"):  # of what is left out
            pretrained.weights.from_hf(found, shapes(), np.float32, str(files[0]))

    assert_clear(read, "model.safetensors")


@functools.cache
def shapes():
    config = clip.ClipConfig.from_hf(CONFIG)
    model = nnx.eval_shape(lambda: clip.Clip(config, nnx.Rngs(0)))
    return {name: leaf.shape for name, leaf in pretrained._flat(nnx.state(model)).items()}


# ---- What a run writes


ARRAYS = {"prompts": {"context": np.zeros((2, 1, 3, 4), np.float32)}}
SETTINGS = methods.configure("cdc").config.to_dict()
ADAPTED = {
    "format": export.FORMAT, "family": "prompt_tuning", "settings": SETTINGS,
    "class_names": ["cat", "dog"], "template": "a {}.",
    "base": {"model": "world", "dtype": "float32", "hash": "0"},
    "preprocessing": {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resample": 2},
    "arrays": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted")
    kept = {k: v for k, v in ADAPTED.items() if k not in ("format", "arrays", "settings")}
    whole = methods.configure("cdc").config
    export.write(folder, export.Adapted(methods.Learned(ARRAYS, {}), settings=whole, **kept))
    return folder, json.loads((folder / "adapted.json").read_text())["arrays"]


@fuzz
@given(damaged(ADAPTED))
def test_adapted(adapted, content):
    folder, digest = adapted
    content = content.replace(b'"arrays": ""', b'"arrays": "%s"' % digest.encode())
    (folder / "adapted.json").write_bytes(content)
    assert_clear(lambda: export.read(folder).images, "adapted.json", str(folder))


RESULTS = Results(
    row=RowRecord("cdc", "cdc", "CDC", "reference", {"views": "flip"}, False),
    task=TaskRecord("world aligned", "few_shot", "", 16, 1, {"model": "world"}, ""),
    splits={"test": SplitRecord()},
    figures={"test": {"images": 4, "accuracy": 75.0}},
    summary={"accuracy": 75.0},
    facts={},
    steps=12,
    trainable_parameters=512,
    skipped=[{"file": "a.jpg", "reason": "it is empty"}],
    device="1 x cpu",
).to_json()


@fuzz
@given(damaged(json.loads(json.dumps(RESULTS))))
def test_results(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "results"
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_bytes(content)
    (folder / "config.json").write_text(json.dumps(CONFIG_1))
    assert_clear(lambda: run_folder.read_results(folder), "results.json")


CONFIG_1 = {
    "dataset": "world", "shots": 16, "seed": 2, "model": "world", "dtype": "float32",
    "world": {"kind": "task_misaligned", "rho": 0.9}, "data": {"root": "", "split": ""},
    "method": defaults.of_family("prompt_tuning").to_dict(),
}  # fmt: skip
RESULTS_1 = {
    "method": "cdc@views=flip", "splits": {"base_iid": {"images": 4, "accuracy": 75.0}},
    "summary": {"H_int": 60.0}, "phrases": "a photo of a", "steps": 40,
    "trainable_parameters": 2048, "skipped": {"images": []}, "device": "1 x cpu",
}  # fmt: skip


@fuzz
@given(damaged(RESULTS_1), damaged(CONFIG_1), st.sampled_from([0, 1]))
def test_results_of_format_1(tmp_path_factory, results, config, whole):
    folder = tmp_path_factory.getbasetemp() / "results_1"
    folder.mkdir(exist_ok=True)
    contents = [results, config]
    contents[whole] = json.dumps([RESULTS_1, CONFIG_1][whole]).encode()
    for name, content in zip(("results.json", "config.json"), contents, strict=True):
        (folder / name).write_bytes(content)
    assert_clear(lambda: run_folder.read_results(folder), "results.json", "config.json")
