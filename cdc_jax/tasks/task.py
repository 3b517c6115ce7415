"""What a task is."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from cdc_jax.records import SplitRecord, TaskRecord
from cdc_jax.wording import Template


@runtime_checkable
class Images(Protocol):
    """Images that need not be in memory: uint8 (images, height, width, 3) where indexed."""

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
      class_names: names of the classes that these examples are classified among.
      files: paths of the images in their dataset; none for images that were drawn.
      template: the hand-crafted text of their dataset, where it is not that of the task.
      split: what this split is, where it is one to test on.
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
    """An image that was left out because it can't be used."""

    file: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Task:
    """A few-shot task.

    Attributes:
      train: the shots.
      val: a validation split, for choices; no method of the protocol selects on it.
      test: test splits by name; those of the new classes carry their own class names.
      class_names: the classes that are trained on.
      template: the hand-crafted text t^0.
      about: what the labels are about, see `views.ASPECTS`.
      record: what results say of the task.
      others: training sets beside `train`, by name, for controls; made when asked for.
      skipped: images of its splits that were left out.
      summary: one line on what was taken and what was left out; "" for images that are drawn.
    """

    train: Examples
    val: Examples
    test: Mapping[str, Examples]
    class_names: tuple[str, ...]
    template: Template
    about: tuple[str, ...]
    record: TaskRecord
    others: Mapping[str, Callable[[], Examples]] = dataclasses.field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    summary: str = ""

    def items(self) -> dict[str, list[tuple[str, int, str]]]:
        """Split -> [file, label, class name] of every image used, as in CoOp's split files.

        An image that was drawn is called by its number in the split.
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
