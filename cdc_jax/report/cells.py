"""Cells: what finished runs wrote, searched and checked.

A cell is one method's run on one task with one seed, a folder with `config.json` and
`results.json`. Everything else in it is optional. Texts are read as they may be shown, with
escapes in place of control characters.
"""

import dataclasses
import functools
import itertools
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from cdc_jax import calibration, older_formats, run_folder, schema
from cdc_jax.escaping import visible, visible_tree
from cdc_jax.methods import defaults, rows
from cdc_jax.records import Results, RowRecord, TaskRecord

_NOVELTY = ("novelty", "novelty_probability", "novelty_fpr95")  # of the summary
_SCORES = ("labels", "predicted", "confidence", "uncertainty")
_NOT_CELLS = {"adapted", "checkpoints", "gallery"}
_REMEDY = "delete its folder and run it again"

_NAME = schema.text(unicode=False)
_NUMBER = schema.number()


def _read_figure(value: Any, key: str) -> float:
    if not isinstance(value, int | float | None):
        raise schema.misfit(value, key, "a number or null")
    return np.nan if value is None else value


_FIGURE = schema.Kind("a number or null", _read_figure)
_FIGURES = ("accuracy", "ece", "nll", "brier", "auroc", "aurc")
_LATER = (*calibration.FIGURES, "auroc_probability", "auroc_vacuity", "macro_accuracy")
_SPLIT = schema.record(
    images=schema.integer(0),
    template_accuracy=schema.list_of(_FIGURE),
    **dict.fromkeys(_FIGURES, _FIGURE),
    # Older releases did not write these.
    **dict.fromkeys(_LATER, schema.optional(schema.number(0), np.nan)),
    classes=schema.optional(schema.list_of(_NAME), []),
    class_accuracy=schema.optional(schema.list_of(_FIGURE), []),
    confusion=schema.optional(schema.list_of(schema.list_of(schema.integer(0), 3, 3)), []),
)
_SPLITS = schema.record(splits=schema.table(_SPLIT))
_LINE = schema.record(epoch=schema.anything())
_MATRIX = schema.list_of(schema.list_of(_NUMBER))


def _read_square(value: Any, key: str) -> list[list[float]]:
    matrix = _MATRIX.read(value, key)
    if any(len(row) != len(matrix) for row in matrix):
        raise schema.misfit(value, key, "square, templates by templates")
    return matrix


_SQUARE = schema.Kind("a square matrix", _read_square)
_NEAR = schema.record(word=schema.text(), distance=_NUMBER)
_INTERPRETATION = schema.record(
    words=schema.list_of(schema.list_of(schema.list_of(_NEAR))),
    template_cosine=_SQUARE,
    disagreement=_SQUARE,
)
_IMAGE = schema.record(
    **dict.fromkeys(("split", "end", "file", "label", "predicted"), _NAME),
    uncertainty=_NUMBER,
    probability=schema.list_of(schema.items(_NAME, _NUMBER)),
    templates=schema.optional(schema.list_of(schema.items(_NAME, _NUMBER, _NUMBER)), []),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """A finished run; a property raises ValueError if its file is broken, and names the file.

    Attributes:
      name: its path below the folder that was searched.
      folder: the same as a path that opens.
      row, task, results: the records in results.json.
      choices: the method's settings, keys joined by dots.
      splits: split -> figures of `evaluate.summarize`; for new classes those about novelty as well.
        Figures that older releases did not write are NaN or empty.
      note: what sets the task apart from the published one, or nothing.
    """

    name: str
    folder: Path
    row: RowRecord
    task: TaskRecord
    results: Results
    choices: Mapping[str, Any]
    splits: Mapping[str, Mapping[str, Any]]
    note: str

    @property
    def headline(self) -> list[str]:
        """The splits that stand for all."""
        return [name for name, record in self.results.splits.items() if record.headline]

    @functools.cached_property
    def scores(self) -> dict[str, dict[str, np.ndarray]]:
        """Split -> array by name, of `scores.npz`; empty where the cell has none."""
        path = self.folder / "scores.npz"
        if not path.exists():
            return {}
        try:
            with np.load(path) as file:
                arrays = {visible(key): file[key] for key in file.files}
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: can't be read ({error}); run that cell again") from None
        for split, key in itertools.product(self.splits, _SCORES):
            shape, images = np.shape(arrays.get(f"{split}/{key}", 0)), self.splits[split]["images"]
            if shape != (images,):
                raise ValueError(
                    f"{path}: expected {split}/{key} of {images} images, got {shape or 'none'}; "
                    "run that cell again"
                )
        return {split: {key: arrays[f"{split}/{key}"] for key in _SCORES} for split in self.splits}

    @functools.cached_property
    def curve(self) -> list[dict[str, Any]]:
        """The lines of `curve.jsonl`; none where the cell has none."""
        path = self.folder / "curve.jsonl"
        return read_json(path, _LINE, lines=True) if path.exists() else []

    @functools.cached_property
    def interpretation(self) -> dict[str, Any] | None:
        """The content of `interpretation.json`; None where the cell has none."""
        path = self.folder / "interpretation.json"
        return read_json(path, _INTERPRETATION) if path.exists() else None

    @functools.cached_property
    def gallery(self) -> list[dict[str, Any]]:
        """The entries of `gallery.json` with the `path` of their images; empty without the file."""
        path = self.folder / "gallery.json"
        entries = read_json(path, schema.list_of(_IMAGE)) if path.exists() else []
        return [entry | {"path": self._image(entry["file"])} for entry in entries]

    def _image(self, name: str) -> Path:
        """The path of an image; an entry can't name one outside of the cell."""
        for path in (self.folder / name, self.folder / "gallery" / name):
            if path.is_file() and path.resolve().is_relative_to(self.folder.resolve()):
                return path
        raise ValueError(f"{self.folder / 'gallery.json'}: no image {name!r} in that folder")


def find(folders: Sequence[Path | str]) -> tuple[list[Cell], list[str], list[str]]:
    """Reads the cells below some folders, in any order; a cell that is met twice counts once.

    Returns:
      The cells by name; the names of unfinished ones, and of the folders in which one failed.

    Raises:
      ValueError: no finished cell, or a file that is half-written or not a run's; it is named.
    """
    cells: dict[Path, Cell] = {}
    unfinished, failed = set(), set()
    for folder in (Path(folder).expanduser() for folder in folders):
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


def read_json(path: Path, kind: schema.Kind | None = None, lines: bool = False) -> Any:
    """The JSON in a file of a run or in each of its `lines`, its texts made visible.

    Raises:
      ValueError: damaged, or not of that kind; the message names the file.
    """
    kind, where = kind or schema.table(schema.anything()), str(path)
    content = schema.read_bytes(path)
    values = []
    for text in content.splitlines() if lines else [content]:
        value = schema.parse_value(text, where=where, remedy=_REMEDY)
        values.append(visible_tree(schema.check(value, kind, where, _REMEDY)))
    return values if lines else values[0]


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
    row, task, skipped = results.row, results.task, len(results.skipped)
    choices = flatten_dict(older_formats.upgrade_settings(settings["method"]), sep=".")
    if row.row in rows.ROWS:
        family = defaults.of_family(rows.ROWS[row.row].family).to_dict()
        choices = flatten_dict(family, sep=".") | choices
    note = "; ".join(filter(None, [task.note, f"{skipped} images can't be used" * bool(skipped)]))
    return Cell(name, folder, row, task, results, choices, _splits(path, results), note)


def _splits(path: Path, results: Results) -> dict[str, dict[str, Any]]:
    """Split -> figures, NaN for null."""
    if not results.figures:
        raise ValueError(f"{path}: splits must name at least one test split, got {{}}")
    checked = schema.check({"splits": results.figures}, _SPLITS, str(path), _REMEDY)["splits"]
    for split, figures in checked.items():
        known = len(figures["classes"])
        largest = max((max(pair) for *pair, _ in figures["confusion"]), default=-1)
        if len(figures["class_accuracy"]) != known or largest >= known:
            raise ValueError(
                f"{path}: splits.{split} must have an accuracy for each of its {known} classes, "
                f"and no other class in its confusion; {_REMEDY}"
            )
        record = results.splits[split]
        for key in _NOVELTY if record.group == "new" else ():
            if (novelty := results.summary.get(f"{key}_{record.suffix}")) is not None:
                figures[key] = novelty
    return checked
