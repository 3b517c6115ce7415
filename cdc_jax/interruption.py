"""Notice of an end from outside: a scheduler's SIGTERM, a host about to be taken away."""

import signal
import threading
from typing import Any

import numpy as np

EXIT_CODE = 75
"""Of a run that was stopped and saved: the same command goes on with it. sysexits.h's EX_TEMPFAIL,
so that schedulers can tell it from a failure (1) and start it again."""


class Interrupted(SystemExit):
    """Ends the program with `EXIT_CODE`.

    Args:
      message: what the user is told.
    """

    def __init__(self, message: str):
        super().__init__(EXIT_CODE)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Notice:
    """Listens for SIGTERM while it is entered; in the main thread, where Python hears signals.

    One that is entered within another lets that hear, too.
    """

    def __init__(self):
        self._came = False
        self._main = threading.current_thread() is threading.main_thread()
        self._before: Any = None

    def came(self, meeting: bool = True) -> bool:
        """Whether to stop now: one process was told to.

        Args:
          meeting: whether all processes ask at this place, so that they can confer; where they do
            not, only a process that is alone stops.
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
            # Also in place of JAX's own, which agrees on a step: Orbax asks it under numbers of
            # its own, and then the step can be missed.
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._main:  # None stands for a handler that is not Python's
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
