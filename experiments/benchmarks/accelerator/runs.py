"""Whole runs on the device, each a process of its own: the first command, a kill and a resume."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from benchmarks.accelerator.context import Context

RUN = Path(__file__).resolve().parents[2] / "run.py"
TOLERANCE = 1e-3
"""Of a resumed run: the largest difference, in units of a tensor's largest value."""
_TINY = (
    "fewshot.py:methods=coop,shots=1,world.test_images=2,evaluation_batch_size=24,progress=False,"
    "coop.views=flip,coop.optimizer.batch_size=8,coop.optimizer.epochs=12"
)
_SPARE = 5.0  # seconds to read what a run left
_COMPILED = re.compile(r"Finished XLA compilation of (?:jit\()?(.+?)\)? in ([\d.]+) sec")
_SLOWEST = 5


def measure_command(case: str, context: Context) -> dict[str, Any]:
    """The README's first command: its time, its programs' compile time, its figures."""
    del case
    config = _TINY if context.tiny else "fewshot.py"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, str(RUN), f"--config={config}", f"--workdir={folder / 'run'}"]
        environment = os.environ | {"JAX_LOG_COMPILES": "1"}
        if not context.tiny:  # as a user's first start
            environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        start, log = time.perf_counter(), folder / "log.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
            try:
                code = process.wait(context.seconds - _SPARE)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        seconds, text = time.perf_counter() - start, log.read_text(errors="replace")
        results = sorted(folder.glob("run/*/*/results.json"))
        found = {path.parent.name: json.loads(path.read_text())["summary"] for path in results}
    measured = {"run_seconds": seconds, "compiled": _compilation(text), "summaries": found}
    if code:
        why = "stopped: time" if seconds > context.seconds - _SPARE else f"exit code {code}"
        return measured | _failure(f"{why}, {len(found)} methods done", text)
    return measured


def measure_resume(case: str, context: Context) -> dict[str, Any]:
    """Kills a run (SIGKILL) between steps, lets it go on, and compares it with one left alone."""
    import kill_test  # defines flags

    del case
    config = f"{_TINY},log_every=2,checkpoint_every=3,curve_every=4"
    config = config if context.tiny else kill_test.CONFIG
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache, alone, killed = (folder / part for part in ("programs", "alone", "killed"))
        try:
            kill_test.finish(kill_test.start(alone, config, cache))
            process = kill_test.start(killed, config, cache)
            step = _kill_at_checkpoint(process, killed)
            if step is None:
                kill_test.finish(process)
                return {"error": "the run ended before it could be killed"}
            kill_test.finish(kill_test.start(killed, config, cache))
        except RuntimeError as error:
            return _failure("a run failed", str(error))
        equal = kill_test.outcome(alone) == kill_test.outcome(killed)
        difference = _difference(alone, killed)
    passed = equal or difference <= TOLERANCE
    return {"passed": passed, "equal": equal, "difference": difference, "killed_after": step}


def _kill_at_checkpoint(process: subprocess.Popen, workdir: Path) -> int | None:
    """Kills a run as soon as it has saved a checkpoint; the step of that, None if it ended."""
    while process.poll() is None:
        found = [path.name for path in workdir.glob("*/*/checkpoints/[0-9]*")]
        if saved := [int(name) for name in found if name.isdecimal()]:  # others are unfinished
            process.kill()
            process.communicate()
            return max(saved)
        time.sleep(0.002)
    return None


def _difference(alone: Path, killed: Path) -> float:
    """The largest difference of what two runs learned, in units of a tensor's largest value."""
    first, second = (_learned(folder) for folder in (alone, killed))
    if first.keys() != second.keys():
        raise ValueError(f"the runs learned {sorted(first)} and {sorted(second)}")
    return max(
        float(np.abs(first[name] - second[name]).max() / np.abs(first[name]).max())
        for name in first
    )


def _learned(workdir: Path) -> dict[str, np.ndarray]:
    (file,) = workdir.glob("*/*/adapted/learned.safetensors")
    arrays = safetensors.numpy.load_file(file)
    return {name: array for name, array in arrays.items() if name.startswith("trained.")}


def _compilation(log: str) -> dict[str, Any]:
    """How many programs a run compiled, how long that took, and the slowest of them."""
    # absl logs a line a second time.
    found = [(float(seconds), name) for name, seconds in set(_COMPILED.findall(log))]
    slowest = [{"program": name, "seconds": s} for s, name in sorted(found, reverse=True)]
    return {
        "programs": len(found),
        "seconds": sum(seconds for seconds, _ in found),
        "slowest": slowest[:_SLOWEST],
    }


def _failure(what: str, log: str) -> dict[str, Any]:
    """What a run that failed says: the library that it lacks, or its last words."""
    if lacking := re.search(r"ModuleNotFoundError: No module named '(\w+)", log):
        return {"not_run": f"needs {lacking[1]}"}
    words = [line for line in log.splitlines() if line.strip() and "XLA" not in line]
    return {"error": what, "log": words[-20:]}
