"""A case that PyTorch runs, in a process of its own and by an interpreter of its own."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

MODULE, ROOT = "benchmarks.torch_worker", Path(__file__).resolve().parent.parent
RESERVE = 2**30  # bytes that the machine keeps beside the process
_OUT_OF_MEMORY = (-signal.SIGKILL, -signal.SIGABRT)


def require_torch(python: str) -> str:
    """The version of torch that an interpreter imports.

    Raises:
      ValueError: the interpreter does not run, or has no torch.
    """
    command = [python, "-c", "import numpy, torch; print(torch.__version__)"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise ValueError(
            f"--torch_python={python} does not run ({error.strerror}): name a Python that has torch"
        ) from None
    if answer.returncode:
        raise ValueError(
            f"the pytorch part needs torch, which {python} cannot import: pip install torch, or "
            "name a Python that has it by --torch_python=PATH"
        )
    return answer.stdout.strip()


def free_memory() -> int:
    """Bytes that a new process may take; 0 where the machine does not say."""
    file = Path("/proc/meminfo")
    if not file.exists():
        return 0
    available = re.search(r"MemAvailable:\s+(\d+) kB", file.read_text())
    return max(1024 * int(available[1]) - RESERVE, RESERVE) if available else 0


class TorchCase:
    """Programs of `torch_worker` in a process of their own; the interface of `measuring.Case`.

    Args:
      python: the interpreter.
      task: the first line of the worker's input; by default with a thread for each core and all
        memory that is free.

    Attributes:
      programs: their names.

    Raises:
      MemoryError: the memory does not suffice to build the programs.
      OSError: the process ended.
    """

    def __init__(self, python: str, task: Mapping[str, Any]):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        task = {"threads": cores, "memory": free_memory(), **task}
        self.programs = tuple(task["programs"])
        self._peak, paths = 0, (str(ROOT), os.environ.get("PYTHONPATH"))
        self._process = subprocess.Popen(
            [python, "-m", MODULE],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self._ask(json.dumps(task))
        except BaseException:
            self.close()
            raise

    def answer(self, program: str) -> dict[str, Any]:
        """What a program's run returns, with its `seconds` and the process's `peak`.

        Raises:
          MemoryError: the memory does not suffice.
          OSError: the process ended.
        """
        answer = self._ask(program)
        self._peak = answer["peak"]
        return answer

    def seconds(self, program: str) -> float:
        """Time of one call; errors as `answer`."""
        return self.answer(program)["seconds"]

    def peak(self) -> int:
        """The most bytes that the process has held so far."""
        return self._peak

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: str) -> dict[str, Any]:
        incoming, outgoing = _pipe(self._process.stdin), _pipe(self._process.stdout)
        try:
            incoming.write(f"{line}\n")
            incoming.flush()
            answered = outgoing.readline()
        except BrokenPipeError:
            answered = ""
        if not answered:
            code = self._process.wait()
            if code in _OUT_OF_MEMORY:
                raise MemoryError(f"the PyTorch process ended by {signal.Signals(-code).name}")
            raise OSError(f"the PyTorch process ended with code {code}: see its message above")
        answer = json.loads(answered)
        if "refused" in answer:
            raise MemoryError(answer["refused"])
        return answer


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise ValueError("the process has no pipe")
    return stream
