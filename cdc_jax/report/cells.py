"""Cells: what finished runs wrote, found and checked.

A cell is one method's run on one task with one seed, a folder with `config.json` and
`results.json`. Everything else in it is optional. Texts are read as they may be shown, with
escapes in place of control characters.
"""

import dataclasses
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from cdc_jax import older_formats, run_folder, schema
from cdc_jax.escaping import visible, visible_tree
from cdc_jax.methods import defaults, rows
from cdc_jax.records import Results, SplitRecord

_FIGURES = ("accuracy", "ece", "nll", "brier", "auroc", "aurc")
_NOT_CELLS = {"adapted", "checkpoints", "gallery"}
_REMEDY = "delete its folder and run it again"
_SCORES = ("labels", "predicted", "confidence", "uncertainty")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A finished run.

    Attributes:
      name: where it lies below the folder that was searched.
      folder: the same as a path that opens.
      protocol: see `records.TaskRecord`.
      heading: see there.
      dataset: with the kind of task where it is the world.
      others: the remaining settings that its task depends on, as (key, value) sorted by key.
      method: the row, without the settings that a name like `cdc@views=flip` changes.
      role: see `records.RowRecord`.
      changes: see `records.RowRecord`.
      changes_images: see `records.RowRecord`.
      choices: the method's own settings, keys joined by dots.
      records: split -> what it is.
      splits: split -> figures of `evaluate.summarize`; for new classes the `novelty` as well.
      about: steps, trainable_parameters and device.
      note: what sets the task apart from the published one, or nothing.
    """

    name: str
    folder: Path
    protocol: str
    heading: str
    dataset: str
    shots: int
    seed: int
    others: tuple[tuple[str, Any], ...]
    method: str
    role: str
    changes: Mapping[str, Any]
    changes_images: bool
    choices: Mapping[str, Any]
    records: Mapping[str, SplitRecord]
    splits: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, Any]
    note: str

    def where(self, *groups: str) -> list[str]:
        """The splits of some groups of classes, in order."""
        return [name for name, record in self.records.items() if record.group in groups]

    @property
    def headline(self) -> list[str]:
        """The splits that stand for all."""
        return [name for name, record in self.records.items() if record.headline]

    @property
    def conditions(self) -> list[str]:
        """The conditions under which base classes were tested, in order; "" where there is one."""
        return list(dict.fromkeys(self.records[name].condition for name in self.where("base")))


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
            name = visible(name)
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
    config, path = folder / "config.json", folder / "results.json"
    if not config.exists():
        raise ValueError(f"{path}: no config.json beside it, so not a run's; move it elsewhere")
    settings = read_json(config)
    results = run_folder.read_results(epath.Path(folder))
    if results is None or not isinstance(settings.get("method"), dict):
        raise ValueError(
            f"{config}: lacks method, so not a whole run's; delete its folder and run it again, or "
            "move it elsewhere"
        )
    results = Results.from_json(visible_tree(results.to_json()))
    _check_splits(path, results.figures)
    row, task, skipped = results.row, results.task, len(results.skipped)
    choices = flatten_dict(older_formats.upgrade_settings(settings["method"]), sep=".")
    if row.row in rows.ROWS:
        family = defaults.of_family(rows.ROWS[row.row].family).to_dict()
        choices = flatten_dict(family, sep=".") | choices
    return Cell(
        name=name,
        folder=folder,
        protocol=task.protocol,
        heading=task.heading,
        dataset=task.dataset,
        shots=task.shots,
        seed=task.seed,
        others=tuple(sorted(task.settings.items())),
        method=row.row,
        role=row.role,
        changes=row.changes,
        changes_images=row.changes_images,
        choices=choices,
        records=results.splits,
        splits={
            split: _numbers(results.figures[split], record, results.summary)
            for split, record in results.splits.items()
        },
        about={
            "steps": results.steps,
            "trainable_parameters": results.trainable_parameters,
            "device": results.device,
        },
        note="; ".join(
            note for note in (task.note, f"{skipped} images can't be used" * bool(skipped)) if note
        ),
    )


def read_json(path: Path, kind: schema.Kind | None = None) -> dict[str, Any]:
    """An object from a JSON file of a run, its texts made visible.

    Raises:
      ValueError: not one, or not of that kind; the message names the file.
    """
    return visible_tree(schema.read_json(path, kind, remedy=_REMEDY))


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON file with a list of them; errors as in `read_json`."""
    value = schema.parse_value(schema.read_bytes(path), where=str(path), remedy=_REMEDY)
    objects = schema.list_of(schema.table(schema.anything()))
    return visible_tree(schema.check(value, objects, str(path), _REMEDY))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one a line; errors as in `read_json`."""
    lines = schema.read_text(path, _REMEDY).splitlines()
    return [visible_tree(schema.parse(line, where=str(path), remedy=_REMEDY)) for line in lines]


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
            arrays = {visible(key): file[key] for key in file.files}
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


def _numbers(
    figures: Mapping[str, Any], record: SplitRecord, summary: Mapping[str, Any]
) -> dict[str, Any]:
    """Figures with NaN for what does not exist; of new classes, with how well they are told."""
    out = {key: np.nan if value is None else value for key, value in figures.items()}
    novelty = summary.get(f"novelty_{record.suffix}") if record.group == "new" else None
    return out if novelty is None else out | {"novelty": novelty}
