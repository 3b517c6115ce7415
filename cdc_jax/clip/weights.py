"""CLIP's weights in Hugging Face's format <-> the parameters of `Clip`, strictly.

One table says where each parameter stands in `transformers`' CLIPModel; reading, writing and
the check of names and shapes all follow it.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

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


def read(files: list[Path]) -> dict[str, np.ndarray]:
    """The tensors of weights files, by CLIPModel's names and in its layout.

    Raises:
      ValueError: a file is neither safetensors nor msgpack, or incomplete.
    """
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


def to_hf(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
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
        parameters[entry.path] = cast(entry.path, value, dtype)
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


def cast(path: str, value: np.ndarray, dtype: Any) -> np.ndarray:
    """A parameter in `dtype`; the logit scale in float32.

    Raises:
      ValueError: not a dtype for weights, or the values overflow it.
    """
    dtype = jnp.dtype(jnp.float32 if path == _SCALE else dtype)
    if dtype.name not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype.name}")
    with np.errstate(over="ignore"):
        value = value.astype(dtype, order="C")
    if dtype == np.float16 and not np.isfinite(value).all():
        raise ValueError(f"{path} has values beyond float16's range: use bfloat16 or float32")
    return value


def digest(parameters: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over all parameters' paths, dtypes, shapes and bytes, in hexadecimal."""
    sha = hashlib.sha256()
    for path, value in sorted(parameters.items()):
        sha.update(f"{path} {value.dtype.name} {value.shape}\n".encode())
        sha.update(value.tobytes())  # in C order
    return sha.hexdigest()
