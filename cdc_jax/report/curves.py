"""Plots of accuracy: by shots, by epochs, by a setting, by template, and paired differences."""

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cdc_jax.records import SplitRecord
from cdc_jax.report import tables
from cdc_jax.report.drawing import Plot, Style, color, label_ends, name_rows, plot, styles
from cdc_jax.report.families import Family, plural
from cdc_jax.report.figures import averages, over_seeds, primary, runs
from cdc_jax.report.table import Table, Value, by_methods
from cdc_jax.report.words import words

_PANEL = 225  # CSS pixels of a panel alone; one of several has at least half
_LABEL = 18  # CSS pixels of a label
_ENOUGH = 3  # seeds; the interval of two covers all of a figure


def few_shot_curves(
    plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str, table: Table
) -> None:
    """The primary measure by shots, of the average of the datasets and of each, from its table.

    Of many methods, each group has a panel, in which the reference is repeated.
    """
    measure = primary(family).title
    by_title = {plural(shots): shots for shots in family.shots}
    shots = [by_title[column.title] for column in table.columns]  # empty columns are left out
    for i, (group, rows) in enumerate(table.groups):
        where = group or family.datasets[0]
        parts = by_methods((row, row.cells) for row in rows)
        reference = [(row, row.cells) for row in rows if row.mark == "reference"]
        sizes = [max(_PANEL / min(len(parts), 2), _LABEL * (len(own) + 1)) for _, own in parts]
        names = {"measure": measure, "where": where}
        with plot(plots, "shots", f"{name}-shots{i}", 60 + sum(sizes), **names) as figure:
            grid = figure.subplots(
                len(parts), sharex=True, sharey=True, squeeze=False, height_ratios=sizes
            )
            panels = list(grid.flat)
            for axes, (heading, own) in zip(panels, parts, strict=True):
                own += [line for line in reference if line not in own]
                lines = {}
                for place, (row, cells) in enumerate(own):
                    # Side by side, so that whiskers don't cover one another.
                    aside = 1.045 ** (place - (len(own) - 1) / 2)
                    lines[row.title] = dict(zip(aside * np.array(shots), cells, strict=True))
                axes.set_title(heading)
                axes.set_xscale("log", base=2)
                _draw(axes, lines, looks, whiskers=True)
                axes.set_xticks(family.shots, [str(n) for n in family.shots])
                axes.minorticks_off()
            panels[0].set_ylim(*_limits(v for row in rows for v in row.cells))
            for axes in panels:
                label_ends(axes)


def difference_plot(plots: list[Plot], family: Family, name: str, table: Table) -> None:
    """The paired differences in the primary measure, with their intervals around zero."""
    measure, (group, _) = primary(family).title, table.groups[0]
    if not (values := table.values(measure)):
        return
    names = {"title": table.title, "measure": measure}
    names["group"] = group and f", {group[0].lower()}{group[1:]}"
    with plot(plots, "difference", f"{name}-difference", 74 + 27 * len(values), **names) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=color("muted"), linewidth=1)
        for y, value in enumerate(values.values()):
            hue = color("series-0" if value.sign else "muted")
            axes.plot([value.low, value.high], [y, y], color=hue, linewidth=2)
            axes.plot([value.mean], [y], "o", color=hue, markersize=6)
        name_rows(axes, list(values))


def template_accuracy(
    plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str
) -> None:
    """Each template alone and the fused prediction, a line a row and split, from their table."""
    rows = [row for table in tables.templates(family) for row in table.groups[0][1]]
    if not rows:
        return
    titles = [f"{row.title}, {row.cells[0]}" for row in rows]
    with plot(plots, "templates", f"{name}-templates", 62 + 26 * len(rows)) as figure:
        axes, grey = figure.subplots(), color("muted")
        for y, row in enumerate(rows):
            fused, *single = (cell.mean for cell in row.cells if isinstance(cell, Value))
            hue = looks[row.title].color
            axes.plot([*single, fused], [y] * (len(single) + 1), color=color("grid"), linewidth=2)
            axes.plot(
                single, [y] * len(single), "o", markersize=6, alpha=0.75, color=grey,
                markerfacecolor="none",
            )  # fmt: skip
            axes.plot([fused], [y], "D", markersize=6.5, color=hue)
            texts = (("fused", fused, hue, 10), ("templates alone", np.mean(single), grey, 22))
            for text, x, ink, above in texts if y == 0 else ():
                axes.annotate(
                    text, (x, 0), xytext=(0, above), textcoords="offset points", ha="center",
                    color=ink, fontsize=10,
                )  # fmt: skip
        name_rows(axes, titles, top=-1.4)


def epoch_curves(plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str) -> None:
    """Base and new accuracy after every epoch, the paper's figure 1b; of what kept a curve."""
    cells = ((row, cell) for row, own in family.rows.items() for cell in own)
    lines = pd.DataFrame([{"row": row} | line for row, cell in cells for line in cell.curve])
    for condition, where in words("plots", "epochs", "where").items():
        if family.splits.get(("base", condition)) not in lines.columns:
            continue
        suffix = SplitRecord(condition=condition).suffix
        names: dict[str, Any] = {"suffix": suffix, "where": where, "enough": _ENOUGH}
        names["condition"] = condition and f", {condition}"
        with plot(plots, "epochs", f"{name}-epochs-{suffix}", 380, **names) as figure:
            for axes, half in zip(figure.subplots(2, sharex=True), ("base", "new"), strict=True):
                split = family.splits.get((half, condition), "")
                _draw(axes, _by_epoch(family, lines, split), looks)
                label_ends(axes)
                axes.set_ylabel(f"{half} (%)")
                axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))


def _by_epoch(
    family: Family, lines: pd.DataFrame, split: str
) -> dict[str, dict[Any, Value | None]]:
    """Row -> epoch -> accuracy on a split over the seeds that kept a curve."""
    curves: dict[str, dict[Any, Value | None]] = {}
    for row, cells in family.rows.items():
        own = lines[lines.row == row].groupby("epoch")
        if all(cell.results.steps == 0 for cell in cells) and split in cells[0].splits:
            level = over_seeds([cell.splits[split]["accuracy"] for cell in cells])
            curves[row] = dict.fromkeys((lines.epoch.min(), lines.epoch.max()), level)
        elif split in lines.columns:
            curves[row] = {epoch: over_seeds(x) for epoch, x in own[split]}
    return curves


def ablation_curves(plots: list[Plot], family: Family, name: str) -> None:
    """The primary measure by a number that alone differs among a method's variants, such as M."""
    measure = primary(family)
    for method, variants, (key, *others) in family.ablations():
        chosen = ((row, cells[0].choices) for row, cells in variants.rows.items())
        settings: dict[str, Any] = {row: choices.get(key) for row, choices in chosen}
        numeric = all(isinstance(x, int | float) for x in settings.values())
        if others or len(settings) < 3 or not numeric:
            continue
        values = averages(runs(variants), variants.datasets, [measure])
        line = {settings[row]: cells[0] for row, cells in values.items()}
        names: dict[str, Any] = {"key": key, "enough": _ENOUGH, "measure": measure.title}
        with plot(plots, "ablation", f"{name}-by-{method}", **names) as figure:
            axes = figure.subplots()
            _draw(axes, {"": line}, styles([""], ""))
            axes.set_xticks(sorted(line), [f"{x:g}" for x in sorted(line)])


def _draw(
    axes: Axes, lines: Mapping[str, Mapping[Any, Any]], looks: Mapping[str, Style],
    whiskers: bool = False,
) -> None:  # fmt: skip
    """Lines x -> value with their intervals as bands or whiskers."""
    for row, line in lines.items():
        points = [(x, v.mean, v.low, v.high, v.n) for x, v in sorted(line.items()) if v]
        if not points:
            continue
        x, mean, low, high, n = np.array(points).T
        look = looks[row]
        marker = look.marker if len(x) < 7 else ""
        axes.plot(x, mean, marker=marker, markersize=4.5, **look.line(row))
        if whiskers:
            axes.vlines(x, low, high, color=look.color, linewidth=1.2, alpha=0.7)
        elif n.min() >= _ENOUGH:
            axes.fill_between(x, low, high, color=look.color, alpha=0.13, linewidth=0)
    axes.set_ylim(*_limits(v for line in lines.values() for v in line.values()))


def _limits(values: Iterable[Any]) -> tuple[float, float]:
    """Ends of an axis by the means: an interval of two seeds may be wider than the figure."""
    if not (drawn := [(v.mean, v.low, v.high) for v in values if v]):
        return 0.0, 101.0
    mean, low, high = np.array(drawn).T
    beyond = max(2.0, 0.5 * np.ptp(mean))
    bottom, top = np.nanmin([mean, low]) - 1, np.nanmax([mean, high]) + 1
    return max(bottom, mean.min() - beyond), min(top, mean.max() + beyond, 101)
