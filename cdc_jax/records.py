"""What a run writes, as records: the row, the task, its test splits and their figures.

Evaluation writes them into results.json. The report reads them from there, and parses no name of a
split or a method.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from cdc_jax import schema
from cdc_jax.schema import integer, text

FORMAT = 2
"""Of results.json. Format 1 is read, see `older_formats`."""

GROUPS = ("all", "base", "new", "target")
"""The classes of a test split: all classes of the task, its training classes, its classes without
training images, or the classes of another task."""

INTERVENTION = "int"
"""The condition do(G_i): factors that are irrelevant to the task are set at random."""

_REMEDY = "delete its folder and run it again"


@dataclasses.dataclass(frozen=True)
class SplitRecord:
    """A test split.

    Attributes:
      group: one of `GROUPS`.
      condition: of its images, such as "iid" or "int"; "" for a task with a single condition.
      headline: whether it is one of the splits that stand for the whole task.
    """

    group: str = "all"
    condition: str = ""
    headline: bool = True

    @property
    def suffix(self) -> str:
        """The suffix of figures that compare base and new classes under this condition."""
        return self.condition or "test"

    def title(self, name: str) -> str:
        """The split in tables: the name of another task, or the group and the condition."""
        return name if self.group == "target" else f"{self.group} {self.condition}".strip()


@dataclasses.dataclass(frozen=True)
class RowRecord:
    """A row of a table.

    Attributes:
      name: as the user wrote it, such as `cdc@views=flip`.
      row: name of the published row.
      title: its name in tables.
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
      dataset: name of the training dataset in tables.
      protocol: "few_shot", "base_new" or "transfer".
      heading: of its tables, in place of the protocol's; "" for none.
      shots: training images a class.
      seed: of the shots.
      settings: the other settings that the task depends on, nested keys joined by dots.
      note: a remark that tables show beside the figures; "" for none.
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
      row: the row of the run.
      task: the task of the run.
      splits: split name -> record of the split.
      figures: split name -> its figures, see `evaluate.summarize`. An older release wrote fewer.
      summary: the figures that tables show, see `evaluate.summarize`.
      facts: `Method.facts`, such as the phrases that the templates started from.
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
        """The object of results.json. A split's figures stand beside the fields of its record."""
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
          ValueError: the object has another format, lacks a field, or has a field of a wrong type.
        """
        if content.get("format") != FORMAT:
            raise ValueError(
                f"is of format {schema.shown(content.get('format'))}, this release reads 1 and "
                f"{FORMAT}"
            )
        fields = _RESULTS.read(content, "")
        names = {kind: _names(kind) for kind in (SplitRecord, RowRecord, TaskRecord)}
        splits, figures = {}, {}
        for name, entry in fields["splits"].items():
            splits[name] = SplitRecord(**{key: entry[key] for key in names[SplitRecord]})
            figures[name] = {k: v for k, v in entry.items() if k not in names[SplitRecord]}
        others = set(_names(cls)) - {"row", "task", "splits", "figures"}
        return cls(
            row=RowRecord(**{key: fields["row"][key] for key in names[RowRecord]}),
            task=TaskRecord(**{key: fields["task"][key] for key in names[TaskRecord]}),
            splits=splits,
            figures=figures,
            **{key: fields[key] for key in others},
        )


def read_json(path: epath.Path | Path) -> dict[str, Any]:
    """The object in a JSON file of a run.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is half-written or holds no object; the message names it.
    """
    return schema.read_json(path, remedy=_REMEDY)


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


_NAME = text(unicode=False)  # may hold the bytes of any file name
SKIPPED = schema.list_of(schema.record(file=_NAME, reason=_NAME))
"""The field of results.json for images that were left out."""

_OBJECT = schema.table(schema.anything())
_RESULTS = schema.record(
    row=schema.record(
        name=_NAME,
        row=_NAME,
        title=_NAME,
        role=_NAME,
        changes=_OBJECT,
        changes_images=schema.boolean(),
    ),
    task=schema.record(
        dataset=_NAME,
        protocol=_NAME,
        heading=_NAME,
        shots=integer(0),
        seed=integer(),
        settings=_OBJECT,
        note=_NAME,
    ),
    summary=_OBJECT,
    facts=_OBJECT,
    steps=integer(0),
    trainable_parameters=integer(0),
    skipped=SKIPPED,
    device=_NAME,
    splits=schema.table(
        schema.record(group=schema.one_of(*GROUPS), condition=_NAME, headline=schema.boolean())
    ),
)
