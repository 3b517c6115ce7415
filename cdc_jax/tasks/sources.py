"""The registry of where tasks come from."""

import difflib
from collections.abc import Callable

from ml_collections import ConfigDict

from cdc_jax.tasks.task import Task
from cdc_jax.tasks.world import fewshot

SOURCES: dict[str, Callable[[ConfigDict], Task]] = {"world": fewshot.load}
"""Dataset name -> the function that makes its few-shot task of a configuration."""


def load(config: ConfigDict) -> Task:
    """Loads the task that `config.dataset` names.

    Args:
      config: `dataset`, `shots`, `seed`, and the part that the dataset's kind reads.

    Raises:
      ValueError: an unknown dataset; the message names the nearest.
    """
    if config.dataset not in SOURCES:
        near = difflib.get_close_matches(config.dataset, SOURCES, 1, 0)[0]
        raise ValueError(
            f"unknown dataset {config.dataset!r}: did you mean {near!r}? "
            f"There are {', '.join(SOURCES)}"
        )
    return SOURCES[config.dataset](config)
