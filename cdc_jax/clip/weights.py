"""CLIP's weights and files in Hugging Face's format <-> `Clip`, strictly.

One table says where each parameter stands in `transformers`' CLIPModel; reading, writing and
the check of names and shapes all follow it.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from cdc_jax.clip import hub
from cdc_jax.clip.config import ClipConfig
from cdc_jax.clip.model import Clip
from cdc_jax.clip.tokenizer import Tokenizer

_FILE = "model.safetensors"
_DTYPES = ("float32", "bfloat16", "float16")
_SCALE = "log_logit_scale"  # stays float32 whatever the rest is: 1/τ multiplies every logit


def _conv_to_patches(kernel: np.ndarray) -> np.ndarray:
    """(width, channel, row, column) to (row * column * channel, width)."""
    return kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel))


def _patches_to_conv(kernel: np.ndarray) -> np.ndarray:
    patch = math.isqrt(len(kernel) // 3)
    return kernel.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A parameter of ours and the tensors of CLIPModel, joined on the last axis, that make it."""

    path: str
    names: tuple[str, ...]  # {} is the layer: our parameter has a leading axis over layers
    read: Callable[[np.ndarray], np.ndarray] = lambda x: x
    write: Callable[[np.ndarray], np.ndarray] = lambda x: x


def _linear(path: str, *names: str) -> _Entry:
    return _Entry(path, names, np.transpose, np.transpose)  # theirs are (out, in)


def _table() -> tuple[_Entry, ...]:
    entries = [
        _Entry(_SCALE, ("logit_scale",)),
        _Entry("text.token_embedding", ("text_model.embeddings.token_embedding.weight",)),
        _Entry("text.position_embedding", ("text_model.embeddings.position_embedding.weight",)),
        _linear("text.projection", "text_projection.weight"),
        _Entry("vision.class_embedding", ("vision_model.embeddings.class_embedding",)),
        _Entry(
            "vision.patch_embedding",
            ("vision_model.embeddings.patch_embedding.weight",),
            _conv_to_patches,
            _patches_to_conv,
        ),
        _Entry("vision.position_embedding", ("vision_model.embeddings.position_embedding.weight",)),
        _linear("vision.projection", "visual_projection.weight"),
    ]
    norms = {
        "text.final_norm": "text_model.final_layer_norm",
        "vision.pre_norm": "vision_model.pre_layrnorm",
        "vision.post_norm": "vision_model.post_layernorm",
    }
    for tower in ("text", "vision"):
        ours, theirs = f"{tower}.blocks", f"{tower}_model.encoder.layers.{{}}"
        norms[f"{ours}.attention_norm"] = f"{theirs}.layer_norm1"
        norms[f"{ours}.mlp_norm"] = f"{theirs}.layer_norm2"
        for path, modules in {
            "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "attention_out": ("self_attn.out_proj",),
            "mlp_in": ("mlp.fc1",),
            "mlp_out": ("mlp.fc2",),
        }.items():
            names = [f"{theirs}.{module}" for module in modules]
            entries += [
                _linear(f"{ours}.{path}.kernel", *(f"{name}.weight" for name in names)),
                _Entry(f"{ours}.{path}.bias", tuple(f"{name}.bias" for name in names)),
            ]
    for ours, theirs in norms.items():
        entries += [
            _Entry(f"{ours}.scale", (f"{theirs}.weight",)),
            _Entry(f"{ours}.bias", (f"{theirs}.bias",)),
        ]
    return tuple(entries)


_TABLE = _table()


def to_hf(parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our parameters by path to CLIPModel's tensors by name."""
    tensors = {}
    for entry in _TABLE:
        value = parameters[entry.path]
        for i, layer in enumerate(value if "{}" in entry.names[0] else [value]):
            parts = np.split(layer, len(entry.names), -1) if len(entry.names) > 1 else [layer]
            for name, part in zip(entry.names, parts, strict=True):
                tensors[name.format(i)] = entry.write(part)
    return tensors


def from_hf(
    tensors: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]], dtype: Any
) -> dict[str, np.ndarray]:
    """CLIPModel's tensors by name to our parameters by path.

    Args:
      tensors: emptied on the way, so that big models are not held twice.
      shapes: of our parameters.
      dtype: of the result, except for the logit scale's float32.

    Raises:
      ValueError: lists every tensor that is missing, unexpected or of another shape.
    """
    _check(tensors, shapes)
    parameters = {}
    for entry in _TABLE:
        stacked = "{}" in entry.names[0]
        layers = []
        for i in range(shapes[entry.path][0] if stacked else 1):
            parts = [entry.read(tensors.pop(name.format(i))) for name in entry.names]
            layers.append(np.concatenate(parts, -1) if len(parts) > 1 else parts[0])
        value = np.stack(layers) if stacked else layers[0]
        parameters[entry.path] = _cast(entry.path, value, dtype)
    return parameters


def _check(tensors: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    # Zeros that take no memory, through the table: what CLIPModel's tensors must look like.
    zeros = {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}
    expected = {name: tensor.shape for name, tensor in to_hf(zeros).items()}
    # OpenAI's repositories store these constants.
    for tower, path in {"text_model": "text", "vision_model": "vision"}.items():
        name, count = f"{tower}.embeddings.position_ids", shapes[f"{path}.position_embedding"][0]
        if name in tensors and np.array_equal(np.ravel(tensors[name]), np.arange(count)):
            del tensors[name]
    problems = [f"missing: {name}" for name in expected.keys() - tensors.keys()]
    for name, tensor in tensors.items():
        if name not in expected:
            problems.append(f"unexpected: {name} {tensor.dtype}{list(tensor.shape)}")
        elif tensor.shape != expected[name]:
            problems.append(
                f"misshapen: {name} {list(tensor.shape)}, expected {list(expected[name])}"
            )
        elif not jnp.issubdtype(tensor.dtype, jnp.floating):
            problems.append(f"not floating point: {name} {tensor.dtype}")
    if problems:
        raise ValueError(
            "the weights do not fit the CLIP that config.json describes:\n  "
            + "\n  ".join(sorted(problems))
        )


def _cast(path: str, value: np.ndarray, dtype: Any) -> np.ndarray:
    dtype = jnp.dtype(jnp.float32 if path == _SCALE else dtype)
    if dtype.name not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype.name}")
    with np.errstate(over="ignore"):
        cast = value.astype(dtype, order="C")
    if dtype == np.float16 and not np.isfinite(cast).all():
        raise ValueError(f"{path} has values beyond float16's range: use bfloat16 or float32")
    return cast


def load(name_or_path: str | Path, dtype: Any = jnp.float32) -> tuple[Clip, Tokenizer]:
    """A pretrained CLIP and its tokenizer.

    Args:
      name_or_path: "world" (the small model of this package), a local folder in Hugging Face's
        format, or a model id on the hub, such as "openai/clip-vit-base-patch16".
      dtype: of the weights: float32, bfloat16 or float16.

    Raises:
      FileNotFoundError, PermissionError, ConnectionError: see `hub.find`; a file is missing.
      ValueError: settings or weights that are not CLIP's, or do not fit each other.
    """
    folder = hub.find(name_or_path)
    config = ClipConfig.from_hf(hub.read_json(folder / "config.json"), _preprocessor(folder))
    tokenizer = Tokenizer.from_pretrained(folder, config.context_length)
    _check_vocabulary(config, tokenizer)
    graph, state = nnx.split(nnx.eval_shape(lambda: Clip(config, nnx.Rngs(0))))
    shapes = {path: leaf.shape for path, leaf in _flat(state).items()}
    parameters = from_hf(_read(hub.weights_files(folder)), shapes, dtype)
    arrays = {path: jnp.asarray(value) for path, value in parameters.items()}
    nnx.replace_by_pure_dict(state, flax.traverse_util.unflatten_dict(arrays, sep="."))
    return nnx.merge(graph, state), tokenizer


def save_pretrained(clip: Clip, tokenizer: Tokenizer, path: str | Path, dtype: Any = None) -> None:
    """Writes a folder that `load` and `transformers.CLIPModel.from_pretrained` open.

    Args:
      clip: the model.
      tokenizer: its tokenizer.
      path: a folder, created if need be.
      dtype: of the stored weights; None keeps the model's. The logit scale stays float32.

    Raises:
      FileExistsError: the folder holds something else than such a model: nothing is mixed.
      ValueError: the tokenizer does not fit the model, or weights overflow `dtype`.
    """
    _check_vocabulary(clip.config, tokenizer)
    folder = Path(path).expanduser()
    dtype = jnp.dtype(dtype or clip.text.projection.dtype)
    parameters = {name: _cast(name, value, dtype) for name, value in _parameters(clip).items()}
    _make_room(folder)
    tokenizer.save(folder)
    for name, contents in {
        "config.json": clip.config.to_hf() | {"dtype": dtype.name},
        "preprocessor_config.json": clip.config.preprocessor_to_hf(),
    }.items():
        (folder / name).write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
    tensors = {name: np.asarray(x, order="C") for name, x in to_hf(parameters).items()}
    # save_file would make a file that only its owner may read.
    (folder / _FILE).write_bytes(safetensors.numpy.save(tensors, metadata={"format": "pt"}))


def weights_hash(clip: Clip) -> str:
    """SHA-256 over all parameters' names, dtypes, shapes and bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for path, value in sorted(_parameters(clip).items()):
        digest.update(f"{path} {value.dtype.name} {value.shape}\n".encode())
        digest.update(value.tobytes())  # in C order
    return digest.hexdigest()


def _flat(state: Any) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(nnx.to_pure_dict(state), sep=".")


def _parameters(clip: Clip) -> dict[str, np.ndarray]:
    return jax.device_get(_flat(nnx.state(clip, nnx.Param)))


def _read(files: list[Path]) -> dict[str, np.ndarray]:
    """The tensors of weights files, by CLIPModel's names and in its layout."""
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                tensors |= safetensors.numpy.load_file(file)
            else:
                tensors |= _from_flax(flax.serialization.msgpack_restore(file.read_bytes()))
        except (safetensors.SafetensorError, ValueError) as error:
            raise ValueError(
                f"{file} can't be read ({error}): is it incomplete, or a Git LFS pointer?"
            ) from error
    return tensors


def _from_flax(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    """Parameters of transformers 4's FlaxCLIPModel in the names and layout of CLIPModel."""
    tensors = {}
    for name, value in flax.traverse_util.flatten_dict(tree, sep=".").items():
        parent, _, leaf = name.rpartition(".")
        if leaf == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        if leaf in ("kernel", "scale", "embedding"):
            name = f"{parent}.weight"
        tensors[name] = value
    return tensors


def _preprocessor(folder: Path) -> dict[str, Any]:
    """The image processor's settings; transformers 5 writes them into processor_config.json."""
    if (folder / "preprocessor_config.json").is_file():
        return hub.read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        return hub.read_json(folder / "processor_config.json")["image_processor"]
    raise FileNotFoundError(
        f"preprocessor_config.json is missing from {folder}: it says how images are normalised; "
        "copy it from where the model came"
    )


def _check_vocabulary(config: ClipConfig, tokenizer: Tokenizer) -> None:
    """Raises ValueError unless the text tower pools at the tokenizer's end-of-text."""
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}"
        )
    end = tokenizer.vocab_size - 1 if config.eot_id == 2 else config.eot_id
    if tokenizer.eot_id != end:
        raise ValueError(
            f"the model ends texts at token {end} (eos_token_id {config.eot_id} in config.json), "
            f"the tokenizer at {tokenizer.eot_id}"
        )
    if tokenizer.context_length != config.context_length:
        raise ValueError(
            f"the tokenizer's context length is {tokenizer.context_length}, the model's "
            f"{config.context_length}"
        )


def _make_room(folder: Path) -> None:
    """Creates the folder, or makes sure that all in it is overwritten or harmless."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        return
    config = folder / "config.json"
    if not config.is_file() or hub.read_json(config).get("model_type") != "clip":
        raise FileExistsError(f"{folder} is not empty and holds no CLIP: choose another folder")
    suffixes = (".safetensors", ".index.json", ".msgpack", ".bin", ".h5")
    others = [f.name for f in folder.iterdir() if f.name.endswith(suffixes)]
    if others := [name for name in others if name != _FILE]:
        raise FileExistsError(f"{folder} holds other weights, {others}: choose another folder")
