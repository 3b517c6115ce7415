"""A user's own images: a folder of class folders, or a list of paths and labels.

How folders are read stands in `layouts`. A small file task.toml beside them may say more, every key
of it optional:

  template = "a photo of a {}."    # the hand-crafted template
  items = "labels.csv"             # a list in place of class folders
  val = 0.2                        # shares of the images, where nothing says which is for what
  test = 0.3
  seed = 0                         # of that split, not of the shots
  [class_names]
  tshirt = "T-shirt"               # folder, or label in the list = the name that CLIP reads

A list is a CSV file with the columns path, label and perhaps split (train, val or test), a JSON
list of objects with these keys, or a split file of CoOp's. Paths are relative to the folder.
"""

import csv
import dataclasses
import difflib
import os
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cdc_jax.tasks import layouts, splits
from cdc_jax.tasks.photographs import Dataset
from cdc_jax.tasks.splits import PARTS, Item, Split

# The shares are those by which CoOp split the datasets that had no split.
DEFAULTS: dict[str, Any] = {
    "template": "a photo of a {}.", "items": "", "val": 0.2, "test": 0.3, "seed": 0,
    "class_names": {},
}  # fmt: skip
"""What task.toml may say, and what holds where it doesn't."""

Row = tuple[str, str, str]  # path, label, part or ""


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a user decides where data can be taken in several ways.

    Attributes:
      allow_fewer: see `Dataset`.
      layout: see `layouts.read`.
      val_is_test: test on the validation images, where there are no test images.
      follow_links: whether links may lead out of the folder, and to folders.
    """

    allow_fewer: bool = False
    layout: str = ""
    val_is_test: bool = False
    follow_links: bool = False


def read(root: Path, items: str = "", choices: Choices = Choices()) -> Dataset:
    """A user's own images.

    Args:
      root: their folder, or a list in it.
      items: a list, wherever it is, in place of what task.toml says; "" is none.
      choices: of the user.

    Raises:
      FileNotFoundError: no such folder or list.
      ValueError: settings, a list or folders that can't be used; the message says where and why.
    """
    if not root.exists():
        raise FileNotFoundError(
            f"data.root {root} is not there: give a folder with a folder of images a class"
        )
    folder = root.parent if root.is_file() else root
    settings = _settings(folder / "task.toml")
    listed = Path(items).expanduser() if items else folder / settings["items"]
    if root.is_file() and not items:
        listed = root
    if listed == folder:
        found = layouts.read(folder, choices.layout, choices.follow_links)
        split = _split(found.rows, settings, str(folder))
        dataset = _collection(split, folder, settings, str(folder), choices)
        return dataclasses.replace(
            dataset,
            layout=found.layout,
            remarks=(*dataset.remarks, *found.remarks),
            unusable=found.unusable,
        )
    if listed.suffix.lower() == ".csv":
        rows, where = _csv(listed), str(listed)
    else:
        lists, where = splits.read_json(listed), str(listed)
        if isinstance(lists, Mapping):
            split = _renamed(splits.from_lists(lists, where), settings["class_names"])
            return _collection(split, folder, settings, where, choices)
        rows = _json_rows(lists, where)
    return _collection(_split(rows, settings, where), folder, settings, where, choices)


def _collection(
    split: Split, folder: Path, settings: Mapping[str, Any], where: str, choices: Choices
) -> Dataset:
    if choices.val_is_test:
        if split.test or not split.val:
            has = "test images of its own" if split.test else "no validation images"
            raise ValueError(f"data.val_is_test=True, and {where} has {has}: leave it out")
        split = dataclasses.replace(split, val=(), test=split.val)
    elif split.val and not split.test:
        raise ValueError(
            f"{where} has no test image, but {len(split.val)} validation images: add "
            "data.val_is_test=True to test on these, as with ImageNet, or give test images"
        )
    splits.check(split, where)
    _check_files(
        folder, [i.path for part in PARTS for i in getattr(split, part)], choices.follow_links
    )
    return Dataset(
        split, folder.joinpath, settings["template"], allow_fewer=choices.allow_fewer,
        layout=f"listed in {where}",
        remarks=("the images of val are the test",) if choices.val_is_test else (),
    )  # fmt: skip


def _settings(file: Path) -> dict[str, Any]:
    """Contents of task.toml over the defaults."""
    if not file.exists():
        return DEFAULTS
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not TOML: {error}") from None
    for key, value in given.items():
        if key not in DEFAULTS:
            near = difflib.get_close_matches(key, DEFAULTS, 1, 0)[0]
            raise ValueError(f"unknown key {key!r} in {file}: did you mean {near!r}?")
        kind = type(DEFAULTS[key])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"{key} in {file} must be of type {kind.__name__}, got {value!r}")
    settings = DEFAULTS | given
    if settings["template"].count("{}") != 1:
        raise ValueError(
            f"template in {file} needs one {{}} for the class name, got {settings['template']!r}"
        )
    return settings


def _csv(file: Path) -> list[Row]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines, strict=True))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no list of images {file}: give its path from here, {Path.cwd()}"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{file} is not CSV in UTF-8: {error}; save it as comma-separated UTF-8"
        ) from None
    return _rows(rows, str(file), first=2)


def _json_rows(entries: Any, where: str) -> list[Row]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(
            f"{where} must be a list of objects with path and label, or a split file with train, "
            "val and test"
        )
    return _rows(entries, where, first=1)


def _rows(entries: Iterable[Mapping[Any, Any]], where: str, first: int) -> list[Row]:
    rows: list[Row] = []
    for number, entry in enumerate(entries, first):
        at = f"{where}, entry {number}"
        if not {"path", "label"} <= set(entry) <= {"path", "label", "split"}:
            raise ValueError(
                f"{at} must have path, label and at most split, separated by commas in a CSV with "
                f"these names in its first line, got {list(entry)}"
            )
        path, label, part = (entry.get(key, "") for key in ("path", "label", "split"))
        if not isinstance(path, str) or not isinstance(label, str) or not label.strip():
            raise ValueError(
                f"{at}: path and label must be texts, and a label is the name of its class; got "
                f"{path!r} and {label!r}"
            )
        if part not in ("", *PARTS):
            raise ValueError(f"{at}: split must be one of {', '.join(PARTS)}, got {part!r}")
        if rows and (part == "") != (rows[0][2] == ""):
            raise ValueError(f"{at}: either all entries have a split or none has")
        rows.append((splits.safe_path(path, at), label.strip(), part))
    if not rows:
        raise ValueError(f"{where} lists no image")
    return rows


def _split(rows: list[Row], settings: Mapping[str, Any], where: str) -> Split:
    labels = {name: label for label, name in enumerate(sorted({row[1] for row in rows}))}
    items = [(part, Item(path, labels[name])) for path, name, part in rows]
    names = tuple(labels)
    if rows[0][2]:
        parts = {part: tuple(item for p, item in items if p == part) for part in PARTS}
        if not parts["train"]:
            raise ValueError(f"{where} marks no image as train")
        split = Split(**parts, class_names=names)
    else:
        chosen = [item for _, item in items]
        shares = (settings[key] for key in ("val", "test", "seed"))
        split = splits.partition(chosen, names, *shares)
    return _renamed(split, settings["class_names"])


def _renamed(split: Split, changes: Mapping[str, Any]) -> Split:
    for name, new in changes.items():
        if name not in split.class_names:
            near = difflib.get_close_matches(name, split.class_names, 1, 0)[0]
            raise ValueError(f"class_names in task.toml: no class {name!r}, but {near!r}")
        if not isinstance(new, str) or not new.strip():
            raise ValueError(f"class_names in task.toml: {name!r} needs a name, got {new!r}")
    names = tuple(changes.get(name, name) for name in split.class_names)
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two classes are called {sorted(twice)[0]!r}: CLIP could not tell them")
    return Split(split.train, split.val, split.test, names)


def _check_files(folder: Path, paths: list[str], follow_links: bool) -> None:
    """Every path leads to a file of its own, under the folder unless links may lead out of it.

    Each folder is listed once, and only links are followed, so that a million paths take seconds.
    """
    root = os.path.realpath(folder)
    names: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        parent, _, name = path.rpartition("/")
        names[parent].append(name)
    seen: dict[str, str] = {}  # where links lead -> the path
    places: dict[str, str] = {}
    for parent, listed in names.items():
        place = layouts.followed(str(folder / parent))
        if not os.path.isdir(place):
            continue  # `sources` reports what is missing
        places[parent] = place
        _require_inside(folder / parent, place, root, follow_links)
        with os.scandir(place) as entries:
            links = {entry.name for entry in entries if entry.is_symlink()}
        for name in (name for name in listed if name in links):
            path = f"{parent}/{name}".lstrip("/")
            real = layouts.followed(os.path.join(place, name))
            if not os.path.exists(real):
                continue
            _require_inside(folder / path, real, root, follow_links)
            if real in seen and not follow_links:
                raise ValueError(f"{folder / path} and {seen[real]} are the same file")
            seen[real] = path
    if follow_links or not seen and len(set(places.values())) == len(places):
        return  # what links make the same is found by its content
    for path in paths:
        parent, _, name = path.rpartition("/")
        real = os.path.join(places.get(parent, ""), name)
        if seen.setdefault(real, path) != path:
            raise ValueError(f"{folder / path} and {seen[real]} are the same file")


def _require_inside(path: Path, real: str, root: str, follow_links: bool) -> None:
    if not follow_links and os.path.commonpath([root, real]) != root:
        raise ValueError(
            f"{path} leads out of {root}, to {real}: put the file itself there, or add "
            "data.follow_links=True"
        )
