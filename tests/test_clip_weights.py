"""Weights and files: what is read, what is refused and why, what is written."""

import json
import shutil

import flax.serialization
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import transformers
from references import clip_reference as reference

from cdc_jax import clip as clip_lib

NAME = "patch16"
CONFIG = reference.CONFIGS[NAME]
FC1 = "text_model.encoder.layers.1.mlp.fc1.weight"


@pytest.fixture
def folder(tmp_path):
    """A model's folder without weights."""
    return reference.write_folder(tmp_path / "clip", CONFIG)


@pytest.fixture
def tensors():
    return reference.weights(CONFIG)


def write(folder, tensors, name="model.safetensors"):
    safetensors.numpy.save_file(tensors, folder / name)
    return folder


def write_shards(folder, tensors):
    names = sorted(tensors)
    shards = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for shard, part in shards.items():
        write(folder, {name: tensors[name] for name in part}, shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def edit(folder, name, **changes):
    contents = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(contents | changes))


def refusal(folder, error=ValueError):
    with pytest.raises(error) as caught:
        clip_lib.load(folder)
    return str(caught.value)


# ---- Reading


@pytest.mark.parametrize("name", reference.CONFIGS)
def test_every_tensor_survives_reading_and_writing(name, tmp_path):
    config = reference.CONFIGS[name]
    tensors = reference.weights(config)
    clip, tokenizer = clip_lib.load(write(reference.write_folder(tmp_path / "a", config), tensors))
    clip_lib.save_pretrained(clip, tokenizer, tmp_path / "b")
    written = safetensors.numpy.load_file(tmp_path / "b" / "model.safetensors")
    assert written.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(written[key], tensor)
        assert written[key].dtype == np.float32
    again, tokenizer_again = clip_lib.load(tmp_path / "b")
    assert again.config == clip.config
    assert clip_lib.weights_hash(again) == clip_lib.weights_hash(clip)
    assert tokenizer_again.vocabulary() == tokenizer.vocabulary()
    assert tokenizer_again.context_length == config["text_config"]["max_position_embeddings"]


@pytest.mark.parametrize("name", reference.CONFIGS)
def test_flax_and_sharded_files_hold_the_same_model(name, tmp_path):
    config = reference.CONFIGS[name]
    tensors = reference.weights(config)
    folders = [reference.write_folder(tmp_path / kind, config) for kind in "abc"]
    write(folders[0], tensors)
    write_shards(folders[1], tensors)
    tree = flax.serialization.to_bytes(reference.flax_tree(tensors))
    (folders[2] / "flax_model.msgpack").write_bytes(tree)
    hashes = {clip_lib.weights_hash(clip_lib.load(folder)[0]) for folder in folders}
    assert len(hashes) == 1


def test_safetensors_come_before_msgpack(folder, tensors):
    write(folder, tensors)
    (folder / "flax_model.msgpack").write_bytes(b"not read")
    assert clip_lib.load(folder)[0].config.image_size == 48


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_half_precision_files(folder, tensors, stored, dtype):
    write(folder, {name: np.asarray(tensor.astype(stored)) for name, tensor in tensors.items()})
    clip, _ = clip_lib.load(folder, dtype)
    expected = jnp.asarray(tensors[FC1].astype(stored).T).astype(dtype)
    found = clip.text.blocks.mlp_in.kernel[1]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)
    assert clip.log_logit_scale.dtype == jnp.float32
    assert clip.log_logit_scale == tensors["logit_scale"].astype(stored).astype(np.float32)


def test_dtypes_are_checked(folder, tensors):
    write(folder, tensors | {FC1: tensors[FC1] * 1e6})
    with pytest.raises(ValueError, match="float32, bfloat16, float16, got int8"):
        clip_lib.load(folder, jnp.int8)
    with pytest.raises(ValueError, match="text.blocks.mlp_in.kernel .* float16's range"):
        clip_lib.load(folder, jnp.float16)
    clip, tokenizer = clip_lib.load(folder)
    with pytest.raises(ValueError, match="float16's range: use bfloat16 or float32"):
        clip_lib.save_pretrained(clip, tokenizer, folder / "half", jnp.float16)


def test_position_ids_are_accepted_where_they_count_up(folder, tensors):
    buffers = {
        "text_model.embeddings.position_ids": np.arange(77)[None],
        "vision_model.embeddings.position_ids": np.arange(10)[None],
    }
    expected = clip_lib.weights_hash(clip_lib.load(write(folder, tensors))[0])
    assert clip_lib.weights_hash(clip_lib.load(write(folder, tensors | buffers))[0]) == expected
    buffers["vision_model.embeddings.position_ids"] = np.arange(10)[None, ::-1].copy()
    message = refusal(write(folder, tensors | buffers))
    assert "unexpected: vision_model.embeddings.position_ids int64[1, 10]" in message
    assert "text_model" not in message


# ---- Refusals


def test_all_that_does_not_fit_is_listed(folder, tensors):
    del tensors["logit_scale"], tensors["text_model.final_layer_norm.bias"]
    tensors["visual_projection.bias"] = np.zeros(24, np.float32)
    tensors[FC1] = tensors[FC1].T.copy()
    tensors["text_projection.weight"] = tensors["text_projection.weight"].astype(np.int8)
    assert refusal(write(folder, tensors)).splitlines() == [
        "the weights do not fit the CLIP that config.json describes:",
        f"  misshapen: {FC1} [48, 100], expected [100, 48]",
        "  missing: logit_scale",
        "  missing: text_model.final_layer_norm.bias",
        "  not floating point: text_projection.weight int8",
        "  unexpected: visual_projection.bias float32[24]",
    ]


@pytest.mark.parametrize("layers, word", [(1, "unexpected"), (3, "missing")])
def test_another_depth_is_refused(folder, tensors, layers, word):
    edit(folder, "config.json", text_config=CONFIG["text_config"] | {"num_hidden_layers": layers})
    lines = refusal(write(folder, tensors)).splitlines()[1:]
    assert len(lines) == 16
    assert all(line.startswith(f"  {word}: text_model.encoder.layers.") for line in lines)


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
    write_shards(folder, tensors)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "missing: model-00002-of-00002.safetensors" in refusal(folder, FileNotFoundError)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {FC1: "../outside.safetensors"}}))
    assert "must name files beside it, got ['../outside.safetensors']" in refusal(folder)
    index.write_text("{}")
    assert "must name files beside it, got []" in refusal(folder)


@pytest.mark.parametrize(
    "name, remedy",
    [
        ("config.json", "config.json is missing from"),
        ("vocab.json", "copy the tokenizer files"),
        ("preprocessor_config.json", "how images are normalised; copy it"),
    ],
)
def test_missing_files_are_named(folder, tensors, name, remedy):
    (write(folder, tensors) / name).unlink()
    assert remedy in refusal(folder, FileNotFoundError)


def test_broken_json_is_named(folder):
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in refusal(folder)
    (folder / "config.json").write_text("[]")
    assert "config.json must hold a JSON object, not list" in refusal(folder)


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
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    clip, _ = clip_lib.load(write(folder, tensors))
    assert clip.config.mean == (0.1, 0.2, 0.3) and clip.config.std == (1, 2, 3)


# ---- Writing


def test_transformers_reads_what_is_written(folder, tensors, tmp_path):
    clip, tokenizer = clip_lib.load(write(folder, tensors))
    clip_lib.save_pretrained(clip, tokenizer, tmp_path / "a" / "b", jnp.float16)
    path = tmp_path / "a" / "b"
    config = transformers.CLIPConfig.from_pretrained(path)
    assert config.projection_dim == 24
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
    clip, tokenizer = clip_lib.load(write(folder, tensors))
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
    clip, _ = clip_lib.load(write(folder, tensors))
    other = clip_lib.Tokenizer.from_pretrained(folder, context_length=20)
    with pytest.raises(ValueError, match="context length is 20, the model's 77"):
        clip_lib.save_pretrained(clip, other, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_hash_is_fixed_and_sees_every_change(folder, tensors):
    def digest(**changes):
        return clip_lib.weights_hash(clip_lib.load(write(folder, tensors | changes))[0])

    # Fixed: adapted models on disk carry this hash.
    assert digest() == "04ba54921d1de9fdaeb4c9aa7dadad08ebff74781439f15b118cbb2976c21b49"
    changed = tensors[FC1].copy()
    changed[0, 0] += 1e-6
    assert digest(**{FC1: changed}) != digest()
    assert clip_lib.weights_hash(clip_lib.load(folder, jnp.bfloat16)[0]) != digest()
