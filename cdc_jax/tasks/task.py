"""A few-shot task: labelled images in splits, class names and a template."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from cdc_jax.records import SplitRecord, TaskRecord
from cdc_jax.wording import Template


@runtime_checkable
class Images(Protocol):
    """Images that need not be in memory. An index gives uint8 (images, height, width, 3)."""

    def __len__(self) -> int: ...

    def __getitem__(
        self, index: slice | Int[np.ndarray, "images"], /
    ) -> UInt8[np.ndarray, "images height width 3"]: ...


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled images of one split.

    Attributes:
      images: uint8, (examples, height, width, 3), resized and cropped for the model.
      labels: indices into `class_names`, (examples,).
      class_names: names of the classes among which these examples are classified.
      files: paths of the images in their dataset; empty for images that were rendered.
      template: the hand-crafted text of their dataset, if it differs from the task's.
      split: record of a test split.
    """

    images: Images
    labels: np.ndarray
    class_names: tuple[str, ...]
    files: Sequence[str] = ()
    template: Template = ""
    split: SplitRecord = SplitRecord()

    def __post_init__(self):
        if len(self.images) != len(self.labels):
            raise ValueError(f"got {len(self.images)} images and {len(self.labels)} labels")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(
            self.class_names
        ):
            raise ValueError(
                f"labels {self.labels.min()}..{self.labels.max()} need as many class names, "
                f"got {len(self.class_names)}"
            )

    def __len__(self) -> int:
        return len(self.labels)


class Skipped(NamedTuple):
    """An unusable image that a task leaves out."""

    file: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Task:
    """A few-shot task.

    Attributes:
      train: the shots.
      val: a validation split, for choices and guarantees, see `selection`.
      test: test splits by name. Splits of new classes have their own class names.
      class_names: the training classes.
      template: the hand-crafted text t^0.
      label_properties: image properties that the labels depend on, see `views.PROPERTIES`.
      record: the record of the task in results.
      others: name -> function that makes a training set beside `train`, for controls.
      skipped: images that the splits leave out.
      summary: one line about used and skipped images; "" for images that are rendered.
    """

    train: Examples
    val: Examples
    test: Mapping[str, Examples]
    class_names: tuple[str, ...]
    template: Template
    label_properties: tuple[str, ...]
    record: TaskRecord
    others: Mapping[str, Callable[[], Examples]] = dataclasses.field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    summary: str = ""

    def items(self) -> dict[str, list[tuple[str, int, str]]]:
        """Split -> [file, label, class name] of every image used, as in CoOp's split files.

        The name of a rendered image is its number in the split.
        """
        parts = {"train": self.train, "val": self.val, **self.test}
        return {
            name: [
                (part.files[i] if part.files else f"{name}/{i}", label, part.class_names[label])
                for i, label in enumerate(part.labels.tolist())
            ]
            for name, part in parts.items()
        }

    def training_set(self, name: str) -> Examples:
        """The examples to train on: `"train"`, the shots, or one of `others`.

        Raises:
          ValueError: the task has no such set.
        """
        if name == "train":
            return self.train
        if name not in self.others:
            names = ", ".join(["train", *self.others])
            raise ValueError(f"this task has no training set {name!r}: it has {names}")
        return self.others[name]()
