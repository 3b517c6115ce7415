"""Sweeps: a configuration over datasets, kinds of task, shots and seeds.

Each combination is a cell of the sweep. A sweep that runs again runs the incomplete cells only.
"""

import itertools
import traceback
from pathlib import Path
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from cdc_jax import config_file, grammar, settings, tasks
from cdc_jax.escaping import visible
from cdc_jax.folder_names import folder_name
from cdc_jax.interruption import Interrupted, Notice

_AXES = {  # key of config.sweep -> the key that it varies
    "datasets": "dataset",
    "kinds": "world.kind",
    "rhos": "world.rho",
    "shots": "shots",
    "seeds": "seed",
}


class SweepError(RuntimeError):
    """Some cells of a sweep failed; the others are complete."""


def cells(config: ConfigDict) -> dict[str, ConfigDict]:
    """The cells of a sweep, each a configuration of its own.

    Args:
      config: its `sweep` holds lists separated by commas. For an empty list the configuration's
        single value stands.

    Returns:
      Name of the cell, such as `world-aligned-rho0.9-16shot-seed1`, -> its configuration.

    Raises:
      ValueError: an entry of a list has the wrong type, or occurs twice. See also `settings.check`
        and `tasks.check`.
    """
    values: list[list[str | None]] = [
        [*grammar.split(config.sweep[axis], ",")] if config.sweep[axis] else [None]
        for axis in _AXES
    ]
    configs: dict[str, ConfigDict] = {}
    for combination in itertools.product(*values):
        cell = config.copy_and_resolve_references()
        with cell.unlocked():
            del cell["sweep"]
        pairs = zip(_AXES.values(), combination, strict=True)
        config_file.assign(cell, [(key, text) for key, text in pairs if text is not None])
        settings.check(cell)
        tasks.check(cell)
        name = _name(cell)
        # Only the world has kinds and correlations. Another dataset has one cell for all of them.
        if cell.dataset == "world" and name in configs:
            raise ValueError(f"the sweep has the cell {name} twice")
        configs[name] = cell.lock()
    return configs


def check(config: ConfigDict, workdir: Path | str) -> dict[str, ConfigDict]:
    """Checks a sweep before JAX is imported.

    Args:
      config: see `cells`.
      workdir: of `run`.

    Returns:
      `cells(config)`.

    Raises:
      ValueError: see `cells`.
      ValueError, FileNotFoundError: a cell was never begun and has no data, see
        `tasks.require_root`.
    """
    root, configs = epath.Path(workdir).expanduser(), cells(config)
    for name, cell in configs.items():
        if not (root / name).exists():  # a complete run no longer needs its data
            tasks.require_root(cell)
    return configs


def run(config: ConfigDict, workdir: Path | str) -> dict[str, dict[str, Any]]:
    """Runs every incomplete cell.

    The error of a cell is reported, and the other cells run. A sweep that is started again runs
    the incomplete cells only. A sweep of a single cell raises the error of that cell.

    Args:
      config: see `cells`.
      workdir: every cell gets a folder in it.

    Returns:
      Cell -> method -> contents of its results.json.

    Raises:
      Interrupted: SIGTERM came. All progress is saved.
      SweepError: cells failed; `error.txt` in each of their folders has the traceback.
    """
    root, todo = epath.Path(workdir).expanduser(), check(config, workdir)
    from cdc_jax import devices, run_folder, train

    if len(todo) == 1:
        ((name, cell),) = todo.items()
        results = {name: train.train_and_evaluate(cell, root / name)}
        run_folder.write_error(root / name, None)
        return results
    results, failed = {}, {}
    with Notice() as notice:
        for i, (name, cell) in enumerate(todo.items(), 1):
            folder = root / name
            if notice.came():
                raise Interrupted(f"{root} was stopped before {name}: the same command goes on")
            if cell.progress and devices.is_first():
                print(f"{i} of {len(todo)}: {name}", flush=True)
            try:
                results[name] = train.train_and_evaluate(cell, folder)
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
                run_folder.write_error(folder, traceback.format_exc())
                if devices.is_first():
                    print(visible(f"{name} failed: {failed[name]}", keep="\n"), flush=True)
            else:
                run_folder.write_error(folder, None)
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise SweepError(
            f"{len(failed)} of {len(failed) + len(results)} cells failed, the same command tries "
            f"them again: {reasons}"
        )
    return results


def _name(cell: ConfigDict) -> str:
    kind = cell.world.kind if cell.dataset == "world" else ""
    correlation = f"-{kind}-rho{cell.world.rho:g}" if kind else ""
    halves = "-base_new" if cell.classes == "base_new" else ""
    targets = tasks.targets(cell)
    to = f"-to-{'-'.join(targets)}" if targets else ""
    return folder_name(f"{cell.dataset}{correlation}-{cell.shots}shot-seed{cell.seed}{halves}{to}")
