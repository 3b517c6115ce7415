"""What a run writes, as records: the row, the task, its test splits and their figures.

Evaluation writes them into results.json, the report reads them from there. Nothing is read out of
a split's or a method's name.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

from etils import epath

FORMAT = 2
"""Of results.json. Format 1 is read, see `older_formats`."""

GROUPS = ("all", "base", "new", "target")
"""Which classes a test split has: all of the task's, those trained on, those never trained on, or
those of another task."""

INTERVENTION = "int"
"""The condition under which what is irrelevant to the task was set at random, do(G_i)."""

_NAMES = {
    str: "a text", int: "a whole number", bool: "true or false", Mapping: "an object",
    Sequence: "a list",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SplitRecord:
    """A test split.

    Attributes:
      group: one of `GROUPS`.
      condition: under which its images were made, such as "iid" or "int"; "" where there is one.
      headline: whether it is among the splits that stand for the whole task.
    """

    group: str = "all"
    condition: str = ""
    headline: bool = True

    @property
    def suffix(self) -> str:
        """How figures that compare base and new classes under this condition are called."""
        return self.condition or "test"


@dataclasses.dataclass(frozen=True)
class RowRecord:
    """A row of a table.

    Attributes:
      name: as it was asked for, such as `cdc@views=flip`.
      row: name of the published row.
      title: how tables call it.
      role: one of `methods.rows.ROLES`.
      changes: settings that differ from the row's own -> values.
      changes_images: whether image features depend on what is learned.
    """

    name: str
    row: str
    title: str
    role: str
    changes: Mapping[str, Any]
    changes_images: bool


@dataclasses.dataclass(frozen=True)
class TaskRecord:
    """A task.

    Attributes:
      dataset: what is learned on, for people.
      protocol: "few_shot", "base_new" or "transfer".
      heading: of its tables, in place of the protocol's; "" for none.
      shots: training images a class.
      seed: of the shots.
      settings: the other settings that the task depends on, dots reaching into the parts.
      note: what tables must say beside the figures; "" for nothing.
    """

    dataset: str
    protocol: str
    heading: str
    shots: int
    seed: int
    settings: Mapping[str, Any]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything in results.json.

    Attributes:
      row: what was run.
      task: on what.
      splits: name -> what the split is.
      figures: name -> its figures, see `evaluate.summarize`.
      summary: the figures that tables show, see there.
      facts: what a method says of itself beside its figures, such as the phrases it started from.
      steps: of training.
      trainable_parameters: their number.
      skipped: images that were left out, each `file` and `reason`.
      device: number and kind.
    """

    row: RowRecord
    task: TaskRecord
    splits: Mapping[str, SplitRecord]
    figures: Mapping[str, Mapping[str, Any]]
    summary: Mapping[str, Any]
    facts: Mapping[str, Any]
    steps: int
    trainable_parameters: int
    skipped: Sequence[Mapping[str, str]]
    device: str

    def to_json(self) -> dict[str, Any]:
        """The object that results.json holds; a split's figures stand beside what it is."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["figures"]
        splits = {
            name: dataclasses.asdict(split) | dict(self.figures[name])
            for name, split in self.splits.items()
        }
        row, task = dataclasses.asdict(self.row), dataclasses.asdict(self.task)
        return {"format": FORMAT} | fields | {"row": row, "task": task, "splits": splits}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Results":
        """Reads an object of the current format.

        Raises:
          ValueError: another format; something is missing, or is not what it must be.
        """
        if content.get("format") != FORMAT:
            raise ValueError(
                f"is of format {content.get('format')!r}, this release reads 1 and {FORMAT}"
            )
        fields = [field.name for field in dataclasses.fields(cls) if field.name != "figures"]
        if missing := [name for name in fields if name not in content]:
            raise ValueError(f"lacks {', '.join(missing)}")
        entries = _object(content, "splits")
        splits = {name: _record(SplitRecord, entries, name) for name in entries}
        known = vars(SplitRecord())
        figures = {
            name: {key: value for key, value in entry.items() if key not in known}
            for name, entry in entries.items()
        }
        others = {name: content[name] for name in fields if name not in ("row", "task", "splits")}
        _check_types(cls, others, "")
        return cls(
            row=_record(RowRecord, content, "row"),
            task=_record(TaskRecord, content, "task"),
            splits=splits,
            figures=figures,
            **others,
        )


def read_json(path: epath.Path | Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is half-written or holds something else; the message names it.
    """
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: half-written or not JSON ({error}); delete its folder and run it again"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected a JSON object, got {type(content).__name__}; delete its folder and "
            "run it again"
        )
    return content


def _object(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if not isinstance(content[key], Mapping):
        raise ValueError(f"{key} must be an object, got {content[key]!r:.80}")
    return content[key]


def _record(kind: type, content: Mapping[str, Any], key: str) -> Any:
    entry = _object(content, key)
    names = [field.name for field in dataclasses.fields(kind)]
    if missing := [name for name in names if name not in entry]:
        raise ValueError(f"{key} lacks {', '.join(missing)}")
    values = {name: entry[name] for name in names}
    _check_types(kind, values, f"{key}.")
    return kind(**values)


def _check_types(kind: type, values: Mapping[str, Any], prefix: str) -> None:
    for field in dataclasses.fields(kind):
        expected: Any = get_origin(field.type) or field.type
        if field.name in values and not isinstance(values[field.name], expected):
            raise ValueError(
                f"{prefix}{field.name} must be {_NAMES[expected]}, got {values[field.name]!r:.80}"
            )
