"""Cells: what finished runs wrote, searched and checked.

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
from cdc_jax.records import Results, RowRecord, SplitRecord, TaskRecord

_FIGURES = ("images", "accuracy", "ece", "nll", "brier", "auroc", "aurc")
_NOT_CELLS = {"adapted", "checkpoints", "gallery"}
_REMEDY = "delete its folder and run it again"
_SCORES = ("labels", "predicted", "confidence", "uncertainty")
Scores = dict[str, dict[str, np.ndarray]]
"""Split -> array by name: what a `scores.npz` holds."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A finished run.

    Attributes:
      name: its path below the folder that was searched.
      folder: the same as a path that opens.
      row: the method.
      task: what it was run on.
      choices: the method's settings, keys joined by dots.
      records: split -> what it is.
      splits: split -> figures of `evaluate.summarize`; for new classes the `novelty` as well.
      results: everything in results.json.
      note: what sets the task apart from the published one, or nothing.
    """

    name: str
    folder: Path
    row: RowRecord
    task: TaskRecord
    choices: Mapping[str, Any]
    records: Mapping[str, SplitRecord]
    splits: Mapping[str, Mapping[str, Any]]
    results: Results
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
      The cells, ordered by name; the names of the unfinished ones; and the names of the folders in
      which a cell failed.

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
                cells.setdefault(here.resolve(), _read(here, name))
            elif "config.json" in files and "method" in read_json(here / "config.json"):
                unfinished.add(name)
    if not cells:
        searched = ", ".join(str(folder) for folder in folders)
        raise ValueError(f"no finished run below {searched}: a run writes results.json at its end")
    ordered = sorted(cells.values(), key=lambda cell: (cell.name, str(cell.folder)))
    return ordered, sorted(unfinished), sorted(failed)


def _read(folder: Path, name: str) -> Cell:
    config, path = folder / "config.json", folder / "results.json"
    if not config.exists():
        raise ValueError(f"{path}: no config.json beside it, so not a run's; move it elsewhere")
    settings = read_json(config)
    results = run_folder.read_results(epath.Path(folder))
    if results is None or not isinstance(settings.get("method"), dict):
        raise ValueError(
            f"{config}: lacks method, so not a whole run's; {_REMEDY}, or move it elsewhere"
        )
    results = Results.from_json(visible_tree(results.to_json()))
    _check_figures(path, results.figures)
    row, task, skipped = results.row, results.task, len(results.skipped)
    choices = flatten_dict(older_formats.upgrade_settings(settings["method"]), sep=".")
    if row.row in rows.ROWS:
        family = defaults.of_family(rows.ROWS[row.row].family).to_dict()
        choices = flatten_dict(family, sep=".") | choices
    splits = {
        split: {key: np.nan if value is None else value for key, value in figures.items()}
        for split, figures in results.figures.items()
    }
    for split, record in results.splits.items():
        novelty = results.summary.get(f"novelty_{record.suffix}")
        if record.group == "new" and novelty is not None:
            splits[split]["novelty"] = novelty
    notes = [task.note, f"{skipped} images can't be used" * bool(skipped)]
    note = "; ".join(filter(None, notes))
    return Cell(name, folder, row, task, choices, results.splits, splits, results, note)


def _check_figures(path: Path, splits: Mapping[str, Mapping[str, Any]]) -> None:
    if not splits:
        raise ValueError(f"{path}: splits must name at least one test split, got {splits!r}")
    for split, figures in splits.items():
        for key in _FIGURES:
            value = figures.get(key, "nothing")
            if not isinstance(value, int | float | None):
                raise ValueError(
                    f"{path}: splits.{split}.{key} must be a number, got {value!r}; {_REMEDY}"
                )
        if not isinstance(figures.get("template_accuracy"), list):
            raise ValueError(f"{path}: splits.{split}.template_accuracy must be a list; {_REMEDY}")


def read_json(path: Path, kind: schema.Kind | None = None, lines: bool = False) -> Any:
    """The JSON in a file of a run, its texts made visible.

    Args:
      path: of the file.
      kind: what it must be; None takes any object.
      lines: a list of the values of all lines, instead of one value.

    Raises:
      ValueError: damaged, or not of that kind; the message names the file.
    """
    text, where = schema.read_bytes(path), str(path)
    values = [
        schema.parse_value(one, where=where, remedy=_REMEDY)
        for one in (text.splitlines() if lines else [text])
    ]
    kind = kind or schema.table(schema.anything())
    checked = [visible_tree(schema.check(value, kind, where, _REMEDY)) for value in values]
    return checked if lines else checked[0]


def scores(cell: Cell) -> Scores:
    """A cell's `scores.npz`; empty where the cell has none.

    Raises:
      ValueError: it can't be read, or lacks a split or an image; the message names the file.
    """
    path = cell.folder / "scores.npz"
    if not path.exists():
        return {}
    try:
        with np.load(path) as file:
            arrays = {visible(key): file[key] for key in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: can't be read ({error}); run that cell again") from None
    for split, figures in cell.splits.items():
        for key in _SCORES:
            shape = np.shape(arrays.get(f"{split}/{key}", 0))
            if shape != (figures["images"],):
                raise ValueError(
                    f"{path}: expected {split}/{key} of {figures['images']} images, got "
                    f"{shape or 'none'}; run that cell again"
                )
    return {split: {key: arrays[f"{split}/{key}"] for key in _SCORES} for split in cell.splits}
