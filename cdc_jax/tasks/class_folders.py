"""A user's own images: a folder of class folders, or a list of paths and labels.

`task_toml` says what a file task.toml beside them may add, `lists` which lists are read.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdc_jax.tasks import lists, splits, task_toml
from cdc_jax.tasks.class_labels import Row
from cdc_jax.tasks.files import SUFFIXES, Files, followed
from cdc_jax.tasks.photographs import Dataset
from cdc_jax.tasks.splits import PARTS, Item, Split


def read(
    root: Path,
    items: str = "",
    allow_fewer: bool = False,
    skip_missing: bool = False,
    progress: bool = False,
) -> Dataset:
    """A user's own images.

    Args:
      root: their folder, or a list in it.
      items: a list, wherever it is, in place of what task.toml says; "" is none.
      allow_fewer: see `Dataset`.
      skip_missing: leave listed images that are not there to whoever reads them.
      progress: show it, where a list is long.

    Raises:
      FileNotFoundError: no such folder or list, or listed images that are not there.
      ValueError: settings, a list or folders that can't be used; the message says where and why.
    """
    lists.refuse_url(str(root))
    lists.refuse_url(items)
    if not root.exists():
        raise FileNotFoundError(
            f"data.root {root} is not there: give a folder with a folder of images a class"
        )
    if not (root.is_dir() or root.is_file()):
        raise ValueError(f"data.root {root} is neither a folder nor a list: give one of them")
    folder = root.parent if root.is_file() else root
    settings = task_toml.read(folder / "task.toml")
    lists.refuse_url(settings["items"])
    listed = Path(items).expanduser() if items else folder / settings["items"]
    if root.is_file() and not items:
        listed = root
    files = Files(folder)
    remarks: tuple[str, ...] = ()
    if listed == folder:
        split = _of_folders(folder, settings)
    else:
        split, remarks = _of_list(listed, settings, files, skip_missing, progress)
    split = task_toml.renamed(split, settings["class_names"])
    splits.check(split, str(listed))
    _check_files(folder, files, [item.path for part in PARTS for item in getattr(split, part)])
    template = task_toml.template(settings, split.class_names)
    remarks += task_toml.remarks(template, split.class_names)
    return Dataset(split, folder.joinpath, template, allow_fewer=allow_fewer, remarks=remarks)


def _of_list(
    listed: Path, settings: Mapping[str, Any], files: Files, skip_missing: bool, progress: bool
) -> tuple[Split, tuple[str, ...]]:
    listing = lists.read(listed, settings, files, skip_missing, progress)
    if listing.split is not None:
        return listing.split, listing.remarks
    return _split(listing.rows, listing.class_names, settings, str(listed)), listing.remarks


def _of_folders(folder: Path, settings: Mapping[str, Any]) -> Split:
    if settings["names"] or settings["columns"]:
        raise ValueError(
            f"names and columns in {folder / 'task.toml'} belong to a list: add items, or "
            "data.split=LIST"
        )
    rows = _class_folders(folder)
    return _split(rows, sorted({name for _, name, _ in rows}), settings, str(folder))


def _class_folders(folder: Path) -> list[Row]:
    """Rows of `<class>/**/<image>`, or of `train/<class>/**/<image>` and so on."""
    names = _folders(folder)
    if not names:
        raise ValueError(f"{folder} holds no class folders, and no task.toml names a list of items")
    if "train" in names and set(names) <= set(PARTS):
        found = {(part, name) for part in names for name in _folders(folder / part)}
        return [row for part, name in sorted(found) for row in _images(folder, part, name)]
    return [row for name in names for row in _images(folder, "", name)]


def _folders(folder: Path) -> list[str]:
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    for entry in entries:
        if entry.is_symlink() and os.path.isdir(followed(entry.path) or ""):
            # It could lead in a circle, count images twice, or leave the folder.
            raise ValueError(f"{entry.path} is a link to a folder: put the folder itself there")
    return sorted(entry.name for entry in entries if entry.is_dir())


def _images(folder: Path, part: str, name: str) -> list[Row]:
    rows = []
    for parent, _, files in os.walk(folder / part / name):
        _folders(Path(parent))
        for file in files:
            if Path(file).suffix.lower() in SUFFIXES and not file.startswith("."):
                path = Path(parent, file).relative_to(folder).as_posix()
                rows.append((path, name, part))
    if not rows:
        raise ValueError(f"the class folder {folder / part / name} holds no image")
    return sorted(rows)


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
    chosen = [item for _, item in items]
    return splits.partition(chosen, names, settings["val"], settings["test"], settings["seed"])


def _check_files(folder: Path, files: Files, paths: list[str]) -> None:
    """Every path leads to a file of its own under the folder."""
    seen: dict[str, str] = {}
    for path in paths:
        real = files.real(path)
        if real is None:
            continue
        if not real.startswith(f"{files.root.rstrip('/')}/"):
            raise ValueError(f"{folder / path} leads out of {folder}, to {real}")
        if real in seen:
            raise ValueError(f"{folder / path} and {seen[real]} are the same file")
        seen[real] = path
