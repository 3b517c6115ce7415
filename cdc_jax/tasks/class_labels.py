"""Labels of a list -> class names. A label is a class name, or the number of a class name."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cdc_jax import spelling
from cdc_jax.tasks import splits, text_file

Row = tuple[str, str, str]  # path, label, part or ""

_WHOLE = re.compile(r"(-?(?:0|[1-9]\d{0,17}))(?:\.0+)?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_NUMBERED = re.compile(r"\s*(\d{1,18})\s*[\s:,;]\s*(\S.*)")


def named(
    rows: list[Row], settings: Mapping[str, Any], folder: Path, file: Path, remarks: list[str]
) -> tuple[list[Row], tuple[str, ...]]:
    """The rows with class names in place of labels, and the class names by label."""
    labels = {label for _, label, _ in rows}
    _refuse_multi_label(labels, file)
    numbers = _numbers(labels, file)
    names, numbered = _names(settings["names"], folder)
    if not names:
        if numbers is None:
            return rows, tuple(sorted(labels))
        names = {number: str(number) for number in numbers.values()}
        if not set(map(str, names)) <= set(settings["class_names"]):
            remarks.append(
                f"{file.name}: labels are numbers without names, so CLIP reads '0', '1' and so on; "
                'say what they mean in task.toml: names = "names.txt", one name a line'
            )
    if numbers is None:
        numbers, numbered = _by_name(labels, names, file), True
    if unnamed := {number: label for label, number in numbers.items() if number not in names}:
        raise ValueError(
            f"{file}: label {unnamed[min(unnamed)]} has no name: task.toml names {len(names)} "
            f"classes, {min(names)} to {max(names)}; if labels start at 1, number the lines of the "
            "file of names ('1 cat')"
        )
    used = sorted(set(numbers.values()))
    if used[0] == 1 and 0 in names and not numbered:
        raise ValueError(
            f"{file}: no image has label 0, so labels may start at 1, and the names in task.toml "
            "would be one off: number the lines of a file of names ('1 cat'), from 0 or from 1"
        )
    class_names = tuple(names[number] for number in used)
    if twice := [name for name, count in Counter(class_names).items() if count > 1]:
        raise ValueError(f"two classes are called {twice[0]!r}: CLIP could not tell them")
    if len(used) < len(names):
        remarks.append(f"{file.name}: {len(names) - len(used)} of the named classes have no image")
    return [(path, names[numbers[label]], part) for path, label, part in rows], class_names


def _by_name(labels: Iterable[str], names: Mapping[int, str], file: Path) -> dict[str, int]:
    """The numbers of labels that are class names."""
    numbers = {name: number for number, name in names.items()}
    for label in labels:
        if label not in numbers:
            near = spelling.nearest(label, numbers)
            raise ValueError(f"{file}: {label!r} is not among the names in task.toml; {near!r} is")
    return {label: numbers[label] for label in labels}


def _numbers(labels: Iterable[str], file: Path) -> dict[str, int] | None:
    """Label -> whole number; None if a label is no number. pandas may write 1 as 1.0.

    Raises:
      ValueError: a label is negative or a fraction.
    """
    if not all(map(_NUMBER.fullmatch, labels)):
        return None
    wholes = {label: match[1] for label in labels if (match := _WHOLE.fullmatch(label))}
    if other := sorted(set(labels) - set(wholes)):
        if any("." in label or "e" in label.lower() for label in other):
            raise ValueError(
                f"{file}: {other[0]!r} is no label: a class is called by its name or by a whole "
                "number, and regression is not supported"
            )
        return None  # such as 007
    numbers = {label: int(text) for label, text in wholes.items()}
    if negative := sorted(label for label, number in numbers.items() if number < 0):
        raise ValueError(f"{file}: label {negative[0]} is no class: leave such images out")
    return numbers


def _is_whole(text: str) -> bool:
    return _WHOLE.fullmatch(text) is not None


def _refuse_multi_label(labels: set[str], file: Path) -> None:
    """Raises ValueError if a label lists several labels."""
    numbers = all(re.fullmatch(r"\d+( +\d+)*", label) for label in labels)
    for label in labels:
        several = re.fullmatch(r"\[.*\]|\{.*\}", label) is not None or (numbers and " " in label)
        for separator, enough in (("|", any), (";", any), (",", all)):
            parts = [part.strip() for part in label.split(separator)]
            if separator in label and all(parts):
                several |= enough(part in labels for part in parts)
        if several:
            raise ValueError(
                f"{file}: {label!r:.200} looks like several labels: {splits.MULTI_LABEL}"
            )


def _names(source: str | Sequence[str], folder: Path) -> tuple[dict[int, str], bool]:
    """Number -> name, from a list or from a file in the folder; empty for an empty source.

    Returns:
      The names, and whether the file gives their numbers. Else they are counted from 0.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: the file holds no such names.
    """
    if not isinstance(source, str):
        return {number: name.strip() for number, name in enumerate(source)}, False
    if not source:
        return {}, False
    file = folder / source
    if file.suffix.lower() == ".json":
        return _json_names(text_file.read_json(file), file)
    lines = [line.strip() for line in text_file.read(file).rstrip().split("\n")]
    if not all(lines):
        at = lines.index("") + 1
        raise ValueError(f"{file}, line {at}, is empty: one name a line is expected")
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if len(lines) > 1 and all(numbered[1:]):
        numbered = numbered[0 if numbered[0] else 1 :]  # its first line may be a header
        names = {int(match[1]): match[2].strip() for match in numbered if match}
        if len(names) == len(numbered):
            return names, True
    return dict(enumerate(lines)), False


def _json_names(content: Any, file: Path) -> tuple[dict[int, str], bool]:
    """Names of a list, of number -> name, or of name -> number."""
    numbered = isinstance(content, dict)
    listed = enumerate(content) if isinstance(content, list) else ()
    pairs = list(content.items() if numbered else listed)
    if pairs and all(type(value) is int for _, value in pairs):
        pairs = [(value, key) for key, value in pairs]
    names = {
        int(key): name.strip()
        for key, name in pairs
        if isinstance(name, str) and name.strip() and _is_whole(str(key))
    }
    if not names or len(names) != len(pairs):
        raise ValueError(
            f"{file} must be a list of names, or an object of number -> name or name -> number"
        )
    return names, numbered
