"""Folders of models: what is read, what is refused and why, what is written."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import transformers
from references import clip_reference as reference

from cdc_jax import clip as clip_lib

CONFIG = reference.CONFIGS["patch16"]
FC1 = "text_model.encoder.layers.1.mlp.fc1.weight"


@pytest.fixture
def folder(tmp_path):
    """A model's folder without weights."""
    return reference.write_folder(tmp_path / "clip", CONFIG)


@pytest.fixture
def tensors():
    return reference.weights(CONFIG)


def edit(folder, name, **changes):
    contents = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(contents | changes))


def refusal(folder, error=ValueError):
    with pytest.raises(error) as caught:
        clip_lib.load(folder)
    return str(caught.value)


# ---- Reading


def test_pickled_weights_are_refused(folder):
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    message = refusal(folder, FileNotFoundError)
    assert "pytorch_model.bin) are never loaded" in message
    assert "CLIPModel.from_pretrained(SOURCE).save_pretrained(FOLDER)" in message


@pytest.mark.parametrize("name", ["model.safetensors", "flax_model.msgpack"])
@pytest.mark.parametrize(
    "contents", [b"version https://git-lfs.github.com/spec/v1\n", b"", b"\xc1"]
)
def test_broken_weights_files_are_named(folder, name, contents):
    (folder / name).write_bytes(contents)
    message = refusal(folder)
    assert name in message and "incomplete, or a Git LFS pointer?" in message


def test_broken_shards_are_named(folder, tensors):
    reference.write_shards(folder, tensors)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "missing: model-00002-of-00002.safetensors" in refusal(folder, FileNotFoundError)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {FC1: "../outside.safetensors"}}))
    assert "must name files beside it, got ['../outside.safetensors']" in refusal(folder)
    index.write_text("{}")
    assert "model.safetensors.index.json lacks weight_map" in refusal(folder)
    index.write_text('{"weight_map": {}}')
    assert "weight_map must be an object of at least 1 entries, got {}" in refusal(folder)


@pytest.mark.parametrize(
    "name, remedy",
    [
        ("config.json", "config.json is missing from"),
        ("vocab.json", "copy the tokenizer files"),
        ("preprocessor_config.json", "how images are normalised; copy it"),
    ],
)
def test_missing_files_are_named(folder, tensors, name, remedy):
    (reference.write_weights(folder, tensors) / name).unlink()
    assert remedy in refusal(folder, FileNotFoundError)


def test_broken_json_is_named(folder):
    (folder / "config.json").write_text("{")
    assert "config.json: half-written or not JSON" in refusal(folder)
    (folder / "config.json").write_text("[]")
    assert "config.json: expected a JSON object, got list" in refusal(folder)


@pytest.mark.parametrize(
    "text, message",
    [
        ({"eos_token_id": 61}, "ends texts at token 61 (eos_token_id 61 in config.json), the "),
        ({"eos_token_id": 2}, "ends texts at token 69 (eos_token_id 2 in config.json), the "),
        ({"vocab_size": 69}, "the tokenizer has 70 tokens, the model 69"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(folder, text, message):
    edit(folder, "config.json", text_config=CONFIG["text_config"] | text)
    assert message in refusal(folder)


def test_processor_config_of_transformers_5_is_read(folder, tensors):
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    assert "preprocessor_config.json is missing" in refusal(folder, FileNotFoundError)
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    clip, _ = clip_lib.load(reference.write_weights(folder, tensors))
    assert clip.config.mean == (0.1, 0.2, 0.3) and clip.config.std == (1, 2, 3)


# ---- Writing


def test_transformers_reads_what_is_written(folder, tensors, tmp_path):
    clip, tokenizer = clip_lib.load(reference.write_weights(folder, tensors))
    clip_lib.save_pretrained(clip, tokenizer, tmp_path / "a" / "b", jnp.float16)
    path = tmp_path / "a" / "b"
    config = transformers.CLIPConfig.from_pretrained(path)
    assert config.projection_dim == 24
    assert json.loads((path / "config.json").read_text())["dtype"] == "float16"
    for key, value in CONFIG["text_config"].items():
        assert getattr(config.text_config, key) == value
    for key, value in CONFIG["vision_config"].items():
        assert getattr(config.vision_config, key) == value
    hf = transformers.CLIPTokenizer.from_pretrained(path)
    assert hf("a dog")["input_ids"] == tokenizer(["a dog"])[0].tolist()
    assert hf.model_max_length == 77
    written = safetensors.numpy.load_file(path / "model.safetensors")
    assert written[FC1].dtype == np.float16
    assert written["logit_scale"].dtype == np.float32
    image = np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8)
    processor = transformers.CLIPImageProcessorPil.from_pretrained(path)
    pixels = processor(image, input_data_format="channels_last")["pixel_values"][0]
    expected = (image / 255 - np.array(clip.config.mean)) / np.array(clip.config.std)
    np.testing.assert_allclose(pixels.transpose(1, 2, 0), expected, atol=1e-5)


def test_an_earlier_model_is_overwritten_and_nothing_else(folder, tensors, tmp_path):
    clip, tokenizer = clip_lib.load(reference.write_weights(folder, tensors))
    shutil.copytree(folder, tmp_path / "old")
    clip_lib.save_pretrained(clip, tokenizer, tmp_path / "old", jnp.bfloat16)
    assert clip_lib.load(tmp_path / "old")[0].config == clip.config
    (tmp_path / "old" / "flax_model.msgpack").touch()
    with pytest.raises(FileExistsError, match=r"other weights, \['flax_model.msgpack'\]"):
        clip_lib.save_pretrained(clip, tokenizer, tmp_path / "old")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="notes is not empty and holds no CLIP"):
        clip_lib.save_pretrained(clip, tokenizer, tmp_path / "notes")
    assert [file.name for file in (tmp_path / "notes").iterdir()] == ["diary.txt"]


def test_a_tokenizer_that_does_not_fit_is_not_written(folder, tensors, tmp_path):
    clip, _ = clip_lib.load(reference.write_weights(folder, tensors))
    other = clip_lib.Tokenizer.from_pretrained(folder, context_length=20)
    with pytest.raises(ValueError, match="context length is 20, the model's 77"):
        clip_lib.save_pretrained(clip, other, tmp_path / "new")
    assert not (tmp_path / "new").exists()
