"""Folders of models as people have them: what is read and said, what is refused and named."""

import json
import os
import warnings

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from references import clip_reference as reference

from cdc_jax import clip as clip_lib
from cdc_jax.clip import hub, hub_download, pretrained, weights
from cdc_jax.clip.tokenizer import Tokenizer

CONFIG = reference.CONFIGS["patch8_mixed"]
FC1 = "text_model.encoder.layers.0.mlp.fc1.weight"
SCALE = "logit_scale"


@pytest.fixture
def folder(tmp_path):
    return reference.write_folder(tmp_path / "clip", CONFIG)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The hash of the model that every good folder here holds."""
    folder = reference.write_folder(tmp_path_factory.mktemp("plain") / "clip", CONFIG)
    reference.write_weights(folder, reference.weights(CONFIG))
    return clip_lib.weights_hash(clip_lib.load(folder)[0])


def tensors():
    return reference.weights(CONFIG)


def prefixed(prefix):
    return {prefix + name: value for name, value in tensors().items()}


HEAD = {"classifier.weight": np.ones((3, 32), np.float32), "head.bias": np.ones(3, np.float32)}


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (tensors() | {SCALE: tensors()[SCALE].reshape(1)}, ""),
        (prefixed("module."), "the prefix 'module.'$"),
        (prefixed("clip."), "the prefix 'clip.'$"),
        (prefixed("_orig_mod.model."), "the prefix '_orig_mod.model.'$"),
        (tensors() | HEAD, "2 tensors that are no part of a CLIP: classifier.weight; head.bias$"),
        (prefixed("module.clip.") | HEAD, "the prefix 'module.clip.' and 2 tensors that are no"),
        (
            tensors() | prefixed("ema."),
            r"\d+ tensors that are no part of a CLIP: ema.logit_scale; .*; …$",
        ),
    ],
)
def test_weights_within_wrappers_are_read_and_said_once(folder, plain, stored, said):
    reference.write_weights(folder, stored)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        model, _ = clip_lib.load(folder)
    assert clip_lib.weights_hash(model) == plain
    assert len(caught) == bool(said)
    if said:
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(str(caught[0].message))
        assert "model.safetensors: left out " in str(caught[0].message)


def test_two_wrapped_models_are_ambiguous(folder):
    reference.write_weights(folder, prefixed("a.") | prefixed("b."))
    with pytest.raises(ValueError, match=r"several CLIPs, with prefixes \['a.', 'b.'\]: save the"):
        clip_lib.load(folder)


def test_files_of_a_variant_are_read(folder, plain):
    reference.write_weights(folder, tensors())
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    assert clip_lib.weights_hash(clip_lib.load(folder)[0]) == plain
    (folder / "model.bf16.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="model.bf16.safetensors and model.fp16.safetensors, and"):
        clip_lib.load(folder)
    reference.write_weights(folder, tensors())  # the usual name comes first
    assert clip_lib.weights_hash(clip_lib.load(folder)[0]) == plain


def test_shards_of_a_variant_are_found(tmp_path):
    shard = "model.fp16-00001-of-00001.safetensors"
    (tmp_path / shard).write_bytes(b"")
    index = {"weight_map": {"a": shard}}
    (tmp_path / "model.safetensors.index.fp16.json").write_text(json.dumps(index))
    assert hub.weights_files(tmp_path) == [tmp_path / shard]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", [FC1, SCALE, "vision_model.embeddings.class_embedding"])
def test_numbers_that_are_not_finite_are_refused_by_name(value, dtype, name):
    stored = {key: np.asarray(x.astype(dtype)) for key, x in tensors().items()}
    stored[name] = stored[name].copy()
    stored[name].ravel()[-1:] = value
    config = clip_lib.ClipConfig.from_hf(CONFIG)
    model = pretrained.nnx.eval_shape(lambda: clip_lib.Clip(config, pretrained.nnx.Rngs(0)))
    shapes = {k: leaf.shape for k, leaf in pretrained._flat(pretrained.nnx.state(model)).items()}
    size = stored[name].size
    with pytest.raises(ValueError, match=f"^W: {name} holds 1 numbers that are not .*, of {size};"):
        weights.from_hf(stored, shapes, np.float32, "W")


# ---- Files that are none


@pytest.mark.parametrize(
    "name",
    [
        "config.json", "preprocessor_config.json", "model.safetensors", "vocab.json",
        "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "chat_template.jinja",
    ],
)  # fmt: skip
@pytest.mark.parametrize("what", ["a pipe", "a device", "a folder"])
def test_what_is_no_regular_file_is_refused_at_once(folder, name, what):
    reference.write_weights(folder, tensors())
    (folder / name).unlink(missing_ok=True)
    {
        "a pipe": os.mkfifo,
        "a device": lambda path: path.symlink_to("/dev/zero"),
        "a folder": lambda path: path.mkdir(),
    }[what](folder / name)
    with pytest.raises(ValueError, match=f"{name} is {what}, not a regular file"):
        clip_lib.load(folder)


def header(claimed, content=b""):
    return claimed.to_bytes(8, "little") + content


ENTRY = '{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, %s]}}'


@pytest.mark.parametrize(
    "content",
    [
        header(2**62), header(2**31), header(100, b"{}"), header(2, b"[]"),
        header(60, b"[" * 60), header(100_000, b"[" * 100_000),
        header(len(ENTRY % (4, 10**12)), (ENTRY % (4, 10**12)).encode()),
        header(len(ENTRY % (2**62, 16)), (ENTRY % (2**62, 16)).encode() + bytes(16)),
        safetensors.numpy.save({"a": np.ones(4, np.float32)})[:-1],
        safetensors.numpy.save({"a": np.ones(4, np.float32)}) + b"\0",
        safetensors.numpy.save({"a": np.ones(4, np.float32)}).replace(b"F32", b"F99"),
    ],
)  # fmt: skip
def test_headers_that_claim_too_much(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"model.safetensors can't be read \(.*incomplete"
    ) as caught:
        weights.read(hub.weights_files(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"\x91" * 2000, b"\x81\xa1a\x01", b"\xc1", b"\x90", b"\x81\x01\x02"]
)
def test_msgpack_that_holds_no_weights(tmp_path, content):
    (tmp_path / "flax_model.msgpack").write_bytes(content)
    with pytest.raises(ValueError, match=r"flax_model.msgpack can't be read \(") as caught:
        weights.read(hub.weights_files(tmp_path))
    assert "\n" not in str(caught.value)


# ---- Tokenizers


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder whose tokenizer is one file, tokenizer.json."""
    folder = reference.write_folder(tmp_path_factory.mktemp("tokenizer") / "clip", CONFIG)
    Tokenizer.from_pretrained(folder, 20).save(folder / "saved")
    (folder / "saved" / "config.json").write_text(json.dumps(CONFIG))
    return folder / "saved"


def change(contents, *keys, value):
    *parents, last = keys
    for key in parents:
        contents = contents[key]
    contents[last] = value


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ((), None, "tokenizer.json lacks model; copy"),
        (("model",), [], "tokenizer.json: model must be an object, got"),
        (("model",), {}, "tokenizer.json: model lacks vocab; copy"),
        (("model", "vocab"), {}, "model.vocab must be an object of at least 1 entries or a list"),
        (("model", "vocab"), {"a": "1"}, r"model.vocab.a must be a whole number .*, got '1'"),
        (("model", "vocab"), {"a": -1}, r"model.vocab.a must be a whole number .*, got -1"),
        (("model", "vocab"), {"a": 2**40}, r"model.vocab.a must be a whole number"),
        (("model", "vocab"), {"a": 0, "b": 0}, "vocab gives one id to several tokens; copy"),
        (("model", "merges"), ["q9 z9"], "the merge 'q9 z9' needs the token 'q9', which the vocab"),
        (("model", "merges"), [["q9", "z9"]], r"the merge \['q9', 'z9'\] needs the token 'q9'"),
        (("model", "merges"), ["a"], "a merge must be of two tokens, got 'a'; copy"),
        (("model", "merges"), [3], r"merges\[0\] must be a text or a list of 2 items, got 3"),
        (("model", "merges"), "a b", "merges must be a list, got 'a b'"),
        (("added_tokens",), [{"id": 1}], r"added_tokens\[0\] lacks content"),
        (("added_tokens",), [{"id": -1, "content": "x"}], r"added_tokens\[0\].id must be a whole"),
        (("added_tokens",), {"a": 1}, "added_tokens must be a list, got"),
    ],
)
def test_a_tokenizer_that_is_none_is_named(saved, tmp_path, keys, value, message):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    contents = json.loads((saved / "tokenizer.json").read_text())
    if keys:
        change(contents, *keys, value=value)
    else:
        contents = {}
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.from_pretrained(tmp_path, 20)
    assert "\n" not in str(caught.value)


def test_an_id_beyond_the_models_is_refused(folder):
    vocabulary = json.loads((folder / "vocab.json").read_text())
    first = next(iter(vocabulary))
    vocabulary[first] = 5000
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(
        ValueError, match=r"the tokenizer has 5001 tokens, the model 60 \(vocab_size"
    ):
        clip_lib.load(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", "[]", "vocab.json: expected a JSON object, got list"),
        ("vocab.json", "{}", "vocab.json must be an object of at least 1 entries, got"),
        ("merges.txt", "#version: 0.2\na b c\n", "merges.txt: a merge must be of two tokens"),
        ("merges.txt", "q9 z9\n", "merges.txt: the merge 'q9 z9' needs the token 'q9'"),
        (
            "tokenizer_config.json",
            '{"bos_token": 3}',
            "bos_token must be a text or an object with content, got 3",
        ),
        ("tokenizer_config.json", '{"model_max_length": "x"}', "model_max_length must be a finite"),
        ("tokenizer_config.json", '{"tokenizer_class": ["x"]}', "tokenizer_class must be a text"),
        (
            "special_tokens_map.json",
            '{"eos_token": {}}',
            "eos_token must be a text or an object with content, got {}",
        ),
    ],
)
def test_other_files_of_a_tokenizer(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.from_pretrained(folder, 20)
    assert name in str(caught.value) and "\n" not in str(caught.value)


# ---- Names


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ViT-B/16", "give 'openai/clip-vit-base-patch16'"),
        ("ViT-B-16", "give 'openai/clip-vit-base-patch16'"),
        ("vit_b_32", "give 'openai/clip-vit-base-patch32'"),
        ("ViT-B-32-quickgelu", "give 'openai/clip-vit-base-patch32'"),
        ("ViT-L/14", "give 'openai/clip-vit-large-patch14'"),
        ("ViT-L/14@336px", "give 'openai/clip-vit-large-patch14-336'"),
        ("ViT-L-14-336", "give 'openai/clip-vit-large-patch14-336'"),
        ("ViT-H-14", "give 'laion/CLIP-ViT-H-14-laion2B-s32B-b79K'"),
        ("RN50", "a CLIP with a ResNet is not supported"),
        ("RN50x64", "a CLIP with a ResNet is not supported"),
        ("RN101-quickgelu", "a CLIP with a ResNet is not supported"),
        ("hf-hub:laion/CLIP-x", "give 'laion/CLIP-x', where that holds a config.json"),
        ("https://huggingface.co/openai/clip-vit-base-patch16", "'openai/clip-vit-base-patch16'"),
        ("https://huggingface.co/openai/x/tree/main", "give 'openai/x'"),
    ],
)
def test_names_of_other_packages_get_the_id(monkeypatch, name, hint):
    monkeypatch.setattr(
        hub_download, "download", lambda *_: pytest.fail("nothing is asked of the hub")
    )
    with pytest.raises(FileNotFoundError) as caught:
        clip_lib.load(name)
    assert repr(name) in str(caught.value) and hint in str(caught.value)


def test_a_file_in_place_of_a_folder(folder):
    with pytest.raises(
        FileNotFoundError, match="config.json is a file: give the folder that holds"
    ):
        clip_lib.load(folder / "config.json")


@pytest.mark.parametrize("name", ["openai/clip-vit-base-patch16", "a/b"])
@pytest.mark.parametrize("revision", [None, "main", "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"])
def test_a_name_may_carry_a_revision(monkeypatch, tmp_path, name, revision):
    asked = []
    monkeypatch.setattr(hub_download, "download", lambda *given: asked.append(given) or tmp_path)
    assert hub.find(f"{name}@{revision}" if revision else name, weights=False) == tmp_path
    assert asked == [(name, revision, False)]
