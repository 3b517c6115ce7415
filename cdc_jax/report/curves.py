"""Plots of accuracy: by shots, by epochs, by a setting, and paired differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cdc_jax.records import INTERVENTION, SplitRecord
from cdc_jax.report.cells import Cell, read_json
from cdc_jax.report.drawing import Plot, Style, color, label_ends, plot, styles
from cdc_jax.report.families import Family, varying
from cdc_jax.report.figures import Runs, over_seeds, primary
from cdc_jax.report.table import Table, Value
from cdc_jax.report.tables import plural
from cdc_jax.report.words import capitalized

_ENOUGH = 3  # seeds; the interval of two covers all of a figure
_CONDITIONS = {
    "": "",
    "iid": ", where the training correlation holds",
    INTERVENTION: ", under do(task-irrelevant factors)",
}


def few_shot_curves(
    family: Family, table: Table, looks: Mapping[str, Style], name: str
) -> list[Plot]:
    """The primary measure by shots, of the average of the datasets and of each, from its table."""
    measure = primary(family).title
    by_title = {plural(shots): shots for shots in family.shots}
    shots = [by_title[column.title] for column in table.columns]  # empty columns are left out
    plots: list[Plot] = []
    for i, (group, rows) in enumerate(table.groups):
        names: dict[str, Any] = {"measure": measure, "Measure": capitalized(measure)}
        names["where"] = group or family.datasets[0]
        with plot(plots, "shots", f"{name}-shots{i}", **names) as figure:
            axes = figure.subplots()
            axes.set_xscale("log", base=2)
            lines = {}
            for place, row in enumerate(rows):
                # Side by side, so that whiskers don't cover one another.
                aside = 1.045 ** (place - (len(rows) - 1) / 2)
                values = zip(shots, row.cells, strict=True)
                lines[row.title] = {n * aside: v for n, v in values if isinstance(v, Value)}
            _draw(axes, lines, looks, whiskers=True)
            axes.set_xticks(family.shots, [str(n) for n in family.shots])
            axes.minorticks_off()
            axes.set(xlabel="training images a class", ylabel=f"{measure} (%)")
    return plots


def epoch_curves(
    cells: Mapping[str, Sequence[Cell]], looks: Mapping[str, Style], name: str
) -> list[Plot]:
    """Base and new accuracy after every epoch, the paper's figure 1b; of what kept a curve."""
    curves = {row: _mean_curve(own) for row, own in cells.items()}
    drawn = {split: line for curve in curves.values() for split, line in curve.items()}
    epochs = sorted(
        {epoch for curve in curves.values() for line in curve.values() for epoch in line}
    )
    for row, own in cells.items():
        if epochs and all(cell.results.steps == 0 for cell in own):  # a level line to compare with
            for split in own[0].splits:
                if value := over_seeds(cell.splits[split]["accuracy"] for cell in own):
                    curves[row][split] = dict.fromkeys((epochs[0], epochs[-1]), value)
    halves = {
        (record.group, record.condition): split
        for own in cells.values()
        for split, record in own[0].records.items()
    }
    plots: list[Plot] = []
    for condition in [c for c in _CONDITIONS if halves.get(("base", c)) in drawn]:
        suffix = SplitRecord(condition=condition).suffix
        names = {"suffix": suffix, "where": _CONDITIONS[condition], "enough": _ENOUGH}
        names["condition"] = condition and f", {condition}"
        with plot(plots, "epochs", f"{name}-epochs-{suffix}", 380, 380, **names) as figure:
            for axes, half in zip(figure.subplots(2, sharex=True), ("base", "new"), strict=True):
                split = halves.get((half, condition), "")
                _draw(axes, {row: curve.get(split, {}) for row, curve in curves.items()}, looks)
                axes.set_ylabel(f"{half} (%)")
                axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
            axes.set_xlabel("epoch")
    return plots


def read_curve(cell: Cell) -> list[dict[str, Any]]:
    """The lines of a cell's `curve.jsonl`; none where it has none.

    Raises:
      ValueError: a line without an epoch; the file is named.
    """
    path = cell.folder / "curve.jsonl"
    lines = read_json(path, lines=True) if path.exists() else []
    if any("epoch" not in line for line in lines):
        raise ValueError(f"{path}: a line without an epoch; run that cell again")
    return lines


def _mean_curve(cells: Sequence[Cell]) -> dict[str, dict[float, Value]]:
    """Split -> epoch -> accuracy over the seeds that kept a curve."""
    lines = pd.DataFrame([line for cell in cells for line in read_curve(cell)])
    return {
        split: {x: v for x, own in lines.groupby("epoch")[split] if (v := over_seeds(own))}
        for split in sorted(set(lines.columns) & {split for cell in cells for split in cell.splits})
    }


def ablation_curves(family: Family, dataset: str, shots: int, name: str) -> list[Plot]:
    """The primary measure by a number that alone differs among a method's variants, such as M."""
    measure = primary(family)
    values = Runs(family, shots, None).values([dataset], [measure])
    rows = family.at(shots, dataset)
    plots: list[Plot] = []
    for method in dict.fromkeys(cells[0].row.row for cells in rows.values()):
        variants = {row: rows[row] for row in family.variants(method) if row in rows}
        keys = varying([cell for cells in variants.values() for cell in cells])
        if len(keys) != 1 or len(variants) < 3:
            continue
        (key,) = keys
        settings: dict[str, Any] = {row: own[0].choices.get(key) for row, own in variants.items()}
        if not all(isinstance(x, int | float) for x in settings.values()):
            continue
        line = {settings[row]: cells[0] for row, cells in values.items() if row in settings}
        names: dict[str, Any] = {"key": key, "enough": _ENOUGH, "measure": measure.title}
        names["Measure"] = capitalized(measure.title)
        with plot(plots, "ablation", f"{name}-by-{method}", **names) as figure:
            axes = figure.subplots()
            _draw(axes, {"": line}, styles([""], "", None))
            axes.set_xticks(sorted(line), [f"{x:g}" for x in sorted(line)])
            axes.set(xlabel=key, ylabel=f"{measure.title} (%)")
    return plots


def difference_plots(table: Table, measure: str, name: str) -> list[Plot]:
    """The paired differences in a measure, with their intervals around zero."""
    values, group = table.values(measure), table.groups[0][0]
    plots: list[Plot] = []
    if not values:
        return plots
    names: dict[str, Any] = {"title": table.title, "measure": measure}
    names["group"] = group and f", {group[0].lower()}{group[1:]}"
    with plot(plots, "difference", name, 380, 74 + 27 * len(values), **names) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=color("muted"), linewidth=1)
        for y, value in enumerate(values.values()):
            hue = color("series-0" if value.apart else "muted")
            axes.plot([value.low, value.high], [y, y], color=hue, linewidth=2)
            axes.plot([value.mean], [y], "o", color=hue, markersize=6)
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"difference in {measure} (points)")
    return plots


def _draw(
    axes: Axes,
    lines: Mapping[str, Mapping[Any, Any]],
    looks: Mapping[str, Style],
    whiskers: bool = False,
) -> None:
    """Lines x -> value with their intervals as bands or whiskers, named at their ends."""
    ends = {}
    for row, line in lines.items():
        if not line:
            continue
        x = sorted(line)
        mean, low, high = (
            np.array([getattr(line[at], key) for at in x]) for key in ("mean", "low", "high")
        )
        look = looks[row]
        marker = look.marker if len(x) < 7 else ""
        axes.plot(x, mean, marker=marker, markersize=4.5, **look.line())
        if whiskers:
            axes.vlines(x, low, high, color=look.color, linewidth=1.2, alpha=0.7)
        elif min(line[at].n for at in x) >= _ENOUGH:
            axes.fill_between(x, low, high, color=look.color, alpha=0.13, linewidth=0)
        if row:
            ends[row] = (x[-1], mean[-1])
    if values := [value for line in lines.values() for value in line.values()]:
        # Scaled to the means: the interval of two seeds may be wider than the whole figure.
        means = [value.mean for value in values]
        beyond = max(2.0, 0.5 * (max(means) - min(means)))
        bottom = np.nanmin([*means, *(value.low for value in values)])
        top = np.nanmax([*means, *(value.high for value in values)])
        axes.set_ylim(max(bottom - 1, min(means) - beyond), min(top + 1, max(means) + beyond, 101))
    label_ends(axes, ends, looks)
