"""The table between CLIPModel's tensors and ours: every tensor, every refusal, every dtype."""

import json

import flax.serialization
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
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


def refusal(folder, error=ValueError):
    with pytest.raises(error) as caught:
        clip_lib.load(folder)
    return str(caught.value)


# ---- Reading


@pytest.mark.parametrize("name", reference.CONFIGS)
def test_every_tensor_survives_reading_and_writing(name, tmp_path):
    config = reference.CONFIGS[name]
    tensors = reference.weights(config)
    clip, tokenizer = clip_lib.load(
        reference.write_weights(reference.write_folder(tmp_path / "a", config), tensors)
    )
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
    reference.write_weights(folders[0], tensors)
    reference.write_shards(folders[1], tensors)
    tree = flax.serialization.to_bytes(reference.flax_tree(tensors))
    (folders[2] / "flax_model.msgpack").write_bytes(tree)
    hashes = {clip_lib.weights_hash(clip_lib.load(folder)[0]) for folder in folders}
    assert len(hashes) == 1


def test_safetensors_come_before_msgpack(folder, tensors):
    reference.write_weights(folder, tensors)
    (folder / "flax_model.msgpack").write_bytes(b"not read")
    assert clip_lib.load(folder)[0].config.image_size == 48


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_half_precision_files(folder, tensors, stored, dtype):
    reference.write_weights(
        folder, {name: np.asarray(tensor.astype(stored)) for name, tensor in tensors.items()}
    )
    clip, _ = clip_lib.load(folder, dtype)
    expected = jnp.asarray(tensors[FC1].astype(stored).T).astype(dtype)
    found = clip.text.blocks.mlp_in.kernel[1]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)
    assert clip.log_logit_scale.dtype == jnp.float32
    assert clip.log_logit_scale == tensors["logit_scale"].astype(stored).astype(np.float32)


def test_dtypes_are_checked(folder, tensors):
    reference.write_weights(folder, tensors | {FC1: tensors[FC1] * 1e6})
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
    expected = clip_lib.weights_hash(clip_lib.load(reference.write_weights(folder, tensors))[0])
    assert (
        clip_lib.weights_hash(clip_lib.load(reference.write_weights(folder, tensors | buffers))[0])
        == expected
    )
    buffers["vision_model.embeddings.position_ids"] = np.arange(10)[None, ::-1].copy()
    message = refusal(reference.write_weights(folder, tensors | buffers))
    assert "1 unexpected (vision_model.embeddings.position_ids int64[1, 10])" in message
    assert "text_model" not in message


# ---- Refusals


def test_all_that_does_not_fit_is_listed(folder, tensors):
    del tensors["logit_scale"], tensors["text_model.final_layer_norm.bias"]
    tensors["visual_projection.bias"] = np.zeros(24, np.float32)
    tensors[FC1] = tensors[FC1].T.copy()
    tensors["text_projection.weight"] = tensors["text_projection.weight"].astype(np.int8)
    message = refusal(reference.write_weights(folder, tensors))
    assert message == (
        f"the weights of {folder}/model.safetensors do not fit the CLIP that config.json "
        "describes: "
        "2 missing (logit_scale; text_model.final_layer_norm.bias), "
        "1 unexpected (visual_projection.bias float32[24]), "
        f"1 misshapen ({FC1} [48, 100], expected [100, 48]), "
        "1 not floating point (text_projection.weight int8); take both from the same model"
    )


@pytest.mark.parametrize("layers, word", [(1, "unexpected"), (3, "missing")])
def test_another_depth_is_refused(folder, tensors, layers, word):
    text = CONFIG["text_config"] | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(CONFIG | {"text_config": text}))
    message = refusal(reference.write_weights(folder, tensors))
    assert f": 16 {word} (text_model.encoder.layers." in message and "; …)" in message
    assert "\n" not in message


def test_hash_is_fixed_and_sees_every_change(folder, tensors):
    def digest(**changes):
        return clip_lib.weights_hash(
            clip_lib.load(reference.write_weights(folder, tensors | changes))[0]
        )

    # Fixed: adapted models on disk carry this hash.
    assert digest() == "04ba54921d1de9fdaeb4c9aa7dadad08ebff74781439f15b118cbb2976c21b49"
    changed = tensors[FC1].copy()
    changed[0, 0] += 1e-6
    assert digest(**{FC1: changed}) != digest()
    assert clip_lib.weights_hash(clip_lib.load(folder, jnp.bfloat16)[0]) != digest()
