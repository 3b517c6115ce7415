"""An adapted model on disk: what a prediction needs beside the frozen backbone.

A folder of two files. `learned.safetensors` holds the trained and the fixed arrays, `adapted.json`
the settings, the SHA-256 of the backbone's weights and that of the arrays. The latter is written
last, so that a folder is complete or refused.
"""

import dataclasses
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

from cdc_jax import older_formats, wording
from cdc_jax.backbone import Backbone
from cdc_jax.clip import hub, weights
from cdc_jax.devices import first_only
from cdc_jax.methods import Learned, Method

FORMAT = 2
DESCRIPTION, ARRAYS = "adapted.json", "learned.safetensors"


@dataclasses.dataclass(frozen=True)
class Adapted:
    """The contents of such a folder.

    Attributes:
      learned: the method's arrays.
      family: of the method, a key of `methods.families.FAMILIES`.
      settings: `Method.config`.
      class_names: the classes that were trained on.
      template: the task's hand-crafted text.
      base: the frozen backbone: `model` (name or path), `dtype`, and `hash` of its weights.
      preprocessing: `size` in pixels, and `mean` and `std` of the three channels.
    """

    learned: Learned
    family: str
    settings: ConfigDict
    class_names: Sequence[str]
    template: wording.Template
    base: Mapping[str, str]
    preprocessing: Mapping[str, Any]


def describe(
    method: Method, family: str, learned: Learned, model: str, backbone: Backbone, weights_hash: str
) -> Adapted:
    """The adapted model that a training run ends with.

    Args:
      method: the method.
      family: see `Adapted`.
      learned: its arrays.
      model: name or path that `backbone.load` was given.
      backbone: what it returned.
      weights_hash: of the backbone.
    """
    return Adapted(
        learned=learned,
        family=family,
        settings=method.config,
        class_names=list(method.class_names),
        template=method.template,
        base={"model": model, "dtype": backbone.dtype, "hash": weights_hash},
        preprocessing={
            "size": backbone.sizes.image_size,
            "mean": list(backbone.mean),
            "std": list(backbone.std),
        },
    )


@first_only
def write(folder: Path | epath.Path, adapted: Adapted) -> None:
    """Writes an adapted model into a folder, over an older one if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).unlink(missing_ok=True)
    arrays = _flat({"trained": adapted.learned.trained, "fixed": adapted.learned.fixed})
    (folder / ARRAYS).write_bytes(safetensors.numpy.save(arrays))
    fields = {name: getattr(adapted, name) for name in _DESCRIBED}
    fields["settings"] = adapted.settings.to_dict()
    fields["template"] = wording.to_json(adapted.template)
    description = {"format": FORMAT, "arrays": weights.digest(arrays)} | fields
    part = folder / f"{DESCRIPTION}.part"
    part.write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(folder / DESCRIPTION)


def read(folder: Path) -> Adapted:
    """Reads an adapted model, of this format or of format 1.

    Raises:
      FileNotFoundError: one of its files is missing.
      ValueError: a file is damaged, of a newer format, or not of the same model as the other.
    """
    description = hub.read_json(folder / DESCRIPTION)
    version = description.get("format")
    if version == 1:
        arrays, description = older_formats.read_adapted(folder, description, _read_arrays)
    elif version == FORMAT:
        _require(folder, description, ("arrays", *_DESCRIBED))
        arrays = _read_arrays(folder / ARRAYS, description["arrays"])
    else:
        raise ValueError(
            f"{folder / DESCRIPTION} is of format {version!r}, this release reads formats 1 and "
            f"{FORMAT}: adapt again, or use the release that wrote it"
        )
    nested = flax.traverse_util.unflatten_dict(arrays, sep=".")
    learned = Learned(nested.get("trained", {}), nested.get("fixed", {}))
    fields = {name: description[name] for name in _DESCRIBED}
    fields["settings"] = ConfigDict(fields["settings"]).lock()
    try:
        fields["template"] = wording.from_json(fields["template"])
    except ValueError as error:
        raise ValueError(f"{folder / DESCRIPTION}: template {error}; adapt again") from None
    return Adapted(learned, **fields)


def find(run: str | Path) -> Path:
    """The folder of a run's adapted model.

    Args:
      run: a method's folder, a run's or a sweep's if it holds one method, or a copy of the folder
        `adapted` itself.

    Raises:
      FileNotFoundError: there is none, or there are several; the message names some.
    """
    run = Path(run).expanduser()
    if not run.is_dir():
        raise FileNotFoundError(f"{run} is no folder: give a run's, such as runs/NAME/cdc")
    for folder in (run, run / "adapted"):
        if (folder / DESCRIPTION).is_file():
            return folder
    below = (f"{depth}/adapted/{DESCRIPTION}" for depth in ("*", "*/*"))
    found = sorted(path.parent for pattern in below for path in run.glob(pattern))
    if not found:
        raise FileNotFoundError(
            f"{run} holds no adapted/{DESCRIPTION}: a run writes it when its training "
            "ends, so let the run end first"
        )
    if len(found) > 1:
        choices = ", ".join(str(folder.parent) for folder in found[:9])
        raise FileNotFoundError(
            f"{run} holds {len(found)} adapted models, choose one: {choices}"
            + (", …" if found[9:] else "")
        )
    return found[0]


_DESCRIBED = tuple(field.name for field in dataclasses.fields(Adapted) if field.name != "learned")


def _require(folder: Path, description: Mapping[str, Any], names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in description]:
        raise ValueError(f"{folder / DESCRIPTION} lacks {', '.join(missing)}: adapt again")


def _read_arrays(path: Path, digest: str) -> dict[str, np.ndarray]:
    """Arrays by name, checked against their digest."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing from {path.parent}")
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): adapt again") from error
    if weights.digest(arrays) != digest:
        raise ValueError(f"{path} does not hold the arrays of {DESCRIPTION}: adapt again")
    return arrays


def _flat(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    flat = flax.traverse_util.flatten_dict(jax.device_get(tree), sep=".")
    return {name: np.asarray(value, order="C") for name, value in flat.items()}
