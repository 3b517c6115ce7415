"""A progress bar that says what is being done and how long it will take."""

import rich.progress


class Progress:
    """A bar on the terminal, or a line now and then where the output is not a terminal.

    Args:
      task: what is being done.
      total: number of steps.
      done: how many of them were done before, by an earlier run.
    """

    def __init__(self, task: str, total: int, done: int = 0):
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            transient=True,
        )
        self._task = self._bar.add_task(task, total=total, completed=done)

    def advance(self) -> None:
        """One step is done."""
        self._bar.advance(self._task)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bar.stop()
