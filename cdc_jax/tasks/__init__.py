"""Tasks: where images and class names come in."""

from cdc_jax.tasks.sources import load
from cdc_jax.tasks.task import Examples, Task

__all__ = ["Examples", "Task", "load"]
