"""The record of a task for results, and its summary for the terminal."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdc_jax import config_file
from cdc_jax.escaping import visible
from cdc_jax.records import TaskRecord
from cdc_jax.tasks.photographs import Dataset
from cdc_jax.tasks.splits import PARTS
from cdc_jax.tasks.task import Examples, Skipped

# These settings change no figure. The kind is part of the dataset's name.
_LEFT_OUT = {
    "data.root", "data.name", "data.on_error", "data.allow_fewer", "data.check", "data.workers",
    "world.kind", "data.follow_links", "data.allow_copies",
}  # fmt: skip
_WHERE_SET = ("data.layout", "data.val_is_test")  # left out where empty, as in older records
# The world always has both halves of its classes, and no files.
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
    is_world = settings["dataset"] == "world"
    relevant = _OF_WORLD if is_world else _OF_FILES
    flat = {
        key: value
        for key, value in config_file.flat(settings).items()
        if key.startswith(relevant)
        and key not in _LEFT_OUT
        and (value or key not in _WHERE_SET)
        and (settings["dataset"] == "hf" or not key.startswith("data.hf."))
    }
    for key in ("data.split", "data.hf.class_names"):  # the name without its folder
        if flat.get(key):
            flat[key] = Path(flat[key]).name
    return TaskRecord(
        dataset=dataset_name(settings),
        protocol=protocol,
        heading=heading,
        shots=settings["shots"],
        seed=settings["seed"],
        settings=flat,
        note=note,
    )


def summarize(
    name: str,
    dataset: Dataset,
    used: Mapping[str, Examples],
    remarks: Sequence[str],
    skipped: Sequence[Skipped],
) -> str:
    """One line about the images that a task uses and leaves out.

    Args:
      name: of the dataset.
      dataset: the whole dataset.
      used: the examples of the task, by split.
      remarks: further sentences.
      skipped: unusable images.
    """
    names = dataset.split.class_names
    counts = Counter(item.label for part in PARTS for item in getattr(dataset.split, part))
    least, most = min(counts.values()), max(counts.values())
    sizes = f"{least} to {most}" if least < most else f"{most}"
    there = ", ".join(f"{len(getattr(dataset.split, part))} {part}" for part in PARTS)
    sizes_by_split = ", ".join(f"{len(examples)} {split}" for split, examples in used.items())
    statements = [
        f"{len(names)} classes ({_few(names)})" + (f", {dataset.layout}" if dataset.layout else ""),
        f"{sizes} images a class ({there})",
        f"used: {sizes_by_split}",
        *remarks,
    ]
    if skipped:
        first = skipped[0]
        statements.append(
            f"{len(skipped)} images that can't be used are left out, such as {first.file}: "
            f"{first.reason}"
        )
    return visible(f"{name}: {'; '.join(statements)}.")


def _few(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], *(["…"] if len(names) > 5 else [])])


def dataset_name(settings: Mapping[str, Any]) -> str:
    """The dataset's name in tables and in the names of runs, such as `folder pets`.

    Args:
      settings: of the experiment.
    """
    dataset = settings["dataset"]
    if dataset == "world":
        return f"world {settings['world']['kind']}"
    if dataset == "folder" and (root := settings["data"]["root"]):
        return f"folder {Path(root).expanduser().resolve().name}"
    if dataset == "hf" and (name := settings["data"].get("name")):
        path = Path(name).expanduser()
        return f"hf {path.resolve().name if path.exists() else name}"
    return dataset
