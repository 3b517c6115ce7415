"""A part of the benchmark in a process of its own, so that a crash or a hang ends nothing else.

Only one process may hold a TPU, and memory that one holds on a GPU is missing elsewhere: the main
process never asks for devices, and parts run one after the other.
"""

import dataclasses
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import jax
from benchmarks.accelerator.context import Context

Measure = Callable[[str, Context], dict[str, Any]]
NO_TIME = {"not_run": "time"}
_EXIT_SECONDS = 10


def run(
    measure: Measure, cases: Sequence[str], context: Context
) -> Generator[tuple[str, dict[str, Any]], None, None]:
    """Measures cases in turn in a new process, which is killed when the time is over.

    Args:
      measure: a module's function.
      cases: its first argument.
      context: its second, with the time for all cases.

    Yields:
      Each case with what was measured, or with the reason why it was not.
    """
    spawn = multiprocessing.get_context("spawn")
    receiving, sending = spawn.Pipe(duplex=False)
    end = time.time() + context.seconds  # of a clock that both processes read
    process = spawn.Process(target=_work, args=(measure, cases, context, end, sending))
    process.start()
    sending.close()  # so that the pipe ends with the process
    failed: dict[str, Any] = {}
    try:
        for case in cases:
            if not failed and not receiving.poll(max(end - time.time(), 0)):
                failed = NO_TIME
            if not failed:
                try:
                    yield case, receiving.recv()
                    continue
                except EOFError:
                    process.join()
                    failed = {"error": f"the process ended with code {process.exitcode}"}
            yield case, failed
        if not failed:
            process.join(_EXIT_SECONDS)  # it gives the device back
    finally:
        _end(process)


def _end(process: BaseProcess) -> None:
    """Kills the process with the runs that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has ended, or has no group yet
        process.kill()
    process.join()


def _work(
    measure: Measure, cases: Sequence[str], context: Context, end: float, sending: Connection
) -> None:
    os.setpgrp()  # with the runs that it starts
    compiled: list[float] = []

    def listen(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    for case in cases:
        compiled.clear()
        start = time.time()
        left = dataclasses.replace(context, seconds=end - start)
        measured = _measured(measure, case, left)
        sending.send(
            {
                "case_seconds": time.time() - start,
                "process_programs": len(compiled),
                "process_compile_seconds": sum(compiled),
                **measured,
            }
        )


def _measured(measure: Measure, case: str, context: Context) -> dict[str, Any]:
    try:
        return measure(case, context)
    except ModuleNotFoundError as error:
        return {"not_run": f"needs {error.name}"}
    except Exception as error:  # out of memory, or what an untried device refuses: the rest goes on
        first = next(iter(str(error).splitlines()), "")
        message = f"{type(error).__name__}: {first}"[:500]
        return {"error": message, "traceback": traceback.format_exc()[-4000:]}
