"""Progress of a task: its speed and the remaining time."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import rich.console
import rich.progress

from cdc_jax.escaping import visible

_LINE_EVERY = 30.0  # seconds, where the output is no terminal
_MANY, _AT_ONCE = 100_000, 2**13  # steps so short that the bar is drawn after several of them
Step = TypeVar("Step")


def shown(steps: Iterable[Step], task: str, total: int, show: bool = True) -> Iterator[Step]:
    """Yields the steps, with a `Progress` for 100,000 or more of them.

    Args:
      steps: many short steps.
      task: name of the work.
      total: number of steps.
      show: False for silence.
    """
    if total < _MANY:
        yield from steps
        return
    with Progress(task, total, show=show) as progress:
        for number, step in enumerate(steps, 1):
            yield step
            if not number % _AT_ONCE:
                progress.advance(_AT_ONCE)


class Progress:
    """A bar on a terminal, or a line every 30 seconds elsewhere. Only the first host shows it.

    Args:
      task: name of the work.
      total: number of steps.
      done: number of steps that an earlier run did.
      show: False for silence.
    """

    def __init__(self, task: str, total: int, done: int = 0, show: bool = True):
        self._task, self._total, self._done, self._before = visible(task), total, done, done
        self._started = self._told = time.monotonic()
        import jax  # takes seconds, and a missing folder is to be told sooner

        self._show = show and jax.process_index() == 0
        console = rich.console.Console()
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[rate]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._on_terminal = self._show and console.is_terminal
        self._id = self._bar.add_task(self._task, total=total, completed=done, rate="")

    def advance(self, steps: int = 1) -> None:
        """Counts further steps as done."""
        self._done += steps
        now = time.monotonic()
        rate = (self._done - self._before) / max(now - self._started, 1e-9)
        if self._on_terminal:
            self._bar.update(self._id, advance=steps, rate=f"{rate:.1f}/s")
        elif self._show and now - self._told > _LINE_EVERY:
            self._told = now
            remaining = (self._total - self._done) / rate
            line = (
                f"{self._task}: {self._done} of {self._total}, {rate:.1f}/s, {remaining:.0f} s left"
            )
            print(line, flush=True)

    def __enter__(self) -> "Progress":
        if self._on_terminal:
            self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._on_terminal:
            self._bar.stop()
