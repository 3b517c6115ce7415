"""CLIP's weights in Hugging Face's format <-> the parameters of `Clip`, strictly.

One table maps each parameter to its place in `transformers`' CLIPModel. Reading, writing and the
check of names and shapes follow the table.
"""

import dataclasses
import hashlib
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from cdc_jax import schema
from cdc_jax.escaping import reason

_DTYPES = ("float32", "bfloat16", "float16")
_ANCHOR = "text_model.embeddings.token_embedding.weight"  # in every CLIP, once
_MODULES = ("text_model.", "vision_model.", "text_projection.", "visual_projection.", "logit_scale")
_SCALE = "log_logit_scale"  # float32 in every dtype of the towers: 1/τ multiplies each logit


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
      FileNotFoundError: a file is missing.
      ValueError: a file is neither safetensors nor msgpack, incomplete, or no regular file.
    """
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        schema.require_regular(file)
        try:
            if file.suffix == ".safetensors":
                tensors |= safetensors.numpy.load_file(file)
            else:
                tree = flax.serialization.msgpack_restore(file.read_bytes())
                tensors |= _from_flax(tree)
        # A damaged msgpack file makes flax stumble in many ways, by no common class of errors.
        except (MemoryError, OSError):
            raise
        except Exception as error:
            raise ValueError(
                f"{file} can't be read ({reason(error)}): is it incomplete, or a Git LFS pointer? "
                "Copy the file again from where the model came"
            ) from error
    return tensors


def _from_flax(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    """Parameters of transformers 4's FlaxCLIPModel in the names and layout of CLIPModel."""
    tensors = {}
    for name, value in flax.traverse_util.flatten_dict(tree, sep=".").items():
        if not isinstance(value, np.ndarray):
            raise ValueError(f"{name} is no array")
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
    tensors: dict[str, np.ndarray],
    shapes: dict[str, tuple[int, ...]],
    dtype: Any,
    where: str = "the weights",
) -> dict[str, np.ndarray]:
    """CLIPModel's tensors by name to our parameters by path.

    A prefix that all tensors share, as in wrappers, is removed. Tensors that are no part of a CLIP,
    such as a classifier, are left out, with a warning that names them.

    Args:
      tensors: emptied while they are read, so that memory holds a big model once.
      shapes: of our parameters.
      dtype: of the result. The logit scale is always float32.
      where: name of the tensors in messages.

    Raises:
      ValueError: a tensor is missing, unexpected or of another shape, or holds numbers that are not
        finite; the message names it.
    """
    tensors = _unwrapped(tensors, where)
    _check(tensors, shapes, where)
    parameters = {}
    for entry in _TABLE:
        stacked = "{}" in entry.names[0]
        layers = []
        for i in range(shapes[entry.path][0] if stacked else 1):
            names = [name.format(i) for name in entry.names]
            parts = [entry.read(_finite(name, tensors.pop(name), where)) for name in names]
            layers.append(np.concatenate(parts, -1) if len(parts) > 1 else parts[0])
        value = np.stack(layers) if stacked else layers[0]
        parameters[entry.path] = cast(entry.path, value, dtype)
    return parameters


def _unwrapped(tensors: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The tensors of the CLIP within a model, without a prefix. Empties the argument."""
    prefixes = {name.removesuffix(_ANCHOR) for name in tensors if name.endswith(_ANCHOR)}
    if "" not in prefixes and len(prefixes) > 1:
        raise ValueError(
            f"{where} hold several CLIPs, with prefixes {schema.shown(sorted(prefixes))}: save the "
            "one that is meant"
        )
    prefix = "" if "" in prefixes else "".join(prefixes)
    clip_tensors, others = {}, []
    for name in list(tensors):
        inner = name.removeprefix(prefix)
        if name.startswith(prefix) and inner.startswith(_MODULES) or not prefixes:
            clip_tensors[inner] = tensors.pop(name)
        else:
            others.append(name)
    omissions = [f"the prefix {schema.shown(prefix)}"] if prefix else []
    omissions += [f"{len(others)} tensors that are no part of a CLIP: {_some(others)}"] * bool(
        others
    )
    if omissions:
        warnings.warn(f"{where}: left out {' and '.join(omissions)}", stacklevel=2)
    return clip_tensors


def _check(tensors: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]], where: str) -> None:
    # Zeros that take no memory, through the table: what CLIPModel's tensors must look like.
    zeros = {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}
    expected = {name: tensor.shape for name, tensor in to_hf(zeros).items()}
    # OpenAI's repositories store these constants.
    for tower, path in {"text_model": "text", "vision_model": "vision"}.items():
        name, count = f"{tower}.embeddings.position_ids", shapes[f"{path}.position_embedding"][0]
        if name in tensors and np.array_equal(np.ravel(tensors[name]), np.arange(count)):
            del tensors[name]
    if "logit_scale" in tensors and tensors["logit_scale"].shape == (1,):  # of some trainers
        tensors["logit_scale"] = tensors["logit_scale"].reshape(())
    problems: dict[str, list[str]] = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unexpected": [],
        "misshapen": [],
        "not floating point": [],
    }
    for name, tensor in sorted(tensors.items()):
        if name not in expected:
            problems["unexpected"].append(f"{name} {tensor.dtype}{list(tensor.shape)}")
        elif tensor.shape != expected[name]:
            problems["misshapen"].append(
                f"{name} {list(tensor.shape)}, expected {list(expected[name])}"
            )
        elif not jnp.issubdtype(tensor.dtype, jnp.floating):
            problems["not floating point"].append(f"{name} {tensor.dtype}")
    if any(problems.values()):
        summaries = [f"{len(x)} {problem} ({_some(x)})" for problem, x in problems.items() if x]
        raise ValueError(
            f"{where} do not fit the CLIP that config.json describes: {', '.join(summaries)}; take "
            "both from the same model"
        )


def _finite(name: str, tensor: np.ndarray, where: str) -> np.ndarray:
    """The tensor, once all of its numbers are finite."""
    wrong = tensor.size - np.count_nonzero(np.isfinite(tensor))
    if wrong:
        raise ValueError(
            f"{where}: {name} holds {wrong} numbers that are not finite, of {tensor.size}; copy "
            "the file again from where the model came, or train the model again"
        )
    return tensor


def _some(names: list[str]) -> str:
    """The first names of a list, in one line."""
    listing = "; ".join(name if name.isprintable() else repr(name) for name in names[:3])
    return f"{listing}; …" if names[3:] else listing


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
