"""Whole models: a folder in Hugging Face's format <-> a `Clip` and its `Tokenizer`."""

import json
import weakref
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from cdc_jax import schema, writing
from cdc_jax.clip import hub, weights
from cdc_jax.clip.config import ClipConfig
from cdc_jax.clip.model import Clip
from cdc_jax.clip.tokenizer import Tokenizer

_FILE = "model.safetensors"
_PROCESSOR = schema.record(
    image_processor=schema.optional(schema.table(schema.anything())),
)


def load(name_or_path: str | Path, dtype: Any = jnp.float32) -> tuple[Clip, Tokenizer]:
    """A pretrained CLIP and its tokenizer.

    Args:
      name_or_path: "world" (the small model of this package), a local folder in Hugging Face's
        format, or a model id on the hub, such as "openai/clip-vit-base-patch16", with a revision
        behind an `@` if it is not to be the newest.
      dtype: of the weights: float32, bfloat16 or float16.

    Raises:
      FileNotFoundError, PermissionError, ConnectionError: see `hub.find`; a file is missing.
      ValueError: settings or weights that are not CLIP's, or do not fit each other.
    """
    folder = hub.find(name_or_path)
    config = _config(folder)
    tokenizer = Tokenizer.from_pretrained(folder, config.context_length)
    _check_vocabulary(config, tokenizer, f"{folder}: ")
    graph, state = nnx.split(nnx.eval_shape(lambda: Clip(config, nnx.Rngs(0))))
    shapes = {path: leaf.shape for path, leaf in _flat(state).items()}
    files = hub.weights_files(folder)
    where = f"the weights of {files[0] if len(files) == 1 else folder}"
    host_arrays = weights.from_hf(weights.read(files), shapes, dtype, where)
    # By one transfer: jnp.asarray compiles a program for each shape.
    arrays = jax.device_put(host_arrays)
    nnx.replace_by_pure_dict(state, flax.traverse_util.unflatten_dict(arrays, sep="."))
    return nnx.merge(graph, state), tokenizer


def read_config(name_or_path: str | Path) -> ClipConfig:
    """Reads the configuration of a model without its weights.

    Raises:
      FileNotFoundError, PermissionError, ConnectionError, ValueError: as `load`.
    """
    return _config(hub.find(name_or_path, weights=False))


def save_pretrained(clip: Clip, tokenizer: Tokenizer, path: str | Path, dtype: Any = None) -> None:
    """Writes a folder that `load` and `transformers.CLIPModel.from_pretrained` open.

    Args:
      clip: the model.
      tokenizer: its tokenizer.
      path: a folder, created if need be.
      dtype: of the stored weights; None keeps the model's. The logit scale stays float32.

    Raises:
      FileExistsError: the folder holds other files than such a model.
      ValueError: the tokenizer does not fit the model, or weights overflow `dtype`.
    """
    _check_vocabulary(clip.config, tokenizer)
    folder = Path(path).expanduser()
    dtype = jnp.dtype(clip.text.projection.dtype if dtype is None else dtype)
    arrays = jax.device_get(parameters(clip))
    cast = {name: weights.cast(name, value, dtype) for name, value in arrays.items()}
    _make_room(folder)
    tokenizer.save(folder)
    for name, contents in {
        "config.json": clip.config.to_hf() | {"dtype": dtype.name},
        "preprocessor_config.json": clip.config.preprocessor_to_hf(),
    }.items():
        writing.write_text(folder / name, json.dumps(contents, indent=2) + "\n")
    tensors = {name: np.asarray(x, order="C") for name, x in weights.to_hf(cast).items()}
    # save_file would make a file that only its owner may read.
    writing.write_bytes(folder / _FILE, safetensors.numpy.save(tensors, metadata={"format": "pt"}))


_hashed: dict[str, dict[str, weakref.ref[jax.Array]]] = {}  # the last hash, of which arrays


def weights_hash(clip: Clip) -> str:
    """SHA-256 of a model's weights: their names, dtypes, shapes and bytes, in hexadecimal.

    Arrays that were hashed last are not hashed again.
    """
    arrays = parameters(clip)
    for digest, of in _hashed.items():
        if of.keys() == arrays.keys() and all(of[name]() is arrays[name] for name in of):
            return digest
    digest = weights.digest(jax.device_get(arrays))
    _hashed.clear()
    if all(isinstance(array, jax.Array) for array in arrays.values()):  # these never change
        _hashed[digest] = {name: weakref.ref(array) for name, array in arrays.items()}
    return digest


def parameters(clip: Clip) -> dict[str, jax.Array]:
    """A model's weights by name, parts joined by dots."""
    return _flat(nnx.state(clip, nnx.Param))


def _flat(state: Any) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(nnx.to_pure_dict(state), sep=".")


def _config(folder: Path) -> ClipConfig:
    path = folder / "config.json"
    preprocessor, where = _preprocessor(folder)
    return ClipConfig.from_hf(
        schema.read_json(path, remedy=hub.DAMAGED), preprocessor, str(path), where
    )


def _preprocessor(folder: Path) -> tuple[dict[str, Any], str]:
    """The image processor's settings, and where they stand: transformers 5 has one file for all."""
    path, whole = folder / "preprocessor_config.json", folder / "processor_config.json"
    if path.exists():
        return schema.read_json(path, remedy=hub.DAMAGED), str(path)
    if whole.exists():
        settings = schema.read_json(whole, _PROCESSOR, remedy=hub.DAMAGED)["image_processor"]
        if settings is not None:
            return settings, f"{whole}: image_processor"
    raise FileNotFoundError(
        f"preprocessor_config.json is missing from {folder}: it says how images are normalised; "
        "copy it from where the model came"
    )


def _check_vocabulary(config: ClipConfig, tokenizer: Tokenizer, where: str = "") -> None:
    """Raises ValueError unless the text tower pools at the tokenizer's end-of-text."""
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{where}the tokenizer has {tokenizer.vocab_size} tokens, the model "
            f"{config.vocab_size} (vocab_size in config.json): take both from the same model"
        )
    end = tokenizer.vocab_size - 1 if config.eot_id == 2 else config.eot_id
    if tokenizer.eot_id != end:
        raise ValueError(
            f"{where}the model ends texts at token {end} (eos_token_id {config.eot_id} in "
            f"config.json), the tokenizer at {tokenizer.eot_id}: take both from the same model"
        )
    if tokenizer.context_length != config.context_length:
        raise ValueError(
            f"{where}the tokenizer's context length is {tokenizer.context_length}, the model's "
            f"{config.context_length}: take both from the same model"
        )


def _make_room(folder: Path) -> None:
    """Creates the folder, or checks that it holds nothing but an older CLIP."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        return
    config = folder / "config.json"
    if (
        not config.is_file()
        or schema.read_json(config, remedy="choose another folder").get("model_type") != "clip"
    ):
        raise FileExistsError(f"{folder} is not empty and holds no CLIP: choose another folder")
    suffixes = (".safetensors", ".index.json", ".msgpack", ".bin", ".h5")
    others = [f.name for f in folder.iterdir() if f.name.endswith(suffixes)]
    if others := [name for name in others if name != _FILE]:
        raise FileExistsError(f"{folder} holds other weights, {others}: choose another folder")
