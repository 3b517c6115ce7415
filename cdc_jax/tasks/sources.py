"""The registry of where tasks come from: the world, the field's datasets, a user's own images."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cdc_jax.preprocessing import Preprocessing
from cdc_jax.records import SplitRecord
from cdc_jax.tasks import (
    catalog,
    class_folders,
    coop_splits,
    hf_datasets,
    splits,
    tfds_records,
)
from cdc_jax.tasks.describe import describe
from cdc_jax.tasks.photographs import Dataset, Photographs
from cdc_jax.tasks.splits import Item, Split
from cdc_jax.tasks.task import Examples, Skipped, Task
from cdc_jax.tasks.world import fewshot, kinds
from cdc_jax.wording import require_template

_FORMATS: dict[str, Callable[[str, Path, str], Dataset]] = {
    "coop": coop_splits.read,
    "tfds": tfds_records.read,
}
"""data.format -> the reader of the field's datasets, of (name, data root, split file)."""


def targets(config: ConfigDict) -> list[str]:
    """What a task is tested on beside its own test images: those of `config.targets` that can be.

    A list may serve every source: that itself is left out, and see `world.kinds.targets`.

    Raises:
      ValueError: an unknown name, the message has the nearest; or none is left.
    """
    if config.dataset == "world":
        return list(kinds.targets(config.targets, config.world.kind))
    known = tuple(catalog.PUBLISHED)
    listed = [_known("target", name, known) for name in config.targets.split(",") if name]
    found = [name for name in listed if name != config.dataset]
    if listed and not found:
        raise ValueError(f"the only target, {config.dataset}, is what is learned: name another")
    return found


def load(config: ConfigDict, image_size: int | Preprocessing = 32) -> Task:
    """Loads the task that `config.dataset` names.

    Args:
      config: `dataset` ("world", "folder", "hf" or a key of `catalog.PUBLISHED`), `shots`, `seed`,
        `classes` ("all" or "base_new"; the world always has both halves), and the part that the
        dataset's kind reads: `world`, or `data`; see `settings.experiment`.
      image_size: side of the CLIP's images, in pixels, or its preprocessing; the world is always
        drawn at 32.

    Returns:
      The task; its test splits are `test`, or `base_test` and `new_test`; and one for each of
      `config.targets`, called by its name: that dataset's test images among its own classes.

    Raises:
      ValueError: a setting that is unknown, the message names the nearest; data that can't be used.
      FileNotFoundError: data that is not there; the message says what is expected where.
    """
    if config.data.template:
        require_template(config.data.template, "data.template")
    names = ("world", "folder", "hf", *catalog.PUBLISHED)
    if _known("dataset", config.dataset, names) == "world":
        return fewshot.load(config)
    others = targets(config)
    _known("classes", config.classes, ("all", "base_new"))
    dataset = read(config.dataset, config)
    split = dataset.split
    if not dataset.allow_fewer:
        _check_shots(split, config.shots)
    split = splits.few_shot(split, config.shots, config.seed)
    protocol, tested = "few_shot", {"test": ("all", split)}
    if config.classes == "base_new":
        split, new = splits.base_new(split)
        protocol, tested = "base_new", {"base_test": ("base", split), "new_test": ("new", new)}
    parts = {"train": (split.train, split), "val": (split.val, split)}
    parts |= {name: (half.test, half) for name, (_, half) in tested.items()}
    examples: dict[str, Examples] = {}
    skipped: list[Skipped] = []
    for name, (items, half) in parts.items():
        examples[name], left_out = _examples(
            name, items, half.class_names, dataset, config, image_size
        )
        skipped += left_out
    for name, (group, _) in tested.items():
        record = SplitRecord(group, headline=not others)
        examples[name] = dataclasses.replace(examples[name], split=record)
    notes = [dataset.note]
    for name in others:
        target = read(name, config)
        made, left_out = _examples(
            name, target.split.test, target.split.class_names, target, config, image_size
        )
        examples[name] = dataclasses.replace(
            made, template=target.template, split=SplitRecord("target")
        )
        skipped += left_out
        notes.append(f"{name}: {target.note}" if target.note else "")
    domains = all(catalog.PUBLISHED[name].domain_of == config.dataset for name in others)
    return Task(
        train=examples.pop("train"),
        val=examples.pop("val"),
        test=examples,
        class_names=split.class_names,
        template=config.data.template or dataset.template,
        about=dataset.about,
        record=describe(
            config.to_dict(),
            "transfer" if others else protocol,
            "Domain generalisation" if others and domains else "",
            "; ".join(filter(None, notes)),
        ),
        skipped=tuple(skipped),
    )


def read(name: str, config: ConfigDict) -> Dataset:
    """The whole dataset of that name, before anything is drawn from it.

    Args:
      name: "folder", "hf" or a key of `catalog.PUBLISHED`.
      config: its `data` says where and in which format; `data.split` is of `config.dataset` only.
    """
    data = config.data
    if name == "hf":
        return hf_datasets.read(data, data.allow_fewer)
    if not data.root:
        raise ValueError(f"data.root must say where {name} is: add data.root=PATH")
    root, split = Path(data.root).expanduser(), data.split if name == config.dataset else ""
    if name == "folder":
        return class_folders.read(
            root, split, data.allow_fewer, data.on_error == "skip", config.progress
        )
    return _FORMATS[_known("data.format", data.format, _FORMATS)](name, root, split)


def _examples(
    part: str,
    items: Sequence[Item],
    class_names: tuple[str, ...],
    dataset: Dataset,
    config: ConfigDict,
    image_size: int | Preprocessing,
) -> tuple[Examples, list[Skipped]]:
    """The usable images of a part, and the others."""
    data = config.data
    on_error = _known("data.on_error", data.on_error, ("stop", "skip"))

    def photographs(chosen: Sequence[Item]) -> Photographs:
        paths = [item.path for item in chosen]
        side = data.side or round(1.5 * Preprocessing.of(image_size).size)
        return Photographs(paths, dataset.contents, image_size, side, data.workers)

    images = photographs(items)
    # What is skipped must be known before batches are put together.
    unusable = images.unusable(decoding=data.check or on_error == "skip")
    if unusable and on_error == "stop":
        error = next(iter(unusable.values()))
        raise ValueError(
            f"{len(unusable)} of the {len(items)} {part} images can't be used; the first: {error}. "
            "Mend them, or leave them out by data.on_error=skip"
        )
    if unusable:
        items = [item for number, item in enumerate(items) if number not in unusable]
        images = photographs(items)
    if part == "train":
        for label in sorted(set(range(len(class_names))) - {item.label for item in items}):
            raise ValueError(f"class {class_names[label]!r} has no usable training image")
    elif part != "val" and not items:
        raise ValueError(f"no {part} image can be used")
    labels = np.array([item.label for item in items], np.int64)
    skipped = [Skipped(error.name, error.reason) for error in unusable.values()]
    return Examples(images, labels, class_names, tuple(item.path for item in items)), skipped


def _check_shots(split: Split, shots: int) -> None:
    for label, items in splits.by_label(split.train).items():
        if len(items) < shots:
            raise ValueError(
                f"class {split.class_names[label]!r} has {len(items)} training images, fewer than "
                f"{shots} shots: lower shots, or set data.allow_fewer=True to take all there are"
            )


def _known(key: str, value: str, known: Iterable[str]) -> str:
    if value in known:
        return value
    near = difflib.get_close_matches(value, known, 1, 0)[0]
    raise ValueError(
        f"unknown {key} {value!r}: did you mean {near!r}? There are {', '.join(known)}"
    )
