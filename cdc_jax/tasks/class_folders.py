"""A user's own images: a folder of class folders, or a list of paths and labels.

`layouts` reads folders, `lists` reads lists, and `task_toml` reads the file task.toml beside the
images.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cdc_jax.tasks import layouts, lists, splits, task_toml
from cdc_jax.tasks.class_labels import Row
from cdc_jax.tasks.decode import UnreadableImage
from cdc_jax.tasks.files import Files
from cdc_jax.tasks.photographs import Dataset
from cdc_jax.tasks.splits import PARTS, Item, Split


@dataclasses.dataclass(frozen=True)
class Choices:
    """The user's choices for data that can be read in several ways.

    Attributes:
      allow_fewer: see `Dataset`.
      layout: see `layouts.read`.
      val_is_test: whether to test on the validation images of data without test images.
      follow_links: whether links may lead out of the folder, and to folders.
    """

    allow_fewer: bool = False
    layout: str = ""
    val_is_test: bool = False
    follow_links: bool = False


def read(
    root: Path,
    items: str = "",
    choices: Choices = Choices(),
    skip_missing: bool = False,
    progress: bool = False,
) -> Dataset:
    """A user's own images.

    Args:
      root: folder of the images, or a list in it.
      items: path of a list, in place of the list in task.toml; "" is none.
      choices: of the user.
      skip_missing: whether a listed image may be missing; decoding then reports it.
      progress: whether to show the progress of a long list.

    Raises:
      FileNotFoundError: there is no such folder or list, or a listed image is missing.
      ValueError: task.toml, a list or folders can't be used; the message says where and why.
    """
    lists.refuse_url(str(root))
    lists.refuse_url(items)
    if not root.exists():
        raise FileNotFoundError(
            f"data.root {root} is not there: give a folder with a folder of images a class"
        )
    if not (root.is_dir() or root.is_file()):
        raise ValueError(f"data.root {root} is neither a folder nor a list of images: give one")
    folder = root.parent if root.is_file() else root
    settings = task_toml.read(folder / "task.toml")
    listed = Path(items).expanduser() if items else folder / settings["items"]
    if root.is_file() and not items:
        listed = root
    files = Files(folder)
    if listed == folder:
        contents = _of_folders(folder, settings, choices)
    else:
        contents = _of_list(listed, settings, files, skip_missing, progress)
    split = task_toml.renamed(contents.split, settings["class_names"])
    remarks = contents.remarks
    if choices.val_is_test:
        remarks = ("the images of val are the test", *remarks)
    split = _tested(split, choices.val_is_test, str(listed))
    splits.check(split, str(listed))
    paths = [item.path for part in PARTS for item in getattr(split, part)]
    _check_files(folder, files, paths, choices.follow_links)
    template = task_toml.template(settings, split.class_names)
    return Dataset(
        split,
        folder.joinpath,
        template,
        allow_fewer=choices.allow_fewer,
        layout=contents.layout,
        remarks=(*remarks, *task_toml.remarks(template, split.class_names)),
        unusable=contents.unusable,
    )


class _Contents(NamedTuple):
    """The fields of a `Dataset` that a folder or a list decides."""

    split: Split
    layout: str
    remarks: tuple[str, ...]
    unusable: tuple[UnreadableImage, ...] = ()


def _of_list(
    listed: Path, settings: Mapping[str, Any], files: Files, skip_missing: bool, progress: bool
) -> _Contents:
    listing = lists.read(listed, settings, files, skip_missing, progress)
    split = listing.split or _split(listing.rows, listing.class_names, settings, str(listed))
    return _Contents(split, f"listed in {listed}", listing.remarks)


def _of_folders(folder: Path, settings: Mapping[str, Any], choices: Choices) -> _Contents:
    if settings["names"] or settings["columns"]:
        raise ValueError(
            f"names and columns in {folder / 'task.toml'} belong to a list: add items, or "
            "data.split=LIST"
        )
    listing = layouts.read(folder, choices.layout, choices.follow_links)
    names = sorted({name for _, name, _ in listing.rows})
    split = _split(listing.rows, names, settings, str(folder))
    return _Contents(split, listing.layout, listing.remarks, listing.unusable)


def _tested(split: Split, val_is_test: bool, where: str) -> Split:
    """The split; with `val_is_test` its validation images become the test images."""
    if val_is_test:
        if split.test or not split.val:
            has = "test images of its own" if split.test else "no validation images"
            raise ValueError(f"data.val_is_test=True, and {where} has {has}: leave it out")
        return dataclasses.replace(split, val=(), test=split.val)
    if split.val and not split.test:
        raise ValueError(
            f"{where} has no test image, but {len(split.val)} validation images: add "
            "data.val_is_test=True to test on these, as with ImageNet, or give test images"
        )
    return split


def _split(
    rows: Sequence[Row], names: Sequence[str], settings: Mapping[str, Any], where: str
) -> Split:
    labels = {name: label for label, name in enumerate(names)}
    items = [(part, Item(path, labels[name])) for path, name, part in rows]
    if rows[0][2]:
        parts = {part: tuple(item for p, item in items if p == part) for part in PARTS}
        if not parts["train"]:
            raise ValueError(f"{where} marks no image as train")
        return Split(**parts, class_names=tuple(names))
    flat = [item for _, item in items]
    return splits.partition(flat, names, settings["val"], settings["test"], settings["seed"])


def _check_files(folder: Path, files: Files, paths: Sequence[str], follow_links: bool) -> None:
    """Requires that each path leads to its own file in the folder, unless links are followed."""
    paths_by_file: dict[str, str] = {}
    for path in paths:
        real = files.real(path)
        if real is None or follow_links:  # what links make the same is found by its content
            continue
        if not real.startswith(f"{files.root.rstrip('/')}/"):
            raise ValueError(
                f"{folder / path} leads out of {folder}, to {real}: put the file itself there, or "
                "add data.follow_links=True"
            )
        if real in paths_by_file:
            raise ValueError(f"{folder / path} and {paths_by_file[real]} are the same file")
        paths_by_file[real] = path
