"""What results say of a task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from cdc_jax.records import TaskRecord

# Where data lies and how it is read changes no figure. The kind is part of the dataset's name.
_LEFT_OUT = {
    "data.root", "data.name", "data.on_error", "data.allow_fewer", "data.check", "data.workers",
    "world.kind",
}  # fmt: skip
# The world has both halves of its classes, whatever `classes` says, and no files.
_OF_WORLD = ("model", "dtype", "targets", "world.")
_OF_FILES = ("model", "dtype", "targets", "classes", "data.")


def describe(
    settings: Mapping[str, Any], protocol: str, heading: str = "", note: str = ""
) -> TaskRecord:
    """The record of a task.

    Args:
      settings: of the experiment, see `settings.experiment`.
      protocol: see `TaskRecord`.
      heading: see `TaskRecord`.
      note: see `TaskRecord`.
    """
    drawn = settings["dataset"] == "world"
    relevant = _OF_WORLD if drawn else _OF_FILES
    flat = {
        key: value
        for key, value in flatten_dict(dict(settings), sep=".").items()
        if key.startswith(relevant)
        and key not in _LEFT_OUT
        and (settings["dataset"] == "hf" or not key.startswith("data.hf."))
    }
    for key in ("data.split", "data.hf.class_names"):  # wherever it lies
        if flat.get(key):
            flat[key] = Path(flat[key]).name
    return TaskRecord(
        dataset=_dataset(settings),
        protocol=protocol,
        heading=heading,
        shots=settings["shots"],
        seed=settings["seed"],
        settings=flat,
        note=note,
    )


def _dataset(settings: Mapping[str, Any]) -> str:
    dataset = settings["dataset"]
    if dataset == "world":
        return f"world {settings['world']['kind']}"
    if dataset == "folder" and (root := settings["data"]["root"]):
        return f"folder {Path(root).expanduser().resolve().name}"
    if dataset == "hf" and (name := settings["data"]["name"]):
        path = Path(name).expanduser()
        return f"hf {path.resolve().name if path.exists() else name}"
    return dataset
