"""The prediction of an adapted model for an image, with class names, in tables and files."""

import contextlib
import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import rich.box
import rich.cells
import rich.table
import rich.text

from cdc_jax import writing
from cdc_jax.escaping import spreadsheet_cell, visible
from cdc_jax.tasks.decode import UnreadableImage


class ImagePrediction(NamedTuple):
    """The prediction of an adapted model for an image.

    Attributes:
      image: its path, or its place in the user's list.
      predicted: the most probable class.
      probability: the most probable classes, each with its fused probability.
      uncertainty: of the head, larger is less certain. The softmax head has 1 − max probability.
        The evidential head has the log of the vacuity, or the setting `uncertainty`.
      vacuity: u of the fused opinion, in (0, 1]; None in the softmax head.
      conflict: among the templates, in [0, 1]; 0 in the softmax head.
      templates: of each template alone: its most probable class, the probability of the class, and
        its uncertainty on the scale of `uncertainty`.
      abstained: whether the user's rule leaves this image undecided.
      class_set: classes, the most probable first. The true class is among them with the probability
        that the user asked for. None if the user asked for no sets.
      unknown: whether the image is too novel for the training classes; None if the user did not
        ask.
    """

    image: str
    predicted: str
    probability: tuple[tuple[str, float], ...]
    uncertainty: float
    vacuity: float | None
    conflict: float
    templates: tuple[tuple[str, float, float], ...]
    abstained: bool
    class_set: tuple[str, ...] | None = None
    unknown: bool | None = None


Row = ImagePrediction | UnreadableImage
"""A row: a prediction, or the error of an unreadable image."""


class OptionError(ValueError):
    """An option of a prediction that can't be met. The message begins with `option=value`."""

    def __init__(self, option: str, value: object, reason: str):
        super().__init__(f"{option}={value}: {reason}")


def abstention(
    rule: str,
    has_opinions: bool = True,
    least_confidence: Callable[[float], float] = lambda risk: risk,
) -> Callable[[ImagePrediction], bool]:
    """The test whether an image stays undecided.

    Args:
      rule: "probability:0.5" abstains if the probability of the most probable class is below 0.5.
        "uncertainty:…", "vacuity:…" and "conflict:…" abstain above their value. "risk:0.05"
        abstains so that at most 5 % of the decided images are wrong. "" never abstains.
      has_opinions: whether the method's head gives vacuity and conflict.
      least_confidence: see `Calibration.least_confidence`. Without it only the form of a rule
        "risk:…" is checked.

    Raises:
      OptionError: the rule has another form, or the measure can't have the value.
    """
    if not rule:
        return lambda row: False
    opinions = ["vacuity", "conflict"] if has_opinions else []
    measures = ["probability", "risk", "uncertainty", *opinions]
    measure, _, text = rule.partition(":")
    if measure not in measures:
        raise OptionError(
            "abstain",
            rule,
            f"expected MEASURE:VALUE, such as probability:0.5, and this method's measures are "
            f"{', '.join(measures)}",
        )
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    bounds = {"risk": "between 0 and 1", "uncertainty": "that is finite"}
    inside = 0 < bound < 1 if measure == "risk" else 0 <= bound <= 1
    if not (math.isfinite(bound) if measure == "uncertainty" else inside):
        range_ = bounds.get(measure, "from 0 to 1")
        raise OptionError("abstain", rule, f"{measure} needs a number {range_}, got {text!r}")
    if measure == "probability":
        return lambda row: row.probability[0][1] < bound
    if measure == "risk":
        least = least_confidence(bound)
        return lambda row: row.probability[0][1] <= least
    return lambda row: getattr(row, measure) > bound


def counts(rows: Sequence[Row], *, abstain: bool, unknown: bool) -> list[str]:
    """Lines on what the user asked for.

    Args:
      rows: all rows.
      abstain: whether the user gave a rule of abstention.
      unknown: whether the user asked for unknown images.
    """
    predicted = [row for row in rows if isinstance(row, ImagePrediction)]
    lines = []
    if abstain:
        lines.append(f"undecided: {sum(r.abstained for r in predicted)} of {len(predicted)}")
    if unknown:
        lines.append(f"unknown: {sum(bool(r.unknown) for r in predicted)} of {len(predicted)}")
    sizes = [len(row.class_set) for row in predicted if row.class_set]
    if sizes:
        lines.append(f"classes in a set: {sum(sizes) / len(sizes):.1f} on average")
    return lines


def require_share(option: str, value: float | None) -> None:
    """Raises OptionError for an asked share that is not in (0, 1); None asks for nothing."""
    if value is not None and not 0 < value < 1:
        raise OptionError(option, value, "expected a number between 0 and 1, such as 0.9")


@contextlib.contextmanager
def asked(option: str, value: object) -> Iterator[None]:
    """Turns a ValueError into an OptionError, whose message names the option and its value."""
    try:
        yield
    except OptionError:
        raise
    except ValueError as error:
        raise OptionError(option, value, str(error)) from error


def table(rows: Sequence[Row], width: int = 80) -> rich.table.Table:
    """A table for the terminal: of each image its classes, its uncertainty, each template's own.

    Args:
      rows: all rows.
      width: of the terminal. Longer names are folded after a slash, space, hyphen or underscore.
    """
    names = [visible(row.name if isinstance(row, UnreadableImage) else row.image) for row in rows]
    folder = _common_folder(names)
    predicted = [row for row in rows if isinstance(row, ImagePrediction)]
    opinions = any(row.vacuity is not None for row in predicted)
    several = any(len(row.templates) > 1 for row in predicted)
    measures = ["vacuity" if opinions else "uncertainty", *["conflict"] * several]
    title = rich.text.Text(f"images in {folder}") if folder else None
    grid = rich.table.Table(title=title, box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("image", "class", *measures, *["templates alone"] * several):
        grid.add_column(column)
    # Measures are as wide as their titles. Images get what the classes leave, but at least a part.
    room = width - 2 * len(grid.columns) - 1 - sum(map(len, measures))
    longest = max(_IMAGE, (room - _IMAGE) // (1 + several))
    classes = [_classes(row, longest) for row in rows]
    alone = [_alone(row, longest) for row in rows]
    taken = sum(max(map(_width, column), default=0) for column in [classes, *[alone] * several])
    for name, row, of_all, of_each in zip(names, rows, classes, alone, strict=True):
        path = os.path.relpath(name, folder) if folder else name
        cells = [_folded(path, max(_IMAGE, room - taken)), of_all]
        if isinstance(row, ImagePrediction):
            cells.append(f"{row.vacuity if opinions else row.uncertainty:.2g}")
            cells += [f"{row.conflict:.2g}", of_each] if several else []
        # As text: names may hold what rich takes for markup.
        grid.add_row(*(rich.text.Text(cell, overflow="fold") for cell in cells), end_section=True)
    return grid


_IMAGE = 14  # the fewest characters in a line of an image's name


def _classes(row: Row, longest: int) -> str:
    """Remarks, the most probable classes, and the set."""
    if isinstance(row, UnreadableImage):
        return _folded(f"unreadable: {visible(row.reason)}", longest, " ")
    lines = ["(abstains)"] * row.abstained + ["(unknown)"] * bool(row.unknown)
    lines.append(_shares(row.probability, longest))
    if row.class_set is not None:
        lines.append(_folded(f"set: {', '.join(map(visible, row.class_set))}", longest, " "))
    return "\n".join(lines)


def _alone(row: Row, longest: int) -> str:
    """Each template's most probable class."""
    templates = row.templates if isinstance(row, ImagePrediction) else ()
    return _shares([(name, share) for name, share, _ in templates], longest)


def _shares(shares: Iterable[tuple[str, float]], longest: int) -> str:
    """A line a class, more for a long name."""
    indent = " " * len("0.500 ")
    return "\n".join(
        f"{share:5.3f} {_folded(visible(name), longest - len(indent), indent=indent)}"
        for name, share in shares
    )


def _folded(text: str, longest: int, after: str = "/ _-", indent: str = "") -> str:
    """The text in lines of that length, which end after some characters where possible."""
    lines = [""]
    for word in re.split(f"(?<=[{after}])", text):
        for part in rich.cells.chop_cells(word, longest):
            if rich.cells.cell_len(lines[-1] + part.rstrip()) > longest:
                lines.append("")
            lines[-1] += part
    return f"\n{indent}".join(line.rstrip() for line in lines)


def _width(text: str) -> int:
    return max(map(rich.cells.cell_len, text.split("\n")))


def _common_folder(names: Sequence[str]) -> str:
    try:
        return os.path.commonpath([os.path.dirname(name) for name in names])
    except ValueError:  # absolute paths beside relative ones
        return ""


def write_json(rows: Iterable[Row], path: str | Path) -> None:
    """Writes a list of objects with the record's fields; {image, error} for what can't be read.

    Args:
      rows: to write.
      path: a file, which is replaced when all is written; or a link, a pipe or a device.

    Raises:
      OSError: it can't be written, see `writing`.
    """
    objects = [
        {"image": row.name, "error": row.reason}
        if isinstance(row, UnreadableImage)
        else row._asdict()
        for row in rows
    ]
    writing.write_text(
        path, json.dumps(objects, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )


def write_csv(rows: Iterable[Row], path: str | Path) -> None:
    """Writes a line an image, under a line of column names.

    `class_1`, `probability_1` and so on are the most probable classes, `template_1_class`,
    `template_1_probability`, `template_1_uncertainty` and so on what each template says alone; the
    other columns are fields of the record, and `error`. Semicolons part the classes of a set. Texts
    are such that no spreadsheet runs them, see `spreadsheet_cell`; the JSON file has them as
    they are.

    Args:
      rows: see `write_json`.
      path: see `write_json`.
    """
    lines = [_flat(row) for row in rows]
    columns = dict.fromkeys(["image", "error", *(key for line in lines for key in line)])
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow(
            {k: spreadsheet_cell(v) if isinstance(v, str) else v for k, v in line.items()}
        )
    writing.write_text(path, text.getvalue())


def _flat(row: Row) -> dict[str, Any]:
    if isinstance(row, UnreadableImage):
        return {"image": row.name, "error": row.reason}
    flat = row._asdict()
    for k, (name, probability) in enumerate(flat.pop("probability"), 1):
        flat |= {f"class_{k}": name, f"probability_{k}": probability}
    asked = {"class_set": row.class_set and ";".join(row.class_set), "unknown": row.unknown}
    flat |= asked
    for name in [name for name, value in asked.items() if value is None]:
        del flat[name]
    for m, (name, probability, uncertainty) in enumerate(flat.pop("templates"), 1):
        alone = {"class": name, "probability": probability, "uncertainty": uncertainty}
        flat |= {f"template_{m}_{key}": value for key, value in alone.items()}
    return flat
