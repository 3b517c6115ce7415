"""Cells: what finished runs wrote, found and checked.

A cell is one method's run on one task with one seed, a folder with `config.json` and
`results.json`. Everything else in it is optional.
"""

import dataclasses
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from cdc_jax import methods

# How a run was executed, not what was run.
_EXECUTION = {"log_every", "checkpoint_every", "curve_every", "evaluation_batch_size", "progress"}
_PLACES = ("data.root", "data.on_error", "data.allow_fewer")
_AXES = {"dataset", "world.kind", "shots", "seed"}
_FIGURES = ("accuracy", "ece", "nll", "brier", "auroc", "aurc")
_NOT_CELLS = {"adapted", "checkpoints", "gallery"}
_SCORES = ("labels", "predicted", "confidence", "uncertainty")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A finished run.

    Attributes:
      name: where it lies below the folder that was searched.
      folder: the same as a path that opens.
      protocol: "world", "base_new", "few_shot" or "transfer", by the names of the test splits.
      dataset: with the kind of task where it is the world.
      others: the remaining settings that its task depends on, as (key, value) sorted by key.
      method: name of the method; without the settings that a name like `cdc@views=flip` changes.
      choices: the method's own settings, keys joined by dots.
      splits: split -> figures of `evaluate.summarize`; for `new_*` splits the `novelty` as well.
      about: steps, trainable_parameters and device.
      note: what sets the task apart from the published one, or nothing.
    """

    name: str
    folder: Path
    protocol: str
    dataset: str
    shots: int
    seed: int
    others: tuple[tuple[str, Any], ...]
    method: str
    choices: Mapping[str, Any]
    splits: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, Any]
    note: str


def find(folders: Sequence[Path | str]) -> tuple[list[Cell], list[str], list[str]]:
    """Reads the cells below some folders.

    Args:
      folders: searched to the bottom, in any order; a cell that is met twice counts once.

    Returns:
      The cells, ordered by name; the names of those that have not finished; and of the folders of
      cells some of which failed.

    Raises:
      FileNotFoundError: a folder that isn't there.
      ValueError: no finished cell, or a file that is half-written or not a run's; it is named.
    """
    cells: dict[Path, Cell] = {}
    unfinished, failed = set(), set()
    for folder in (Path(folder).expanduser() for folder in folders):
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}: give folders that runs were written to")
        for path, subfolders, files in os.walk(folder):
            subfolders[:] = [] if "config.json" in files else sorted(set(subfolders) - _NOT_CELLS)
            here = Path(path)
            name = here.relative_to(folder).as_posix() if here != folder else folder.resolve().name
            if "error.txt" in files:
                failed.add(name)
            if "results.json" in files:
                cells.setdefault(here.resolve(), read(here, name))
            elif "config.json" in files and "method" in read_json(here / "config.json"):
                unfinished.add(name)
    if not cells:
        searched = ", ".join(str(folder) for folder in folders)
        raise ValueError(f"no finished run below {searched}: a run writes results.json at its end")
    ordered = sorted(cells.values(), key=lambda cell: (cell.name, str(cell.folder)))
    return ordered, sorted(unfinished), sorted(failed)


def read(folder: Path, name: str) -> Cell:
    """Reads and checks one cell, see `find`."""
    config, results = folder / "config.json", folder / "results.json"
    if not config.exists():
        raise ValueError(f"{results}: no config.json beside it, so not a run's; move it elsewhere")
    settings, found = read_json(config), read_json(results)
    for path, content, keys in (
        (config, settings, ("dataset", "shots", "seed", "model", "method")),
        (results, found, ("method", "splits", "steps", "trainable_parameters", "device")),
    ):
        missing = [key for key in keys if key not in content]
        if missing:
            raise ValueError(
                f"{path}: lacks {', '.join(missing)}, so not a whole run's; delete its folder and "
                "run it again, or move it elsewhere"
            )
    _check_splits(results, found["splits"])
    world = settings["dataset"] == "world"
    others = {key: value for key, value in settings.items() if key != "method"}
    # The world has both halves of its classes, whatever `classes` says; others have no world. Where
    # a dataset lies does not matter; one's own folder is named by it.
    ignored = ("data.", "classes") if world else (*_PLACES, "world.")
    dataset = f"world {settings['world']['kind']}" if world else settings["dataset"]
    if dataset == "folder" and (root := settings["data"]["root"]):
        dataset = f"folder {Path(root).name}"
    skipped = found.get("skipped", {}).get("count")
    notes = [found.get("note"), f"{skipped} images can't be used" if skipped else None]
    return Cell(
        name=name,
        folder=folder,
        protocol=_protocol(found["splits"]),
        dataset=dataset,
        shots=settings["shots"],
        seed=settings["seed"],
        others=tuple(
            sorted(
                (key, Path(value).name if key == "data.split" else value)
                for key, value in flatten_dict(others, sep=".").items()
                if key not in _EXECUTION | _AXES and not key.startswith(ignored)
            )
        ),
        method=found["method"].partition("@")[0],
        choices=flatten_dict(methods.DEFAULTS, sep=".") | flatten_dict(settings["method"], sep="."),
        splits=_figures_of(found),
        about={key: found[key] for key in ("steps", "trainable_parameters", "device")},
        note="; ".join(note for note in notes if note),
    )


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file.

    Raises:
      ValueError: not one; the message names the file.
    """
    return _object(path, _parsed(path, path.read_text(errors="replace")))


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON file with a list of them; errors as in `read_json`."""
    content = _parsed(path, path.read_text(errors="replace"))
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a JSON list, got {type(content).__name__}")
    return [_object(path, item) for item in content]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one a line; errors as in `read_json`."""
    lines = path.read_text(errors="replace").splitlines()
    return [_object(path, _parsed(path, line)) for line in lines]


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: half-written or not JSON ({error.msg}); delete its folder and run it again"
        ) from None


def _object(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def scores(
    folder: Path, splits: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, np.ndarray]]:
    """Split -> array by name, of a cell's `scores.npz`; empty where the cell has none.

    Raises:
      ValueError: it can't be read, or lacks a split or an image; the message names the file.
    """
    path = folder / "scores.npz"
    if not path.exists():
        return {}
    try:
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: can't be read ({error}); run that cell again") from None
    found: dict[str, dict[str, np.ndarray]] = {}
    for split, figures in splits.items():
        for key in _SCORES:
            array = arrays.get(f"{split}/{key}")
            if array is None or array.shape != (figures["images"],):
                shape = "none" if array is None else array.shape
                raise ValueError(
                    f"{path}: expected {split}/{key} of {figures['images']} images, got {shape}; "
                    "run that cell again"
                )
            found.setdefault(split, {})[key] = array
    return found


def _check_splits(path: Path, splits: Any) -> None:
    if not isinstance(splits, dict) or not splits:
        raise ValueError(f"{path}: splits must name at least one test split, got {splits!r}")
    for split, figures in splits.items():
        for key in ("images", *_FIGURES):
            value = figures.get(key, "nothing") if isinstance(figures, dict) else figures
            if not isinstance(value, int | float | None):
                raise ValueError(
                    f"{path}: splits.{split}.{key} must be a number, got {value!r}; delete its "
                    "folder and run it again"
                )
        if not isinstance(figures.get("template_accuracy"), list):
            raise ValueError(f"{path}: splits.{split}.template_accuracy must be a list")


def _protocol(splits: Iterable[str]) -> str:
    if any(split != "test" and not split.startswith(("base_", "new_")) for split in splits):
        return "transfer"
    kinds = {split.removeprefix("base_") for split in splits if split.startswith("base_")}
    if kinds:
        return "base_new" if kinds == {"test"} else "world"
    return "few_shot"


def _figures_of(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures of each split; `novelty` of a kind goes to its `new_*` split."""
    summary = results.get("summary", {})
    out = {
        split: {key: np.nan if value is None else value for key, value in figures.items()}
        for split, figures in results["splits"].items()
    }
    for split, figures in out.items():
        novelty = summary.get(f"novelty_{split.removeprefix('new_')}")
        if split.startswith("new_") and novelty is not None:
            figures["novelty"] = novelty
    return out
