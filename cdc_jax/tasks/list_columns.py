"""Which columns of a list of images are its path, its label and its split."""

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
"""What a list's path, label and split columns are called, in lower case with _ between words."""

Entry = tuple[str, tuple[Any, Any, Any]]
"""Where an entry stands, and its path, label and split (None where the list has none)."""


class Columns:
    """Which columns of a list are its path, label and split.

    Args:
      file: the list.
      chosen: what task.toml names.
    """

    def __init__(self, file: Path, chosen: Mapping[str, str]):
        self._file, self._chosen = file, chosen
        self._known: dict[tuple[str, ...], tuple[str | None, ...]] = {}

    def entry(self, at: str, entry: Mapping[str, Any]) -> Entry:
        """The path, the label and the split (None for none) of an object."""
        path, label, part = (
            None if name is None else entry[name] for name in self.choose(tuple(entry))
        )
        return at, (path, label, part)

    def fit(self, header: Sequence[str]) -> bool:
        """Whether a header names a path and a label, be it more than one."""
        return all(self._candidates(key, header) for key in ("path", "label"))

    def choose(self, header: tuple[str, ...]) -> tuple[str | None, ...]:
        """The names of the path, label and split columns; None where there is no split.

        Raises:
          ValueError: none for the path or the label, or several for one of them.
        """
        if header not in self._known:
            found = {key: self._candidates(key, header) for key in task_toml.COLUMNS}
            for key, names in found.items():
                self._require_one(key, names, header)
            chosen = tuple(names[0] if names else None for names in found.values())
            self._known[header] = chosen
        return self._known[header]

    def _candidates(self, key: str, header: Sequence[str]) -> list[str]:
        if key in self._chosen:
            wanted = _plain(self._chosen[key])
            return [name for name in header if wanted and _plain(name) == wanted]
        others = {_plain(name) for name in self._chosen.values()}
        names = [name for name in header if _plain(name) not in others]
        found = [name for name in names if _plain(name) in COLUMNS[key]]
        if key == "path" and not found:  # Kaggle's; else a row's number
            found = [name for name in names if _plain(name) == "id"]
        return found

    def _require_one(self, key: str, names: list[str], header: Sequence[str]) -> None:
        listed = ", ".join(repr(name) for name in header[:20])
        if not names and self._chosen.get(key):
            raise ValueError(
                f"{self._file} has no column {self._chosen[key]!r}, which columns in task.toml "
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
        """Which columns were read under another name than `task_toml.COLUMNS`, and which not."""
        remarks: list[str] = []
        read: dict[str, str] = {}
        ignored: dict[str, None] = {}
        for header, chosen in self._known.items():
            pairs = zip(task_toml.COLUMNS, chosen, strict=True)
            read |= {name: key for key, name in pairs if name and _plain(name) != key}
            ignored |= {n: None for n in header if n not in chosen and n.strip()}
        if read:
            named = ", ".join(f"{name!r} as {key}" for name, key in read.items())
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
