"""The columns of a list of images: path, label and split."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdc_jax.tasks import task_toml

COLUMNS: dict[str, tuple[str, ...]] = {
    "path": (
        "path", "file", "file_name", "filename", "file_path", "filepath", "image", "images",
        "image_path", "imagepath", "image_file", "image_name", "image_id", "imageid", "img",
        "img_path", "img_name", "photo", "picture",
    ),
    "label": (
        "label", "labels", "class", "classes", "category", "target", "class_name", "classname",
        "label_name", "category_name", "class_id", "class_index", "class_idx", "label_id",
        "category_id", "breed", "species",
    ),
    "split": (
        "split", "set", "subset", "partition", "fold", "data_set", "dataset_split", "usage",
    ),
}  # fmt: skip
"""The usual names of the path, label and split columns, in lower case with _ between words."""

Entry = tuple[str, tuple[Any, Any, Any]]
"""The place of an entry; its path, label and split (None in a list without splits)."""


class Columns:
    """The path, label and split columns of a list.

    Args:
      file: the list.
      settings: `columns` of task.toml.
    """

    def __init__(self, file: Path, settings: Mapping[str, str]):
        self._file, self._settings = file, settings
        self._by_header: dict[tuple[str, ...], tuple[str | None, ...]] = {}

    def entry(self, at: str, entry: Mapping[str, Any]) -> Entry:
        """The path, the label and the split (None for none) of an object."""
        path, label, part = (
            None if name is None else entry[name] for name in self.choose(tuple(entry))
        )
        return at, (path, label, part)

    def fit(self, header: Sequence[str]) -> bool:
        """Whether a header has at least one column for the path and one for the label."""
        return all(self._candidates(key, header) for key in ("path", "label"))

    def choose(self, header: tuple[str, ...]) -> tuple[str | None, ...]:
        """The names of the path, label and split columns; None for a list without splits.

        Raises:
          ValueError: no column fits the path or the label, or several columns fit one of them.
        """
        if header not in self._by_header:
            candidates = {key: self._candidates(key, header) for key in task_toml.COLUMNS}
            for key, names in candidates.items():
                self._require_one(key, names, header)
            columns = tuple(names[0] if names else None for names in candidates.values())
            self._by_header[header] = columns
        return self._by_header[header]

    def _candidates(self, key: str, header: Sequence[str]) -> list[str]:
        if key in self._settings:
            target = _plain(self._settings[key])
            return [name for name in header if target and _plain(name) == target]
        others = {_plain(name) for name in self._settings.values()}
        names = [name for name in header if _plain(name) not in others]
        matches = [name for name in names if _plain(name) in COLUMNS[key]]
        if key == "path" and not matches:  # Kaggle's; else a row's number
            matches = [name for name in names if _plain(name) == "id"]
        return matches

    def _require_one(self, key: str, names: list[str], header: Sequence[str]) -> None:
        listed = ", ".join(repr(name) for name in header[:20])
        if not names and self._settings.get(key):
            raise ValueError(
                f"{self._file} has no column {self._settings[key]!r}, which columns in task.toml "
                f"names for the {key}: it has {listed:.300}"
            )
        if not names and key != "split":
            raise ValueError(
                f"{self._file} has no {key} column: it has {listed:.300}; call one {key!r}, or "
                f'name it in task.toml: [columns] {key} = "…"'
            )
        if len(names) > 1:
            also = ', or = "" for none' if key == "split" else ""
            several = ", ".join(map(repr, names))
            raise ValueError(
                f"{self._file} has several columns for the {key}: {several:.300}; "
                f'choose in task.toml: [columns] {key} = "{names[0]:.80}"{also}'
            )

    def remarks(self) -> list[str]:
        """Sentences about columns with other names than `task_toml.COLUMNS`, and ignored ones."""
        remarks: list[str] = []
        keys: dict[str, str] = {}
        ignored: dict[str, None] = {}
        for header, columns in self._by_header.items():
            pairs = zip(task_toml.COLUMNS, columns, strict=True)
            keys |= {name: key for key, name in pairs if name and _plain(name) != key}
            ignored |= {n: None for n in header if n not in columns and n.strip()}
        if keys:
            named = ", ".join(f"{name!r} as {key}" for name, key in keys.items())
            remarks.append(f"{self._file.name}: column {named:.300}")
        if ignored:
            remarks.append(
                f"{self._file.name}: ignored columns: {', '.join(map(repr, [*ignored][:20])):.500}"
                + (f" and {len(ignored) - 20} more" if len(ignored) > 20 else "")
            )
        return remarks


def _plain(name: str) -> str:
    """A column's name in lower case with _ between words."""
    return re.sub(r"[\s_.-]+", "_", name.strip().casefold())
