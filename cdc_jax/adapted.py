"""An adapted model on disk: what a prediction needs beside the frozen CLIP.

A folder of two files. `prompts.safetensors` holds the learned vectors, `adapted.json` all that is
fixed about them, the SHA-256 of the base's weights and that of the vectors. The latter is written
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

from cdc_jax.clip import hub, weights
from cdc_jax.clip.model import Clip
from cdc_jax.devices import first_only
from cdc_jax.prompts import Parameters

FORMAT = 1
DESCRIPTION, VECTORS = "adapted.json", "prompts.safetensors"


@dataclasses.dataclass(frozen=True)
class Adapted:
    """The contents of such a folder.

    Attributes:
      parameters: the learned vectors.
      class_names: the classes that were trained on.
      template: the hand-crafted template, with {} for the name.
      method: the parts of the method's configuration that predictions depend on: `prompts` and
        `head`.
      mean_logit: zero-shot mean logit of the training images, see `adapter.create`.
      base: the frozen CLIP: `model` (name or path), `dtype`, and `hash` of `clip.weights_hash`.
      preprocessing: `size` in pixels, and `mean` and `std` of the three channels.
    """

    parameters: Parameters
    class_names: Sequence[str]
    template: str
    method: Mapping[str, Any]
    mean_logit: float
    base: Mapping[str, str]
    preprocessing: Mapping[str, Any]


def describe(
    parameters: Parameters,
    class_names: Sequence[str],
    template: str,
    method: ConfigDict,
    mean_logit: float,
    model: str,
    clip: Clip,
    weights_hash: str,
) -> Adapted:
    """The adapted model that a training run ends with.

    Args:
      parameters: the learned vectors.
      class_names: see `Adapted`.
      template: see `Adapted`.
      method: the method's whole configuration, after `adapter.calibrate`.
      mean_logit: see `Adapted`.
      model: name or path that `clip.load` was given.
      clip: what it returned.
      weights_hash: `clip.weights_hash` of it.
    """
    return Adapted(
        parameters,
        list(class_names),
        template,
        {part: method[part].to_dict() for part in ("prompts", "head")},
        mean_logit,
        {"model": model, "dtype": clip.text.projection.dtype.name, "hash": weights_hash},
        {
            "size": clip.config.image_size,
            "mean": list(clip.config.mean),
            "std": list(clip.config.std),
        },
    )


@first_only
def write(folder: Path | epath.Path, adapted: Adapted) -> None:
    """Writes an adapted model into a folder, over an older one if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).unlink(missing_ok=True)
    vectors = _flat(adapted.parameters)
    (folder / VECTORS).write_bytes(safetensors.numpy.save(vectors))
    description = {"format": FORMAT, "vectors": weights.digest(vectors)} | {
        field.name: getattr(adapted, field.name) for field in _described()
    }
    part = folder / f"{DESCRIPTION}.part"
    part.write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(folder / DESCRIPTION)


def read(folder: Path) -> Adapted:
    """Reads an adapted model.

    Raises:
      FileNotFoundError: one of its files is missing.
      ValueError: a file is damaged, of another format, or not of the same model as the other.
    """
    description = hub.read_json(folder / DESCRIPTION)
    if description.get("format") != FORMAT:
        raise ValueError(
            f"{folder / DESCRIPTION} is of format {description.get('format')!r}, this release "
            f"reads format {FORMAT}: adapt again, or use the release that wrote it"
        )
    names = [field.name for field in _described()]
    if missing := [name for name in ("vectors", *names) if name not in description]:
        raise ValueError(f"{folder / DESCRIPTION} lacks {', '.join(missing)}: adapt again")
    path = folder / VECTORS
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing from {folder}")
    try:
        vectors = safetensors.numpy.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): adapt again") from error
    if weights.digest(vectors) != description["vectors"]:
        raise ValueError(f"{path} does not hold the vectors of {DESCRIPTION}: adapt again")
    parameters = flax.traverse_util.unflatten_dict(vectors, sep=".")
    return Adapted(parameters, **{name: description[name] for name in names})


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


def _described() -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(Adapted) if field.name != "parameters"]


def _flat(parameters: Parameters) -> dict[str, np.ndarray]:
    flat = flax.traverse_util.flatten_dict(jax.device_get(parameters), sep=".")
    return {name: np.asarray(value, order="C") for name, value in flat.items()}
