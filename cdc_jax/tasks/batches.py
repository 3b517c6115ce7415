"""Training batches: a pure function of (seed, step), so that a step is the whole position."""

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from cdc_jax.tasks.photographs import Photographs
from cdc_jax.tasks.task import Examples, Images

Batch = dict[str, np.ndarray]
_BATCHES_AHEAD = 2  # on the devices, and at least as many decoded in memory


class TrainingBatches:
    """Shuffled batches, every example once an epoch; each host reads only its own rows.

    An incomplete last batch is dropped, as in the published methods. A training set that is smaller
    than a batch is one batch an epoch.

    Args:
      examples: the training set.
      batch_size: images a batch, over all hosts.
      seed: of the order. Every epoch has its own order.
      host: this host's number; None asks JAX.
      hosts: number of hosts; None asks JAX.

    Raises:
      ValueError: there are no examples, the batch size is below 1, or the hosts can't share a batch
        evenly.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        seed: int,
        host: int | None = None,
        hosts: int | None = None,
    ):
        if not len(examples):
            raise ValueError("the training set is empty")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        host = jax.process_index() if host is None else host
        hosts = jax.process_count() if hosts is None else hosts
        self._examples = examples
        self._features: np.ndarray | None = None
        self._size = min(batch_size, len(examples))
        if self._size % hosts:
            raise ValueError(
                f"a batch of {self._size} images can't be shared by {hosts} hosts: make the batch "
                "size a multiple"
            )
        self._rows = self._size // hosts
        self._first_row = host * self._rows
        self.per_epoch = len(examples) // self._size
        self._seed = seed

    @functools.cached_property
    def _order(self) -> Any:
        """One order an epoch, reshuffled; batches do not cross epochs."""
        import grain  # takes a second, and only those who read batches need it

        return grain.MapDataset.range(len(self._examples)).seed(self._seed).shuffle().repeat()

    def __getitem__(self, step: int) -> Batch:
        """This host's rows of batch number `step`.

        Uint8 `images`, `labels`, and the examples' `indices`. Photographs are squeezed into
        squares, and `aspect_ratios` holds their width/height.
        """
        indices = np.array(self._rows_of(step, self._first_row, self._rows), np.int32)
        batch = {"labels": self._examples.labels[indices].astype(np.int32), "indices": indices}
        if self._features is not None:
            view = step // self.per_epoch % self._features.shape[1]
            return batch | {"features": self._features[indices, view]}
        return batch | read_images(self._examples.images, indices)

    def of_features(
        self, features: Float[np.ndarray, "examples views templates embed"]
    ) -> "TrainingBatches":
        """The same batches with the features of views in place of images.

        Epoch e has `features` (rows, templates, embed) of view e mod views.
        """
        batches = copy.copy(self)
        batches._features = features
        return batches

    def indices(self, step: int) -> list[int]:
        """The examples of batch number `step`, on all hosts."""
        return self._rows_of(step, 0, self._size)

    def steps(self, epoch: int) -> Int[np.ndarray, "examples"]:
        """The batch number of each example in an epoch. A dropped example gets the last batch."""
        examples = len(self._examples)
        order = self._order_of(epoch * examples, examples)
        within = np.minimum(np.arange(examples) // self._size, self.per_epoch - 1)
        steps = np.empty(examples, np.int32)
        steps[order] = epoch * self.per_epoch + within
        return steps

    def stream(self, first: int, last: int, put: Callable[[Batch], Any]) -> Iterator[Any]:
        """Batches `first` to `last` - 1, each prepared by `put` before the computation needs it.

        Threads decode the next batches while the devices compute.

        Args:
          first: step at which training begins or goes on.
          last: number of steps.
          put: from a batch to what is yielded, such as its copy on the devices.
        """
        import grain

        # One batch is put together while the photographs of the next are decoded. Arrays in memory
        # need no threads.
        decodes = self._features is None and isinstance(self._examples.images, Photographs)
        ahead = _BATCHES_AHEAD if decodes else 0
        options = grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead)
        batches = grain.MapDataset.range(first, last).map(self.__getitem__)
        return iter(
            grain.experimental.ThreadPrefetchIterDataset(
                batches.to_iter_dataset(options).map(put), prefetch_buffer_size=_BATCHES_AHEAD
            )
        )

    def _rows_of(self, step: int, first: int, rows: int) -> list[int]:
        """The examples in `rows` rows of batch number `step`."""
        epoch, batch = divmod(step, self.per_epoch)
        return self._order_of(first + epoch * len(self._examples) + batch * self._size, rows)

    def _order_of(self, first: int, count: int) -> list[int]:
        """The examples in places `first` to `first + count` of all epochs' orders."""
        return [int(self._order[place]) for place in range(first, first + count)]


def read_images(images: Images, indices: Int[np.ndarray, "images"]) -> Batch:
    """Images for the view function, see `TrainingBatches.__getitem__`."""
    if isinstance(images, Photographs):
        squeezed, aspect_ratios = images.squeezed(indices)
        return {"images": squeezed, "aspect_ratios": aspect_ratios}
    return {"images": images[indices]}
