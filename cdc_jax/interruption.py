"""Notice of SIGTERM: a scheduler stops the program, or takes its host away."""

import signal
import threading
from typing import Any

import numpy as np

EXIT_CODE = 75
"""The exit code of a run that was stopped and saved. The same command goes on with the run. It is
EX_TEMPFAIL of sysexits.h: schedulers can tell it from a failure (1) and start the run again."""


class Interrupted(SystemExit):
    """Ends the program with `EXIT_CODE`.

    Args:
      message: for the user.
    """

    def __init__(self, message: str):
        super().__init__(EXIT_CODE)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Notice:
    """Listens for SIGTERM while it is entered, in the main thread, where Python handles signals.

    Notices nest: a signal that the inner one catches is passed to the outer.
    """

    def __init__(self):
        self._came = False
        self._main = threading.current_thread() is threading.main_thread()
        self._before: Any = None

    def came(self, meeting: bool = True) -> bool:
        """Whether to stop now: one of the processes got SIGTERM.

        Args:
          meeting: whether all processes call at this place, so that they can exchange their state.
            If they do not, only a run of one process stops.
        """
        # Scripts import this module before they check their arguments; JAX takes seconds.
        import jax
        from jax.experimental import multihost_utils

        if jax.process_count() == 1:
            return self._came
        return meeting and bool(multihost_utils.process_allgather(np.array([self._came])).any())

    def _hear(self, *signal: Any) -> None:
        self._came = True
        outer = getattr(self._before, "__self__", None)
        if isinstance(outer, Notice):
            outer._hear(*signal)

    def __enter__(self) -> "Notice":
        if self._main:
            # This also replaces JAX's handler, which agrees on a step. Orbax asks JAX with its own
            # numbers of steps, and the agreed step can then be missed.
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._main:  # None stands for a handler that is not Python's
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
