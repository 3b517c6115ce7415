"""The registry of tasks: the bundled world, the field's datasets, a user's images."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from cdc_jax import grammar, spelling
from cdc_jax.config_type import ConfigDict
from cdc_jax.preprocessing import Preprocessing
from cdc_jax.records import SplitRecord
from cdc_jax.tasks import (
    catalog,
    class_folders,
    coop_splits,
    copies,
    hf_datasets,
    splits,
    tfds_records,
)
from cdc_jax.tasks.decode import UnreadableImage
from cdc_jax.tasks.describe import describe, summarize
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
    """The usable names of `config.targets`, on which a task is tested beside its own test images.

    One list may serve every source dataset: the source itself is left out. For the world see
    `world.kinds.targets`.

    Raises:
      ValueError: a name is unknown; the message names the nearest name. Or no target remains.
    """
    if config.dataset == "world":
        return list(kinds.targets(config.targets, config.world.kind))
    datasets = tuple(catalog.PUBLISHED)
    listed = [
        _require_name("target", name, datasets)
        for name in grammar.split(config.targets, ",")
        if name
    ]
    names = [name for name in listed if name != config.dataset]
    if listed and not names:
        raise ValueError(f"the only target, {config.dataset}, is what is learned: name another")
    return names


def check(config: ConfigDict) -> None:
    """Checks the settings of a task before any work.

    Args:
      config: see `load`.

    Raises:
      ValueError: as `load`.
    """
    targets(config)
    _require_dataset(config.dataset)
    if config.validation_shots < 0:
        raise ValueError(
            f"validation_shots must be at least 0, got {config.validation_shots}: 0 takes the "
            "protocol's number"
        )
    if config.dataset == "world":
        fewshot.check(config)
        return
    splits.require_shots(config.shots)
    if config.data.template:
        require_template(config.data.template, "data.template")
    _require_name("classes", config.classes, ("all", "base_new"))
    _require_name("data.on_error", config.data.on_error, ("stop", "skip"))
    _require_name("data.format", config.data.format, _FORMATS)


def require_root(config: ConfigDict) -> None:
    """Requires that `data.root` exists, if the task is read from it.

    Raises:
      ValueError, FileNotFoundError: as `load`.
    """
    root = config.data.root
    if config.dataset not in ("world", "hf") and not (root and Path(root).expanduser().exists()):
        read(config.dataset, config)  # says what is expected there


def load(config: ConfigDict, image_size: int | Preprocessing = 32) -> Task:
    """Loads the task that `config.dataset` names.

    Args:
      config: `dataset` ("world", "folder", "hf" or a key of `catalog.PUBLISHED`), `shots`, `seed`,
        `validation_shots`, `classes` ("all" or "base_new"; the world always has both halves), and
        `world` or `data`; see `settings.experiment`.
      image_size: side of the CLIP's images, in pixels, or its preprocessing. The world always has
        32 pixels.

    Returns:
      The task. Its test splits are `test`, or `base_test` and `new_test`. Each of `config.targets`
      adds a split of its name, with the target's test images among the target's classes.

    Raises:
      ValueError: a setting is unknown; the message names the nearest. Or data can't be used.
      FileNotFoundError: data is missing; the message says where it is expected.
    """
    check(config)
    if config.dataset == "world":
        return fewshot.load(config)
    data, others = config.data, targets(config)
    dataset = read(config.dataset, config)
    if len(dataset.split.class_names) < 2:
        raise ValueError(
            f"{data.root or data.name or config.dataset} has only one class, "
            f"{', '.join(map(repr, dataset.split.class_names))} ({dataset.layout}): there must be "
            "at least two to tell apart"
        )
    if not dataset.allow_fewer:
        _check_shots(dataset.split, config.shots)
    skipped = _left_out(dataset, data.on_error)
    split, unreadable = _draw(dataset, config, image_size)
    skipped += unreadable
    remarks = list(dataset.remarks)
    if config.dataset == "folder":
        files = cast(Callable[[str], Path], dataset.contents)
        remarks += copies.examine(dataset.split, split, files, data.allow_copies)
    protocol, tested = "few_shot", {"test": ("all", split)}
    if config.classes == "base_new":
        split, new = splits.base_new(split)
        protocol, tested = "base_new", {"base_test": ("base", split), "new_test": ("new", new)}
    parts = {"train": (split.train, split), "val": (split.val, split)}
    parts |= {name: (half.test, half) for name, (_, half) in tested.items()}
    examples: dict[str, Examples] = {}
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
        target_examples, left_out = _examples(
            name, target.split.test, target.split.class_names, target, config, image_size
        )
        examples[name] = dataclasses.replace(
            target_examples, template=target.template, split=SplitRecord("target")
        )
        skipped += left_out
        notes.append(f"{name}: {target.note}" if target.note else "")
    summary = summarize(config.dataset, dataset, examples, remarks, skipped)
    domains = all(catalog.PUBLISHED[name].domain_of == config.dataset for name in others)
    return Task(
        train=examples.pop("train"),
        val=examples.pop("val"),
        test=examples,
        class_names=split.class_names,
        template=data.template or dataset.template,
        label_properties=dataset.label_properties,
        record=describe(
            config.to_dict(),
            "transfer" if others else protocol,
            "Domain generalisation" if others and domains else "",
            "; ".join(filter(None, notes)),
        ),
        skipped=tuple(skipped),
        summary=summary,
    )


def read(name: str, config: ConfigDict) -> Dataset:
    """The whole dataset of that name, before shots are drawn from it.

    Args:
      name: "folder", "hf" or a key of `catalog.PUBLISHED`.
      config: its `data` has the path and the format. `data.split` holds for `config.dataset` only.
    """
    data = config.data
    if name == "hf":
        return hf_datasets.read(data, data.allow_fewer)
    if not data.root:
        raise ValueError(f"dataset={name} needs the folder of its images: add data.root=PATH")
    root, split = Path(data.root).expanduser(), data.split if name == config.dataset else ""
    if name == "folder":
        choices = {f.name: data[f.name] for f in dataclasses.fields(class_folders.Choices)}
        return class_folders.read(
            root,
            split,
            class_folders.Choices(**choices),
            skip_missing=data.on_error == "skip",
            progress=config.progress,
        )
    return _FORMATS[data.format](name, root, split)


def _examples(
    part: str,
    items: Sequence[Item],
    class_names: tuple[str, ...],
    dataset: Dataset,
    config: ConfigDict,
    image_size: int | Preprocessing,
) -> tuple[Examples, list[Skipped]]:
    """The usable images of a part, and the skipped images."""
    data = config.data
    skip = data.on_error == "skip"
    images = _photographs(items, dataset, config, image_size)
    # Unusable images must be skipped before batches are formed. The shots are readable already.
    unusable = images.unusable(decoding=data.check or skip and part not in ("train", "val"))
    if unusable and not skip:
        raise _cant_be_used(list(unusable.values()), len(items), part)
    if unusable:
        items = [item for number, item in enumerate(items) if number not in unusable]
        images = _photographs(items, dataset, config, image_size)
    if part == "train":
        for label in sorted(set(range(len(class_names))) - {item.label for item in items}):
            raise ValueError(f"class {class_names[label]!r} has no usable training image")
    elif part != "val" and not items:
        raise ValueError(f"no {part} image can be used")
    labels = np.array([item.label for item in items], np.int64)
    skipped = [Skipped(error.name, error.reason) for error in unusable.values()]
    return Examples(images, labels, class_names, tuple(item.path for item in items)), skipped


def _photographs(
    items: Sequence[Item], dataset: Dataset, config: ConfigDict, image_size: int | Preprocessing
) -> Photographs:
    paths = [item.path for item in items]
    side = config.data.side or round(1.5 * Preprocessing.of(image_size).size)
    return Photographs(paths, dataset.contents, image_size, side, config.data.workers)


def _cant_be_used(errors: Sequence[UnreadableImage], of: int, kind: str) -> ValueError:
    return ValueError(
        f"{len(errors)} of the {of} {kind} images can't be used; the first: {errors[0]}. Mend "
        "them, or leave them out by data.on_error=skip"
    )


def _left_out(dataset: Dataset, on_error: str) -> list[Skipped]:
    """The unusable images of the dataset's folders; ValueError if they may not be skipped."""
    if dataset.unusable and on_error == "stop":
        there = sum(len(getattr(dataset.split, part)) for part in splits.PARTS)
        raise _cant_be_used(dataset.unusable, there + len(dataset.unusable), "listed")
    return [Skipped(error.name, error.reason) for error in dataset.unusable]


def _draw(
    dataset: Dataset, config: ConfigDict, image_size: int | Preprocessing
) -> tuple[Split, list[Skipped]]:
    """The few-shot split, and skipped images. data.on_error=skip draws readable images only."""
    draw = (config.shots, config.seed, config.validation_shots)
    split = splits.few_shot(dataset.split, *draw)
    if config.data.on_error == "stop":
        return split, []
    unusable: dict[str, UnreadableImage] = {}
    readable: set[str] = set()
    while new := [i for i in (*split.train, *split.val) if i.path not in readable]:
        errors = _photographs(new, dataset, config, image_size).unusable(decoding=True)
        readable.update(item.path for number, item in enumerate(new) if number not in errors)
        unusable |= {new[number].path: error for number, error in errors.items()}
        split = splits.refill(dataset.split, split, unusable, *draw)
    return split, [Skipped(error.name, error.reason) for error in unusable.values()]


def _check_shots(split: Split, shots: int) -> None:
    for label, items in splits.by_label(split.train).items():
        if len(items) < shots:
            raise ValueError(
                f"class {split.class_names[label]!r} has {len(items)} training images, fewer than "
                f"{shots} shots: lower shots, or set data.allow_fewer=True to take all there are"
            )


def _require_dataset(name: str) -> None:
    if "/" in name or Path(name).expanduser().is_dir():
        raise ValueError(
            f"dataset must be a name, but {name!r} is a path: for a folder of photographs set "
            f"dataset=folder,data.root={grammar.quoted(name)}, and for several in one sweep "
            "dataset=folder,sweep.roots=PATH,PATH"
        )
    _require_name("dataset", name, ("world", "folder", "hf", *catalog.PUBLISHED))


def _require_name(key: str, value: str, names: Iterable[str]) -> str:
    if value in names:
        return value
    near = spelling.nearest(value, names)
    raise ValueError(
        f"unknown {key} {value!r}: did you mean {near!r}? There are {', '.join(names)}"
    )
