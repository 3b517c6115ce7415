"""What a run writes, as records: the row, the task, its test splits and their figures.

Evaluation writes them into results.json, the report reads them from there. Nothing is read out of
a split's or a method's name.
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
"""Which classes a test split has: all of the task's, those trained on, those never trained on, or
those of another task."""

INTERVENTION = "int"
"""The condition under which what is irrelevant to the task was set at random, do(G_i)."""

_REMEDY = "delete its folder and run it again"


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
      ValueError: it is half-written or holds something else; the message names it.
    """
    return schema.read_json(path, remedy=_REMEDY)


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


_NAME = text(unicode=False)  # may hold the bytes of any file name
SKIPPED = schema.list_of(schema.record(file=_NAME, reason=_NAME))
"""What results.json says of images that were left out."""

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
