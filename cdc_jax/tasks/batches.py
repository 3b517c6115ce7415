"""Training batches: a pure function of (seed, step), so that a position is nothing but a step."""

import grain
import numpy as np

from cdc_jax.tasks.task import Examples


class TrainingBatches:
    """Shuffled batches, every example once an epoch.

    An incomplete last batch is dropped, as the published methods do, unless it is the only one:
    a set smaller than a batch is one batch an epoch.

    Args:
      examples: the training set.
      batch_size: images a batch.
      seed: of the order; every epoch has its own.
    """

    def __init__(self, examples: Examples, batch_size: int, seed: int):
        if not len(examples):
            raise ValueError("the training set is empty")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._examples = examples
        self._size = min(batch_size, len(examples))
        self.per_epoch = len(examples) // self._size
        # One order an epoch, reshuffled; batches do not cross epochs.
        self._order = grain.MapDataset.range(len(examples)).seed(seed).shuffle().repeat()

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Batch number `step`: uint8 `images`, `labels`, and the examples' `indices`."""
        epoch, batch = divmod(step, self.per_epoch)
        first = epoch * len(self._examples) + batch * self._size
        indices = np.array([self._order[i] for i in range(first, first + self._size)])
        return {
            "images": self._examples.images[indices],
            "labels": self._examples.labels[indices].astype(np.int32),
            "indices": indices.astype(np.int32),
        }
