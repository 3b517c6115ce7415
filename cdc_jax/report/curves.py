"""Plots of accuracy: by shots, by epochs, by a setting."""

import dataclasses
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes

from cdc_jax.records import INTERVENTION, SplitRecord
from cdc_jax.report.cells import Cell, read_lines
from cdc_jax.report.drawing import Style, canvas, color, label_ends, styles, svg
from cdc_jax.report.families import Family, varying
from cdc_jax.report.measures import primary
from cdc_jax.report.table import (
    Table,
    Value,
    capitalized,
    entry,
    first_column,
    over_seeds,
    scopes,
    with_shots,
)


@dataclasses.dataclass(frozen=True)
class Plot:
    """A drawing with its title, and a caption that says what is seen."""

    name: str
    title: str
    caption: str
    drawing: ET.Element


_ENOUGH = 3  # seeds; the interval of two covers all of a figure
_BAND = f" Bands: 95 % t-intervals over seeds, from {_ENOUGH} on."


def few_shot_curves(family: Family, looks: Mapping[str, Style], name: str) -> list[Plot]:
    """The primary measure by shots: of the average of the datasets, and of each."""
    if len(family.shots) == 1 or family.protocol == "transfer":
        return []
    measure = primary(family)
    plots = []
    for i, (title, datasets) in enumerate(scopes(family)):
        lines = {}
        for row, cells in family.rows.items():
            values = {
                shots: entry([cell for cell in cells if cell.shots == shots], datasets, measure)
                for shots in family.shots
            }
            lines[row] = {shots: value for shots, value in values.items() if value is not None}
        title = title or datasets[0]
        with canvas() as figure:
            axes = figure.subplots()
            axes.set_xscale("log", base=2)
            # Side by side, so that whiskers don't cover one another.
            for place, row in enumerate(lines):
                aside = 1.045 ** (place - (len(lines) - 1) / 2)
                lines[row] = {shots * aside: value for shots, value in lines[row].items()}
            _draw(axes, lines, looks, whiskers=True)
            axes.set_xticks(family.shots, [str(shots) for shots in family.shots])
            axes.minorticks_off()
            axes.set_xlabel("training images a class")
            axes.set_ylabel(f"{measure.title} (%)")
            drawing = svg(figure, f"{name}-shots{i}", f"{measure.title} by shots, {title}")
        caption = (
            f"{capitalized(measure.title)} by the number of training images a class. Whiskers: "
            "95 % t-intervals over seeds."
        )
        plots.append(Plot(f"{name}-shots{i}", f"By shots: {title}", caption, drawing))
    return plots


def epoch_curves(
    cells: Mapping[str, Sequence[Cell]], looks: Mapping[str, Style], name: str
) -> list[Plot]:
    """Base and new accuracy after every epoch, the paper's figure 1b; of what kept a curve."""
    curves = {row: _mean_curve(own) for row, own in cells.items()}
    epochs = sorted({at for curve in curves.values() for line in curve.values() for at in line})
    if not epochs:
        return []
    for row, own in cells.items():
        if all(cell.about["steps"] == 0 for cell in own):
            curves[row] = _level(own, (epochs[0], epochs[-1]))
    halves = {
        (record.group, record.condition): split
        for own in cells.values()
        for split, record in own[0].records.items()
    }
    drawn = {split for curve in curves.values() for split in curve}
    plots = []
    for condition in [c for c in ("", "iid", INTERVENTION) if halves.get(("base", c)) in drawn]:
        kind = SplitRecord(condition=condition).suffix
        with canvas(380, 380) as figure:
            for axes, half in zip(figure.subplots(2, sharex=True), ("base", "new"), strict=True):
                split = halves.get((half, condition), "")
                lines = {row: curve.get(split, {}) for row, curve in curves.items()}
                _draw(axes, lines, looks)
                axes.set_ylabel(f"{half} (%)")
                axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
            axes.set_xlabel("epoch")
            drawing = svg(figure, f"{name}-epochs-{kind}", f"base and new by epochs, {kind}")
        said = {
            "iid": ", where the training correlation holds",
            INTERVENTION: ", under do(task-irrelevant factors)",
        }.get(condition, "")
        caption = (
            f"Accuracy on base classes (above) and new classes (below) after every epoch{said}. "
            f"Base rising while new falls is data misalignment.{_BAND}"
        )
        title = f"Base and new by epochs{condition and f', {condition}'}"
        plots.append(Plot(f"{name}-epochs-{kind}", title, caption, drawing))
    return plots


def _level(cells: Sequence[Cell], epochs: Sequence[float]) -> dict[str, dict[float, Value]]:
    """What learns nothing, drawn as a line to compare with."""
    values = {
        split: over_seeds(c.splits[split]["accuracy"] for c in cells) for split in cells[0].splits
    }
    return {split: dict.fromkeys(epochs, value) for split, value in values.items() if value}


def read_curve(cell: Cell) -> list[dict[str, Any]]:
    """The lines of a cell's `curve.jsonl`; none where it has none.

    Raises:
      ValueError: a line without an epoch; the file is named.
    """
    path = cell.folder / "curve.jsonl"
    lines = read_lines(path) if path.exists() else []
    if any("epoch" not in line for line in lines):
        raise ValueError(f"{path}: a line without an epoch; run that cell again")
    return lines


def _mean_curve(cells: Sequence[Cell]) -> dict[str, dict[float, Value]]:
    """Split -> epoch -> accuracy over the seeds that kept a curve."""
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        for line in read_curve(cell):
            for key in cell.splits.keys() & line.keys():
                found[key][line["epoch"]].append(line[key])
    return {
        split: {epoch: value for epoch in sorted(epochs) if (value := over_seeds(epochs[epoch]))}
        for split, epochs in sorted(found.items())
    }


def ablation_curves(family: Family, dataset: str, shots: int, name: str) -> list[Plot]:
    """The primary measure by a number that alone differs among a method's variants, such as M."""
    by_method: dict[str, list[list[Cell]]] = defaultdict(list)
    for cells in with_shots(family, shots).values():
        own = [cell for cell in cells if cell.dataset == dataset]
        if own:
            by_method[own[0].method].append(own)
    measure, plots = primary(family), []
    for method, variants in by_method.items():
        keys = varying([cell for own in variants for cell in own])
        if len(keys) != 1 or len(variants) < 3:
            continue
        (key,) = keys
        points: dict[Any, Value | None] = {
            own[0].choices.get(key): entry(own, [dataset], measure) for own in variants
        }
        if not all(isinstance(x, int | float) for x in points):
            continue
        line = {x: y for x, y in points.items() if y is not None}
        with canvas() as figure:
            axes = figure.subplots()
            _draw(axes, {"": line}, styles([""], "", None))
            axes.set_xticks(sorted(line), [f"{x:g}" for x in sorted(line)])
            axes.set_xlabel(key)
            axes.set_ylabel(f"{measure.title} (%)")
            drawing = svg(figure, f"{name}-by-{method}", f"{measure.title} by {key}")
        caption = f"{capitalized(measure.title)} by {key}, all else equal.{_BAND}"
        plots.append(Plot(f"{name}-by-{method}", f"By {key}", caption, drawing))
    return plots


def difference_plots(table: Table, measure: str, name: str) -> list[Plot]:
    """The paired differences in a measure, with their intervals around zero."""
    values = first_column(table, measure)
    if not values:
        return []
    with canvas(380, 74 + 27 * len(values)) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=color("muted"), linewidth=1)
        for y, value in enumerate(values.values()):
            apart = value.low > 0 or value.high < 0
            drawn = color("series-0" if apart else "muted")
            axes.plot([value.low, value.high], [y, y], color=drawn, linewidth=2)
            axes.plot([value.mean], [y], "o", color=drawn, markersize=6)
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"difference in {measure} (points)")
        drawing = svg(figure, name, f"{table.title}, {measure}")
    group = table.groups[0][0]
    caption = (
        f"{table.title}, {measure}{group and f', {group[0].lower()}{group[1:]}'}: mean and 95 % "
        "interval of the paired differences; coloured where it leaves 0 out."
    )
    return [Plot(name, f"{table.title}: {measure}", caption, drawing)]


def _draw(
    axes: Axes,
    lines: Mapping[str, Mapping[Any, Value]],
    looks: Mapping[str, Style],
    whiskers: bool = False,
) -> None:
    """Lines x -> value with their intervals as bands or whiskers, named at their ends."""
    ends = {}
    for row, line in lines.items():
        if not line:
            continue
        x = sorted(line)
        look, mean = looks[row], [line[at].mean for at in x]
        marker = look.marker if len(x) < 7 else ""
        axes.plot(x, mean, marker=marker, markersize=4.5, **look.line())
        low, high = (np.array([getattr(line[at], end) for at in x]) for end in ("low", "high"))
        if whiskers:
            axes.vlines(x, low, high, color=look.color, linewidth=1.2, alpha=0.7)
        elif min(line[at].n for at in x) >= _ENOUGH:
            axes.fill_between(x, low, high, color=look.color, alpha=0.13, linewidth=0)
        if row:
            ends[row] = (x[-1], mean[-1])
    _show_means(axes, [value for line in lines.values() for value in line.values()])
    label_ends(axes, ends, looks)


def _show_means(axes: Axes, values: Sequence[Value]) -> None:
    """Scales to the means: the interval of two seeds may be wider than the whole figure."""
    if values:
        means = [value.mean for value in values]
        beyond = max(2.0, 0.5 * (max(means) - min(means)))
        low = np.nanmin([*means, *(value.low for value in values)])
        high = np.nanmax([*means, *(value.high for value in values)])
        axes.set_ylim(max(low - 1, min(means) - beyond), min(high + 1, max(means) + beyond, 101))
