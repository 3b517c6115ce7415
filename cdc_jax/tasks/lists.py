"""Lists of images and labels, in the formats of people and tools.

  CSV          columns separated by commas, semicolons, tabs or |, under any header of `COLUMNS`
  text         `path label` lines, without a header or under the header `path label`
  JSON         a list of objects, or an object a line (JSON Lines)
  split file   CoOp's, see `splits`; or train, val and test lists of objects

Paths are relative to the image root. Labels are names of classes, or whole numbers with a list of
names. Every assumption becomes a remark, such as an ignored column or a number without a name. A
list that can be read in two ways is refused.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cdc_jax.progress import shown
from cdc_jax.tasks import class_labels, list_formats, splits
from cdc_jax.tasks.class_labels import Row
from cdc_jax.tasks.files import Files, is_image
from cdc_jax.tasks.list_columns import Columns
from cdc_jax.tasks.splits import PARTS, Split

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/|data:", re.IGNORECASE)
_DRIVE = re.compile(r"[a-zA-Z]:[/\\]")  # of Windows
_UNPRINTED = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_LONGEST = 500  # characters of a label; a text of CLIP has 77 tokens
_LOOKED_INTO = 1000  # folders that are searched for a missing image


class Listing(NamedTuple):
    """The contents of a list.

    Attributes:
      rows: path, label and part of every image; the part is "" in a list without splits.
      class_names: by label.
      split: of a split file, in place of rows; else None.
      remarks: sentences about assumptions and ignored columns.
    """

    rows: Sequence[Row]
    class_names: tuple[str, ...]
    split: Split | None
    remarks: tuple[str, ...]


def read(
    file: Path,
    settings: Mapping[str, Any],
    files: Files,
    skip_missing: bool = False,
    progress: bool = False,
) -> Listing:
    """Reads a list and looks its images up.

    Args:
      file: the list.
      settings: of `task_toml.read`: the columns, and the names of numbered classes.
      files: of the image root.
      skip_missing: whether an image may be missing; decoding then reports it.
      progress: whether to show the progress of a long list.

    Raises:
      FileNotFoundError: there is no such list, or an image is missing.
      ValueError: the list can't be used; the message says where and why.
    """
    refuse_url(str(file))
    remarks: list[str] = []
    columns = Columns(file, settings["columns"])
    entries, many = list_formats.entries(file, columns, remarks)
    if isinstance(entries, Split):
        if settings["names"] or settings["columns"]:
            raise ValueError(
                f"{file} is a split file, which names its classes: take names and columns out of "
                "task.toml"
            )
        if not skip_missing:
            _require_there(entries, files, file)
        return Listing((), entries.class_names, entries, ())
    rows: list[Row] = []
    absolute = 0
    for at, (path, label, part) in shown(entries, "reading the list", many, progress):
        row = _row(at, path, label, part, files.roots)
        absolute += path.startswith("/")
        if rows and (row[2] == "") != (rows[0][2] == ""):
            raise ValueError(f"{at}: either all entries have a split or none has")
        rows.append(row)
    if not rows:
        raise ValueError(f"{file} lists no image")
    remarks += columns.remarks()
    if absolute:
        remarks.append(f"{file.name}: {absolute} absolute paths are taken as below {files.path}")
    rows = _complete_paths(rows, files, file, skip_missing, progress, remarks)
    rows, names = class_labels.named(rows, settings, files.path, file, remarks)
    return Listing(rows, names, None, tuple(remarks))


def refuse_url(text: str) -> None:
    """Raises ValueError if a path is a URL."""
    if _URL.match(text):
        raise ValueError(
            f"{text!r:.200} is a URL, and nothing is downloaded: get the files and name those"
        )


def _row(at: str, path: Any, label: Any, part: Any, roots: Sequence[str]) -> Row:
    if isinstance(label, list):
        if len(label) != 1:
            raise ValueError(f"{at} has {len(label)} labels, {label!r:.80}: {splits.MULTI_LABEL}")
        label = label[0]
    if type(label) is int or isinstance(label, float) and math.isfinite(label):
        label = str(label)
    if not isinstance(path, str) or not path.strip():
        raise ValueError(f"{at}: a path is a text, got {path!r:.200}")
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"{at}: a label is the name of its class, got {label!r:.200}")
    if _UNPRINTED.search(path) or _UNPRINTED.search(label) or len(label) > _LONGEST:
        raise ValueError(
            f"{at}: a path and a label are plain texts of one line, a label of at most {_LONGEST} "
            f"characters; got {path!r:.200} and {label!r:.200}"
        )
    if part is not None:
        text = str(part).strip()
        part = splits.part_of(text)
        if text and not part:
            raise ValueError(
                f"{at}: split must be one of {', '.join(PARTS)}, got {text!r:.80}; if that column "
                'is no split, say so in task.toml: [columns] split = ""'
            )
    refuse_url(path)
    if path.startswith("/") or _DRIVE.match(path):
        path = _below(path, roots, at)
    return splits.safe_path(path, at), label.strip(), part or ""


def _below(path: str, roots: Sequence[str], at: str) -> str:
    """An absolute path below one of the roots, relative to it."""
    plain = os.path.normpath(path)
    for root in roots:
        if ".." not in path and plain.startswith(f"{root.rstrip('/')}/"):
            return plain[len(root.rstrip("/")) + 1 :]
    raise ValueError(
        f"{at}: {path!r:.300} is not below the image root {roots[0]}: set data.root to a folder "
        "above it"
    )


def _complete_paths(
    rows: list[Row],
    files: Files,
    file: Path,
    skip_missing: bool,
    progress: bool,
    remarks: list[str],
) -> list[Row]:
    """The rows with complete paths. A path in the list may lack its suffix."""
    existing, missing, completed = [], [], 0
    for row in shown(rows, "looking the images up", len(rows), progress):
        path, label, part = row
        match _meant(path, files):
            case []:
                missing.append(path)
            case [file_path] if file_path != path:
                completed += 1
                row = file_path, label, part
            case [one, other, *_]:
                raise ValueError(
                    f"{file} lists {path!r:.300} without a suffix, and there are {one} and "
                    f"{other}: write which"
                )
        existing.append(row)
    if missing and not skip_missing:
        raise FileNotFoundError(_missing(missing, len(rows), files, file))
    if missing:
        remarks.append(f"{file.name}: {len(missing)} images are not there, such as {missing[0]}")
    if completed:
        remarks.append(f"{file.name}: {completed} paths have no suffix; their files' are taken")
    return existing


def _meant(path: str, files: Files) -> list[str]:
    """The path of a file, or of all images that add a suffix to it. Kaggle's ids lack suffixes."""
    if files.real(path) is not None:
        return [path]
    return [] if is_image(path) else [other for other in files.alike(path) if is_image(other)]


def _missing(missing: Sequence[str], listed: int, files: Files, file: Path) -> str:
    """The message about missing images."""
    first = ", ".join(f"{path:.300}" for path in missing[:3])
    text = (
        f"{len(missing)} of the {listed} images that {file} lists are no files below "
        f"{files.path}: {first}{', …' if missing[3:] else ''}"
    )
    for folder in files.folders()[:_LOOKED_INTO]:
        if _meant(f"{folder}/{missing[0]}", files):
            return f"{text}; the first is in {folder}/: set data.root to that folder"
    return (
        f"{text}; paths are relative to data.root: mend it or the list, or leave these images out "
        "by data.on_error=skip"
    )


def _require_there(split: Split, files: Files, file: Path) -> None:
    paths = [item.path for part in PARTS for item in getattr(split, part)]
    if missing := [path for path in paths if files.real(path) is None]:
        raise FileNotFoundError(_missing(missing, len(paths), files, file))
