"""Sweeps: a configuration over datasets, folders, kinds of task, shots and seeds.

Each combination is a cell of the sweep. A sweep that runs again runs the incomplete cells only.
"""

import itertools
import traceback
from pathlib import Path
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from cdc_jax import config_file, grammar, records, settings, tasks
from cdc_jax.escaping import visible
from cdc_jax.folder_names import folder_name
from cdc_jax.interruption import Interrupted, Notice
from cdc_jax.tasks import describe

_AXES = {  # key of config.sweep -> the key that it varies
    "datasets": "dataset",
    "roots": "data.root",
    "kinds": "world.kind",
    "rhos": "world.rho",
    "shots": "shots",
    "seeds": "seed",
}
_ONLY = {"roots": "folder", "kinds": "world", "rhos": "world"}
"""Keys of config.sweep that hold for one dataset -> the dataset."""


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
    listed = {axis: grammar.split(text, ",") for axis in _AXES if (text := config.sweep[axis])}
    datasets = listed.pop("datasets", [config.dataset])
    if "roots" in listed and "folder" not in datasets:
        raise ValueError(
            f"sweep.roots={config.sweep.roots} names folders of photographs, but the dataset is "
            f"{', '.join(datasets)}: add dataset=folder"
        )
    configs: dict[str, ConfigDict] = {}
    for dataset in datasets:
        axes = {axis: v for axis, v in listed.items() if _ONLY.get(axis, dataset) == dataset}
        keys = ["dataset", *map(_AXES.__getitem__, axes)]
        for combination in itertools.product([dataset], *axes.values()):
            cell = config.copy_and_resolve_references()
            with cell.unlocked():
                del cell["sweep"]
            config_file.assign(cell, zip(keys, combination, strict=True))
            settings.check(cell)
            tasks.check(cell)
            name = _name(cell)
            if name in configs:
                raise ValueError(
                    f"the sweep has the cell {name} twice: list each value once, and give folders "
                    "of the same name a --workdir each"
                )
            configs[name] = cell.lock()
    return configs


def check(config: ConfigDict, workdir: Path | str) -> dict[str, ConfigDict]:
    """Checks a sweep before JAX is imported.

    Args:
      config: see `cells`.
      workdir: of `run`.

    Returns:
      `cells(config)`. A cell that an older release began has the name that it got there.

    Raises:
      ValueError: see `cells`.
      ValueError, FileNotFoundError: a cell was never begun and has no data, see
        `tasks.require_root`.
    """
    root = epath.Path(workdir).expanduser()
    configs = {_begun_as(root, name, cell): cell for name, cell in cells(config).items()}
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
    """The dataset's name in tables, without spaces and slashes, and the settings that vary."""
    words = describe.dataset_name(cell.to_dict()).split()
    correlation = [f"rho{cell.world.rho:g}"] * (cell.dataset == "world")
    return folder_name("-".join([*words, *correlation, *_setting(cell)]).replace("/", "--"))


def _setting(cell: ConfigDict) -> list[str]:
    halves = ["base_new"] * (cell.classes == "base_new")
    targets = tasks.targets(cell)
    to = ["to", *targets] if targets else []
    return [f"{cell.shots}shot", f"seed{cell.seed}", *halves, *to]


def _begun_as(root: epath.Path, name: str, cell: ConfigDict) -> str:
    """The name of a cell's folder. Release 0.1.0 named all folders of photographs `folder-…`."""
    older = folder_name("-".join([cell.dataset, *_setting(cell)]))
    if (root / name).exists() or not (root / older).is_dir():
        return name
    begun = (folder / "config.json" for folder in (root / older).iterdir())
    datasets = {describe.dataset_name(records.read_json(p)) for p in begun if p.exists()}
    return older if describe.dataset_name(cell.to_dict()) in datasets else name
