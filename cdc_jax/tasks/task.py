"""What a task is."""

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled images of one split.

    Attributes:
      images: uint8, (examples, height, width, 3), resized and cropped for the model.
      labels: indices into `class_names`, (examples,).
      class_names: names of the classes that these examples are classified among.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

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


@dataclasses.dataclass(frozen=True)
class Task:
    """A few-shot task.

    Attributes:
      train: the shots.
      val: a validation split, for choices; no method of the protocol selects on it.
      test: test splits by name; those of the new classes carry their own class names.
      class_names: the classes that are trained on.
      template: the hand-crafted template t^0, with {} for the class name.
      about: what the labels are about, see `views.ASPECTS`.
      oracle: plentiful training images without any spurious correlation; None where the task's
        factors are not known.
    """

    train: Examples
    val: Examples
    test: Mapping[str, Examples]
    class_names: tuple[str, ...]
    template: str
    about: tuple[str, ...]
    oracle: Examples | None = None
