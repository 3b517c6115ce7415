"""Kills a run again and again, and checks that it ends as if nothing had happened.

python experiments/kill_test.py                       # 20 kills, about 10 minutes on 2 cores
python experiments/kill_test.py --kills=4 --seed=3
python experiments/kill_test.py --phases=caching      # 20 kills while image features are written

A run is killed (SIGKILL) while it writes image features, compiles, between steps, while it saves
and while it evaluates, in that order, each time at a random moment of that phase, and then left to
end; as many runs as the kills need. Each of these runs has a cache of its own. Metrics, curve,
adapted prompts and scores must equal those of a run that was left alone to the last bit. Prints a
tally; the exit code is 1 if anything differed.
"""

import contextlib
import itertools
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from cdc_jax import config_file

PHASES = ("caching", "compiling", "stepping", "saving", "evaluating")
OUTCOME = ("metrics.jsonl", "curve.jsonl", "adapted/learned.safetensors", "scores.npz")
CONFIG = (
    "fewshot.py:methods=cdc,shots=4,world.test_images=5,evaluation_batch_size=60,log_every=2,"
    "checkpoint_every=3,curve_every=4,progress=False,cdc.views=flip,cdc.optimizer.epochs=12,cdc.optimizer.batch_size=8"
)
FEATURES = "features"  # of a run, in its workdir
_SECONDS = {"caching": 0.01, "compiling": 4.0, "stepping": 1.0, "saving": 0.02, "evaluating": 2.0}
_DEADLINE = 1800  # seconds for one run, however slow the machine


def start(workdir: Path, config: str, cache: Path) -> subprocess.Popen:
    """Starts, or goes on with, a run.

    Args:
      workdir: of the run.
      config: of `experiments/run.py`, with `methods` naming one.
      cache: folder of compiled programs; an empty one makes the run compile.
    """
    run = Path(__file__).resolve().parent / "run.py"
    command = [sys.executable, str(run), f"--config={config}", f"--workdir={workdir}"]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "CDC_JAX_CACHE": str(workdir),
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen) -> None:
    """Waits for a run's end.

    Raises:
      RuntimeError: it failed, or takes longer than half an hour.
    """
    try:
        _, errors = process.communicate(timeout=_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise RuntimeError(f"the run was not done after {_DEADLINE} s") from None
    if process.returncode:
        raise RuntimeError(f"the run failed ({process.returncode}): {errors[-2000:]}")


def kill(process: subprocess.Popen, workdir: Path, phase: str, part: float) -> bool:
    """Kills a run in a phase.

    Args:
      process: the run, just started.
      workdir: its workdir.
      phase: one of `PHASES`.
      part: in [0, 1), how far into the phase, of about its length.

    Returns:
      Whether it was killed; False if it ended first.
    """
    reached = _watch(workdir, phase)
    while not reached():
        if process.poll() is not None:
            finish(process)
            return False
        time.sleep(0.002)
    time.sleep(part * _SECONDS[phase])
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def _watch(workdir: Path, phase: str) -> Callable[[], bool]:
    """A function that says whether a run has come to a phase, from now on."""
    begun, smallest = time.time(), math.inf

    def fresh(pattern: str) -> list[os.stat_result]:
        found = []
        for path in workdir.glob(f"*/*/{pattern}"):
            with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                found.append(path.stat())
        return [status for status in found if status.st_mtime > begun]

    def logs() -> bool:  # a run that goes on first shortens its log
        nonlocal smallest
        sizes = [path.stat().st_size for path in workdir.glob("*/*/metrics.jsonl")]
        grown = max(sizes, default=0) > smallest
        smallest = min([smallest, *sizes]) if sizes else 0
        return grown

    return {
        "caching": lambda: bool(fresh(".*.part") + fresh("*.features")),
        "compiling": lambda: bool(fresh("split.json")),
        "stepping": logs,
        "saving": lambda: bool(fresh("checkpoints/*tmp*")),
        "evaluating": lambda: bool(fresh("adapted/adapted.json")),
    }[phase]


def outcome(workdir: Path) -> dict[str, bytes]:
    """The bytes of all that must be equal."""
    (folder,) = (path.parent for path in workdir.glob("*/*/results.json"))
    return {name: (folder / name).read_bytes() for name in OUTCOME if (folder / name).exists()}


def differences(
    workdir: Path, config: str, cache: Path, phases: Sequence[str], rng: random.Random
) -> tuple[list[str], list[str]]:
    """Kills one run in each of the phases, in turn, and lets it end.

    Returns:
      The phases it was killed in, and the names of the files that differ from those of
      `workdir`/alone, an uninterrupted run.
    """
    folder = Path(tempfile.mkdtemp(dir=workdir))
    killed = []
    for phase in phases:
        with tempfile.TemporaryDirectory() as empty:
            programs = Path(empty) if phase == "compiling" else cache
            if kill(start(folder, config, programs), folder, phase, rng.random()):
                killed.append(phase)
    finish(start(folder, config, cache))
    expected, got = outcome(workdir / "alone"), outcome(folder)
    return killed, [name for name in OUTCOME if expected.get(name) != got.get(name)]


def _phases(most: int) -> list[str]:
    """The phases that the next run is killed in."""
    chosen = _PHASES.value or PHASES
    return list(itertools.islice(itertools.cycle(chosen), min(most, len(PHASES))))


def main(_):
    """Kills, compares, prints."""
    rng, killed, different = random.Random(_SEED.value), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        workdir = Path(_WORKDIR.value or temporary)
        cache = workdir / "programs"
        finish(start(workdir / "alone", CONFIG, cache))
        runs = 0
        while killed.total() < _KILLS.value:
            phases = _phases(_KILLS.value - killed.total())
            now, unequal = differences(workdir, CONFIG, cache, phases, rng)
            runs += 1
            killed.update(now)
            different.update(unequal)
            print(f"run {runs}: killed {', '.join(now)}: {unequal or 'equal'}", flush=True)
    print(f"{killed.total()} kills, {dict(killed)}, in {runs} runs; files that differed: ", end="")
    print(dict(different) or "none")
    sys.exit(bool(different))


_KILLS = flags.DEFINE_integer("kills", 20, "How many times to kill.", lower_bound=1)
_PHASES = flags.DEFINE_multi_enum("phases", None, PHASES, "The phases to kill in; all if not.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the runs go; a temporary folder if not.")

if __name__ == "__main__":
    config_file.run(main)
