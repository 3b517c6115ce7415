"""An adapted model on disk: all that a prediction needs beside the frozen backbone.

The folder has two files. `learned.safetensors` holds the trained and the fixed arrays, the text
features of the training classes, and the numbers of the validation images that guarantees need.
`adapted.json` holds the settings, and the SHA-256 of the backbone's weights, of the arrays and of
the fields that the text features depend on. It is written last, so that an incomplete folder is
refused.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors.numpy
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from cdc_jax import older_formats, schema, wording, writing
from cdc_jax.adapted_folder import ARRAYS, DESCRIPTION
from cdc_jax.backbone import Backbone
from cdc_jax.clip import weights
from cdc_jax.devices import first_only
from cdc_jax.escaping import reason
from cdc_jax.methods import Learned, Method, Text, defaults
from cdc_jax.preprocessing import MEAN, STD, Preprocessing
from cdc_jax.schema import record, text

FORMAT = 2
_LARGEST_ARRAYS = 2**36  # bytes
_PARTS = ("trained", "fixed", "text", "validation")


@dataclasses.dataclass(frozen=True)
class Adapted:
    """The contents of the folder of an adapted model.

    Attributes:
      learned: the method's arrays.
      family: of the method, a key of `methods.families.FAMILIES`.
      settings: `Method.config`.
      class_names: the training classes.
      template: the task's hand-crafted text.
      base: the frozen backbone: `model` (name or path), `dtype`, and `hash` of its weights.
      preprocessing: `size` in pixels, and `mean` and `std` of the three channels. `resize` and
        `resample` of `preprocessing.Preprocessing`, if they differ from CLIP's.
      text: features of the training classes, (templates, classes, embed), so that a prediction
        does not encode their texts again. None if they depend on the image, and if a field of
        adapted.json is not the one that they were computed by.
      validation: arrays of `calibration.Calibration`; {} for a task without validation images.
    """

    learned: Learned
    family: str
    settings: ConfigDict
    class_names: Sequence[str]
    template: wording.Template
    base: Mapping[str, str]
    preprocessing: Mapping[str, Any]
    text: np.ndarray | None = None
    validation: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def images(self) -> Preprocessing:
        """`preprocessing` as a value. A key that an older release did not write has CLIP's."""
        fields = _PREPROCESSING.read(self.preprocessing, "preprocessing")
        values: dict[str, Any] = {
            field.name: tuple(value) if isinstance(value := fields[field.name], list) else value
            for field in dataclasses.fields(Preprocessing)
        }
        return Preprocessing(**values)


def describe(
    method: Method,
    family: str,
    learned: Learned,
    model: str,
    backbone: Backbone,
    weights_hash: str,
    text: Text | None = None,
    validation: Mapping[str, np.ndarray] | None = None,
) -> Adapted:
    """The adapted model that a training run ends with.

    Args:
      method: the method.
      family: see `Adapted`.
      learned: its arrays.
      model: the argument of `backbone.load`, a name or a path.
      backbone: the loaded backbone.
      weights_hash: of the backbone.
      text: see `Adapted`.
      validation: see `Adapted`; None for none.
    """
    return Adapted(
        learned=learned,
        family=family,
        settings=method.config,
        class_names=list(method.class_names),
        template=method.template,
        base={"model": model, "dtype": backbone.dtype, "hash": weights_hash},
        preprocessing=_described(backbone.preprocessing),
        text=None if text is None else jax.device_get(text),
        validation=validation or {},
    )


@first_only
def write(folder: Path | epath.Path, adapted: Adapted) -> None:
    """Writes an adapted model into a folder, in place of an older model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).unlink(missing_ok=True)
    learned = adapted.learned
    parts = {"trained": learned.trained, "fixed": learned.fixed, "validation": adapted.validation}
    if adapted.text is not None:
        parts["text"] = adapted.text
    arrays = _flat(parts)
    writing.write_bytes(folder / ARRAYS, safetensors.numpy.save(arrays))
    fields = {name: getattr(adapted, name) for name in _DESCRIBED}
    fields["settings"] = adapted.settings.to_dict()
    fields["template"] = wording.to_json(adapted.template)
    digests = {"arrays": weights.digest(arrays), "text": _digest(fields)}
    description = {"format": FORMAT} | digests | fields
    content = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    writing.write_text(folder / DESCRIPTION, content)


def read(folder: Path) -> Adapted:
    """Reads an adapted model, of this format or of format 1.

    Raises:
      FileNotFoundError: one of its files is missing.
      ValueError: a file is damaged, of a newer format, or not of the same model as the other.
    """
    path = folder / DESCRIPTION
    description = schema.read_json(path, remedy=_REMEDY)
    version = description.get("format")
    if type(version) is not int or version not in (1, FORMAT):
        raise ValueError(
            f"{path} is of format {schema.shown(version)}, this release reads formats 1 and "
            f"{FORMAT}: adapt again, or use the release that wrote it"
        )
    if version == 1:
        arrays, description = older_formats.read_adapted(folder, description, _read_arrays)
    schema.check(description, _DESCRIPTION, str(path), _REMEDY)
    if description["family"] in defaults.OF_FAMILIES:
        kind = _like(defaults.of_family(description["family"]).to_dict())
        schema.check(
            {"settings": description["settings"]}, record(settings=kind), str(path), _REMEDY
        )
    if version == FORMAT:
        arrays = _read_arrays(folder / ARRAYS, description["arrays"])
    nested = _nested(arrays, folder)
    learned = Learned(nested.get("trained", {}), nested.get("fixed", {}))
    fields = {name: description[name] for name in _DESCRIBED}
    try:
        fields["settings"] = ConfigDict(fields["settings"]).lock()
    except ValueError as error:  # of a key with a dot
        raise ValueError(f"{path}: settings {reason(error)}; {_REMEDY}") from None
    try:
        fields["template"] = wording.from_json(fields["template"])
    except ValueError as error:
        raise ValueError(f"{path}: template {error}; {_REMEDY}") from None
    text = _checked_text(nested.get("text"), fields["class_names"], folder)
    if description.get("text") != _digest({name: description[name] for name in _DESCRIBED}):
        text = None
    return Adapted(learned, text=text, validation=nested.get("validation", {}), **fields)


_DESCRIBED = (
    "family", "settings", "class_names", "template", "base", "preprocessing",
)  # fmt: skip


def _digest(fields: Mapping[str, Any]) -> str:
    """SHA-256 of fields of adapted.json."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


_REMEDY = "adapt again"
_SIDE = schema.integer(1, 2**13)
_CHANNELS = schema.list_of(schema.number(-1e6, 1e6), 3, 3)
_PREPROCESSING = record(
    size=_SIDE,
    mean=schema.optional(_CHANNELS, list(MEAN)),
    std=schema.optional(schema.list_of(schema.number(1e-12, 1e12), 3, 3), list(STD)),
    resize=schema.optional(schema.either(_SIDE, schema.list_of(_SIDE, 2, 2))),
    resample=schema.optional(
        schema.integer(0, len(Image.Resampling) - 1), int(Image.Resampling.BICUBIC)
    ),
)
_DESCRIPTION = record(
    arrays=text(),
    text=schema.optional(text()),
    family=text(empty=False),
    settings=schema.table(schema.anything()),
    class_names=schema.list_of(text(empty=False), 1),
    template=schema.anything(),  # see wording.from_json
    base=record(
        model=text(empty=False),
        dtype=schema.one_of("float32", "bfloat16", "float16"),
        hash=text(),
    ),
    preprocessing=_PREPROCESSING,
)
_LARGEST = {"prompts": 1024}  # numbers that arrays' sizes follow


def _like(defaults: Any, most: int = 2**31) -> schema.Kind:
    """Settings of the types of some defaults; any may be missing."""
    if isinstance(defaults, Mapping):
        return record(
            **{
                key: schema.optional(_like(value, _LARGEST.get(key, most)))
                for key, value in defaults.items()
            }
        )
    if isinstance(defaults, bool):
        return schema.boolean()
    if isinstance(defaults, int):
        return schema.integer(0, most)
    return schema.number() if isinstance(defaults, float) else text()


def _described(preprocessing: Preprocessing) -> dict[str, Any]:
    """The field of adapted.json. `resize` and `resample` are left out if they are CLIP's."""
    fields = dataclasses.asdict(preprocessing)
    default = dataclasses.asdict(Preprocessing(preprocessing.size))
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in fields.items()
        if key in ("size", "mean", "std") or value != default[key]
    }


def _read_arrays(path: Path, digest: str) -> dict[str, np.ndarray]:
    """Arrays by name, checked against their digest."""
    content = schema.read_bytes(path, _LARGEST_ARRAYS)
    try:
        arrays = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:  # KeyError: of a dtype
        raise ValueError(f"{path} is damaged ({reason(error)}): adapt again") from error
    if weights.digest(arrays) != digest:
        raise ValueError(f"{path} does not hold the arrays of {DESCRIPTION}: adapt again")
    return arrays


def _checked_text(text: Any, class_names: Sequence[str], folder: Path) -> np.ndarray | None:
    """Raises ValueError for text features that are not finite numbers of these classes."""
    if text is None:
        return None
    shape = np.shape(text) if isinstance(text, np.ndarray) else ()
    if len(shape) != 3 or shape[1:2] != (len(class_names),) or not np.isfinite(text).all():
        raise ValueError(
            f"{folder} holds text features of shape {shape}, which are not finite numbers of "
            f"{len(class_names)} classes: {_REMEDY}"
        )
    return text


def _nested(arrays: Mapping[str, np.ndarray], folder: Path) -> dict[str, Any]:
    parts = {name: name.split(".") for name in arrays}
    parents = {".".join(x[:end]) for x in parts.values() for end in range(1, len(x))}
    if wrong := [n for n in arrays if n in parents or parts[n][0] not in _PARTS]:
        raise ValueError(
            f"{folder} holds arrays that belong to no part, {schema.shown(wrong)}: adapt again"
        )
    return flax.traverse_util.unflatten_dict(arrays, sep=".")


def _flat(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    flat = flax.traverse_util.flatten_dict(jax.device_get(tree), sep=".")
    return {name: np.asarray(value, order="C") for name, value in flat.items()}
