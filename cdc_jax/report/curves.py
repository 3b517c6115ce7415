"""Plots of accuracy: by shots, by epochs, by a setting, and paired differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cdc_jax.records import INTERVENTION, SplitRecord
from cdc_jax.report.cells import Cell, read_json
from cdc_jax.report.drawing import Plot, Style, canvas, color, finish, label_ends, styles
from cdc_jax.report.families import Family, varying
from cdc_jax.report.figures import Runs, over_seeds, primary
from cdc_jax.report.table import Table, Value
from cdc_jax.report.tables import capitalized

_ENOUGH = 3  # seeds; the interval of two covers all of a figure
_BAND = f" Bands: 95 % t-intervals over seeds, from {_ENOUGH} on."
_WHERE = {
    "": "",
    "iid": ", where the training correlation holds",
    INTERVENTION: ", under do(task-irrelevant factors)",
}


def few_shot_curves(family: Family, looks: Mapping[str, Style], name: str) -> list[Plot]:
    """The primary measure by shots: of the average of the datasets, and of each."""
    if len(family.shots) == 1 or family.protocol == "transfer":
        return []
    measure = primary(family)
    caption = (
        f"{capitalized(measure.title)} by the number of training images a class. Whiskers: 95 % "
        "t-intervals over seeds."
    )
    runs = {shots: Runs(family, shots, None) for shots in family.shots}
    plots = []
    for i, (title, datasets) in enumerate(family.scopes()):
        values = {shots: own.values(datasets, [measure]) for shots, own in runs.items()}
        title = title or datasets[0]
        with canvas() as figure:
            axes = figure.subplots()
            axes.set_xscale("log", base=2)
            lines = {}
            for place, row in enumerate(family.rows):
                # Side by side, so that whiskers don't cover one another.
                aside = 1.045 ** (place - (len(family.rows) - 1) / 2)
                line = {n * aside: own[row][0] for n, own in values.items() if row in own}
                lines[row] = {x: value for x, value in line.items() if value is not None}
            _draw(axes, lines, looks, whiskers=True)
            axes.set_xticks(family.shots, [str(shots) for shots in family.shots])
            axes.minorticks_off()
            axes.set_xlabel("training images a class")
            axes.set_ylabel(f"{measure.title} (%)")
            label = f"{measure.title} by shots, {title}"
            plots.append(finish(figure, f"{name}-shots{i}", f"By shots: {title}", caption, label))
    return plots


def epoch_curves(
    cells: Mapping[str, Sequence[Cell]], looks: Mapping[str, Style], name: str
) -> list[Plot]:
    """Base and new accuracy after every epoch, the paper's figure 1b; of what kept a curve."""
    curves = {row: _mean_curve(own) for row, own in cells.items()}
    epochs = sorted(
        {epoch for curve in curves.values() for line in curve.values() for epoch in line}
    )
    if not epochs:
        return []
    drawn = {split for curve in curves.values() for split in curve}
    for row, own in cells.items():
        if all(cell.results.steps == 0 for cell in own):  # a level line to compare with
            for split in own[0].splits:
                value = over_seeds(cell.splits[split]["accuracy"] for cell in own)
                curves[row][split] = dict.fromkeys((epochs[0], epochs[-1]), value) if value else {}
    halves = {
        (record.group, record.condition): split
        for own in cells.values()
        for split, record in own[0].records.items()
    }
    plots = []
    for condition in [c for c in _WHERE if halves.get(("base", c)) in drawn]:
        kind = SplitRecord(condition=condition).suffix
        with canvas(380, 380) as figure:
            for axes, half in zip(figure.subplots(2, sharex=True), ("base", "new"), strict=True):
                split = halves.get((half, condition), "")
                _draw(axes, {row: curve.get(split, {}) for row, curve in curves.items()}, looks)
                axes.set_ylabel(f"{half} (%)")
                axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
            axes.set_xlabel("epoch")
            caption = (
                "Accuracy on base classes (above) and new classes (below) after every "
                f"epoch{_WHERE[condition]}. Base rising while new falls is data misalignment."
                f"{_BAND}"
            )
            title = f"Base and new by epochs{condition and f', {condition}'}"
            label = f"base and new by epochs, {kind}"
            plots.append(finish(figure, f"{name}-epochs-{kind}", title, caption, label))
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
    splits = sorted(set(lines.columns) & {split for cell in cells for split in cell.splits})
    return {
        split: {
            epoch: value
            for epoch, own in lines.groupby("epoch")[split]
            if (value := over_seeds(own)) is not None
        }
        for split in splits
    }


def ablation_curves(family: Family, dataset: str, shots: int, name: str) -> list[Plot]:
    """The primary measure by a number that alone differs among a method's variants, such as M."""
    measure, plots = primary(family), []
    values = Runs(family, shots, None).values([dataset], [measure])
    rows = family.at(shots, dataset)
    for method in dict.fromkeys(cells[0].row.row for cells in rows.values()):
        variants = {row: rows[row] for row in family.variants(method) if row in rows}
        keys = varying([cell for cells in variants.values() for cell in cells])
        if len(keys) != 1 or len(variants) < 3:
            continue
        (key,) = keys
        settings: dict[str, Any] = {r: own[0].choices.get(key) for r, own in variants.items()}
        if not all(isinstance(x, int | float) for x in settings.values()):
            continue
        means = {settings[row]: values[row][0] for row in variants if row in values}
        line = {x: value for x, value in means.items() if value is not None}
        with canvas() as figure:
            axes = figure.subplots()
            _draw(axes, {"": line}, styles([""], "", None))
            axes.set_xticks(sorted(line), [f"{x:g}" for x in sorted(line)])
            axes.set_xlabel(key)
            axes.set_ylabel(f"{measure.title} (%)")
            caption = f"{capitalized(measure.title)} by {key}, all else equal.{_BAND}"
            label = f"{measure.title} by {key}"
            plots.append(finish(figure, f"{name}-by-{method}", f"By {key}", caption, label))
    return plots


def difference_plots(table: Table, measure: str, name: str) -> list[Plot]:
    """The paired differences in a measure, with their intervals around zero."""
    values = table.values(measure)
    if not values:
        return []
    group = table.groups[0][0]
    caption = (
        f"{table.title}, {measure}{group and f', {group[0].lower()}{group[1:]}'}: mean and 95 % "
        "interval of the paired differences; coloured where it leaves 0 out."
    )
    with canvas(380, 74 + 27 * len(values)) as figure:
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
        title, label = f"{table.title}: {measure}", f"{table.title}, {measure}"
        return [finish(figure, name, title, caption, label)]


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
