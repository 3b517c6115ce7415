"""Cells: what finished runs wrote, searched and checked.

A cell is one method's run on one task with one seed, a folder with `config.json` and
`results.json`. Everything else in it is optional. Texts are read as they may be shown, with
escapes in place of control characters.
"""

import dataclasses
import functools
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
from cdc_jax.records import Results, RowRecord, SplitRecord, TaskRecord

_FIGURES = ("images", "accuracy", "ece", "nll", "brier", "auroc", "aurc")
_NOVELTY = ("novelty", "novelty_probability", "novelty_fpr95")  # of the summary
_SCORES = ("labels", "predicted", "confidence", "uncertainty")
_ENTRY = ("split", "end", "file", "label", "predicted", "probability", "uncertainty")
_SHARE = (str, int | float)  # class, probability
_OPINION = (*_SHARE, int | float)  # class, probability, uncertainty
_NOT_CELLS = {"adapted", "checkpoints", "gallery"}
_REMEDY = "delete its folder and run it again"

_FIGURE = schema.either(schema.number(), schema.one_of(None))
_LATER = schema.record(  # figures of a split that older releases did not write
    classes=schema.optional(schema.list_of(schema.text(unicode=False)), []),
    class_accuracy=schema.optional(schema.list_of(_FIGURE), []),
    confusion=schema.optional(schema.list_of(schema.list_of(schema.integer(0), 3, 3)), []),
    **dict.fromkeys(
        (*calibration.FIGURES, "auroc_probability", "auroc_vacuity", "macro_accuracy"),
        schema.optional(schema.number(0)),
    ),
)
_LATER_SPLITS = schema.record(splits=schema.table(_LATER))
_SQUARE = schema.list_of(schema.list_of(schema.number()))
_NEAR = schema.record(word=schema.text(), distance=schema.number())
_INTERPRETATION = schema.record(
    words=schema.list_of(schema.list_of(schema.list_of(_NEAR))),
    template_cosine=_SQUARE,
    disagreement=_SQUARE,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """A finished run; a property raises ValueError if its file is broken, and names the file.

    Attributes:
      name: its path below the folder that was searched.
      folder: the same as a path that opens.
      row: the method.
      task: what it was run on.
      choices: the method's settings, keys joined by dots.
      records: split -> what it is.
      splits: split -> figures of `evaluate.summarize`; for new classes those
        about novelty as well. Figures that older releases did not write are NaN or empty.
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
        for split, figures in self.splits.items():
            for key in _SCORES:
                shape = np.shape(arrays.get(f"{split}/{key}", 0))
                if shape != (figures["images"],):
                    raise ValueError(
                        f"{path}: expected {split}/{key} of {figures['images']} images, got "
                        f"{shape or 'none'}; run that cell again"
                    )
        return {split: {key: arrays[f"{split}/{key}"] for key in _SCORES} for split in self.splits}

    @functools.cached_property
    def curve(self) -> list[dict[str, Any]]:
        """The lines of `curve.jsonl`; none where the cell has none."""
        path = self.folder / "curve.jsonl"
        lines = read_json(path, lines=True) if path.exists() else []
        if any("epoch" not in line for line in lines):
            raise ValueError(f"{path}: a line without an epoch; run that cell again")
        return lines

    @functools.cached_property
    def interpretation(self) -> dict[str, Any] | None:
        """The content of `interpretation.json`; None where the cell has none."""
        path = self.folder / "interpretation.json"
        if not path.exists():
            return None
        content = read_json(path, _INTERPRETATION)
        for key in ("template_cosine", "disagreement"):
            if any(len(row) != len(content[key]) for row in content[key]):
                raise ValueError(f"{path}: {key} must be square, templates by templates")
        return content

    @functools.cached_property
    def gallery(self) -> list[dict[str, Any]]:
        """The entries of `gallery.json`; empty where the cell has none."""
        path = self.folder / "gallery.json"
        if not path.exists():
            return []
        entries = read_json(path, schema.list_of(schema.table(schema.anything())))
        for entry in entries:
            if missing := [key for key in _ENTRY if key not in entry]:
                raise ValueError(
                    f"{path}: an image lacks {', '.join(missing)}; run that cell again"
                )
            for key, kinds in (("probability", _SHARE), ("templates", _OPINION)):
                for item in entry.get(key) or ():
                    fits = isinstance(item, list) and len(item) == len(kinds)
                    if not fits or not all(map(isinstance, item, kinds)):
                        raise ValueError(f"{path}: {key} holds {item!r}; run that cell again")
            self.gallery_path(entry["file"])
        return entries

    def gallery_path(self, name: str) -> Path:
        """The path of an image; an entry can't name one outside of the cell."""
        for path in (self.folder / name, self.folder / "gallery" / name):
            if path.is_file() and path.resolve().is_relative_to(self.folder.resolve()):
                return path
        raise ValueError(f"{self.folder / 'gallery.json'}: no image {name!r} in that folder")


def find(folders: Sequence[Path | str]) -> tuple[list[Cell], list[str], list[str]]:
    """Reads the cells below some folders.

    Args:
      folders: searched to the bottom, in any order; a cell that is met twice counts once.

    Returns:
      The cells, ordered by name; the names of the unfinished ones; and the names of the folders in
      which a cell failed.

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
    """The JSON in a file of a run, its texts made visible.

    Args:
      path: of the file.
      kind: what it must be; None takes any object.
      lines: a list of the values of all lines, instead of one value.

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
    notes = [task.note, f"{skipped} images can't be used" * bool(skipped)]
    note = "; ".join(filter(None, notes))
    splits = _splits(path, results)
    return Cell(name, folder, row, task, choices, results.splits, splits, results, note)


def _splits(path: Path, results: Results) -> dict[str, dict[str, Any]]:
    """Split -> figures, NaN for null."""
    if not results.figures:
        raise ValueError(f"{path}: splits must name at least one test split, got {{}}")
    splits = {}
    content = schema.check({"splits": results.figures}, _LATER_SPLITS, str(path), _REMEDY)
    for split, figures in content["splits"].items():
        for key in _FIGURES:
            value = figures.get(key, "nothing")
            if not isinstance(value, int | float | None):
                raise ValueError(
                    f"{path}: splits.{split}.{key} must be a number, got {value!r}; {_REMEDY}"
                )
        if not isinstance(figures.get("template_accuracy"), list):
            raise ValueError(f"{path}: splits.{split}.template_accuracy must be a list; {_REMEDY}")
        known = len(figures["classes"])
        largest = max((max(pair) for *pair, _ in figures["confusion"]), default=-1)
        if len(figures["class_accuracy"]) != known or largest >= known:
            raise ValueError(
                f"{path}: splits.{split} must have an accuracy for each of its {known} classes, "
                f"and no other class in its confusion; {_REMEDY}"
            )
        splits[split] = {k: np.nan if value is None else value for k, value in figures.items()}
        record = results.splits[split]
        for key in _NOVELTY if record.group == "new" else ():
            if (novelty := results.summary.get(f"{key}_{record.suffix}")) is not None:
                splits[split][key] = novelty
    return splits
