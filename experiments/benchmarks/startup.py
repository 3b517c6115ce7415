"""How long scripts take to start: each command in a process of its own, whole.

Wall and CPU seconds, the median and the range over rounds in which the commands take turns. Before
the first round, a short run of the bundled world makes the adapted model, and one prediction
fills the caches, which are empty folders of this benchmark: the row "the first photo" is that
prediction. A rate that means something on a machine that others use, too, is the CPU time as a
multiple of that of `import jax`, which every prediction needs.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rich.box
import rich.console
import rich.table
from PIL import Image

EXPERIMENTS = Path(__file__).resolve().parent.parent
ROUNDS = 3
HEAVY = (
    "jax", "flax", "optax", "orbax", "tensorstore", "grain", "transformers",
    "tensorflow_datasets", "matplotlib", "sklearn", "scipy.stats",
)  # fmt: skip
"""Libraries that take a noticeable part of a second to import."""
_SETTINGS = "methods=cdc,shots=1,world.test_images=1,cdc.optimizer.epochs=1,progress=False"
# Runs a script as Python does, and tells at its end which of some modules it had imported.
_LAUNCHER = """
import atexit, json, os, runpy, sys
names, told = json.loads(sys.argv[1]), sys.argv[2]
sys.argv = sys.argv[3:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
@atexit.register
def tell():
    with open(told, "w") as file:
        json.dump([name for name in names if name in sys.modules], file)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Start(NamedTuple):
    """One process, from its start to its end.

    Attributes:
      wall: seconds.
      cpu: seconds of all its threads, its own and the system's for it.
      imported: those of `HEAVY` that it had imported.
    """

    wall: float
    cpu: float
    imported: tuple[str, ...]


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = _environment(folder)
        commands = _commands(folder)
        _checked(start(commands.pop("a run"), environment, folder))
        first = start(commands["one photo"], environment, folder)
        rounds = [
            {title: start(command, environment, folder) for title, command in commands.items()}
            for _ in range(ROUNDS)
        ]
    timed = {title: [one[title] for one in rounds] for title in commands}
    rich.console.Console(width=120).print(table({**timed, "the first photo": [first]}))


def start(command: Sequence[str], environment: dict[str, str], folder: Path) -> Start:
    """Starts a script and waits for its end; a script may end with an error.

    Args:
      command: the script and its arguments.
      environment: its variables.
      folder: for what is written on the way.
    """
    told = folder / "told.json"
    told.unlink(missing_ok=True)
    arguments = [sys.executable, "-c", _LAUNCHER, json.dumps(HEAVY), str(told), *command]
    begun = time.perf_counter()
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, _, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    return Start(wall, usage.ru_utime + usage.ru_stime, tuple(json.loads(told.read_text())))


def table(timed: dict[str, list[Start]]) -> rich.table.Table:
    """Command -> its rounds, as a table."""
    jax = statistics.median(one.cpu for one in timed["import jax"])
    made = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("command", "wall s", "CPU s", "x import jax", "imports"):
        made.add_column(column)
    for title, rounds in timed.items():
        wall, cpu = ([one[i] for one in rounds] for i in range(2))
        ratio = f"{statistics.median(cpu) / jax:.2f}"
        made.add_row(title, _spread(wall), _spread(cpu), ratio, " ".join(rounds[0].imported))
    return made


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _environment(folder: Path) -> dict[str, str]:
    """This process's, with empty caches."""
    paths = [str(EXPERIMENTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    changed = {"CDC_JAX_CACHE": str(folder / "caches"), "PYTHONPATH": os.pathsep.join(paths)}
    others = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    return others | changed


def _commands(folder: Path) -> dict[str, list[str]]:
    """Title -> script and arguments."""
    scripts = {"import cdc_jax": "import cdc_jax", "import jax": "import jax"}
    files = {}
    for title, text in scripts.items():
        files[title] = folder / f"{title.replace(' ', '_')}.py"
        files[title].write_text(text)
    photo = folder / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(photo)
    run, predict = str(EXPERIMENTS / "run.py"), str(EXPERIMENTS / "predict.py")
    runs = folder / "runs"
    return {
        "a run": [run, f"--config=fewshot.py:{_SETTINGS}", f"--workdir={runs}"],
        **{title: [str(file)] for title, file in files.items()},
        "run.py --help": [run, "--help"],
        "run.py, unknown method": [run, "--config=fewshot.py:methods=cdcc"],
        "predict.py, missing folder": [predict, str(runs), str(folder / "missing")],
        "one photo": [predict, str(runs), str(photo)],
    }


def _checked(run: Start) -> None:
    """The run must have trained, or the other commands would be refused."""
    if "flax" not in run.imported:
        raise RuntimeError("the run that the benchmark predicts by has failed")
