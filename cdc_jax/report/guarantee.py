"""The plot of the risk that validation images guarantee, and of what becomes of it elsewhere."""

from collections.abc import Mapping, Sequence

import numpy as np

from cdc_jax import metrics
from cdc_jax.calibration import DELTA, RISK
from cdc_jax.report.cells import Cell
from cdc_jax.report.drawing import Plot, Style, color, panels, plot
from cdc_jax.report.families import Family
from cdc_jax.report.figures import source_split

_COVERAGE = np.linspace(0.05, 1, 96)
_PANELS = 8  # rows that get a panel, the reference first
_SPLITS = 6  # of different colours


def guaranteed_risk(
    plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str
) -> None:
    """Errors among the images of largest probability, with the rule's point on every line.

    The lines are the splits that stand for all, and before them the split whose images are like
    the validation images.
    """
    splits = [*filter(None, [source_split(family)]), *family.headline]
    splits = list(dict.fromkeys(splits))[:_SPLITS]
    scored = {row: [c for c in family.rows.get(row, ()) if c.scores] for row in looks}
    drawn = {row: cells for row, cells in list(scored.items())[:_PANELS] if cells}
    points = {row: _points(cells, splits) for row, cells in drawn.items()}
    if all(np.isnan(own).all() for own in points.values()):
        return
    records = {s: record for cell in family.cells for s, record in cell.results.splits.items()}
    hues = {split: color(f"series-{i}") for i, split in enumerate(splits)}
    names = {"risk": 100 * RISK, "sure": 100 * (1 - DELTA)}
    height = 58 + 150 * -(-len(drawn) // 2)
    with plot(plots, "guarantee", f"{name}-guarantee", height, **names) as figure:
        labels = ("images decided, the most probable first (%)", "errors among them (%)")
        for row, axes in panels(figure, list(drawn), *labels, share=True):
            axes.axhline(100 * RISK, color=color("muted"), linewidth=0.8, dashes=(3, 2))
            if np.isnan(points[row]).all():
                axes.text(0.04, 0.95, "no rule", transform=axes.transAxes, va="top", fontsize=10)
            for split, point in zip(splits, points[row], strict=True):
                if curves := [_curve(cell, split) for cell in drawn[row] if split in cell.scores]:
                    mean = np.mean(curves, axis=0)
                    axes.plot(100 * _COVERAGE, mean, color=hues[split], linewidth=1.4)
                    axes.plot(*point, "o", markersize=6, color=hues[split], clip_on=False)
            axes.set_xlim(0, 100)
        figure.axes[0].set_ylim(0, None)  # of all panels: none scales itself from here on
        handles = [figure.axes[0].plot([], [], color=hue, linewidth=5)[0] for hue in hues.values()]
        figure.legend(
            handles, [records[split].title(split) for split in splits], loc="outside upper left",
            ncols=3, frameon=False, labelcolor="linecolor", handlelength=0.9, fontsize=11,
        )  # fmt: skip


def _curve(cell: Cell, split: str) -> np.ndarray:
    """The error rate in percent at each of `_COVERAGE`."""
    arrays = cell.scores[split]
    correct = arrays["labels"] == arrays["predicted"]
    coverage, risk = metrics.risk_coverage(-arrays["confidence"].astype(np.float64), correct)
    return 100 * np.interp(_COVERAGE, coverage, risk)


def _points(cells: Sequence[Cell], splits: Sequence[str]) -> np.ndarray:
    """Percent of decided images, and of errors among them, of each split; NaN without a rule.

    The mean over the cells whose rule decides images of the split.
    """
    means = []
    for split in splits:
        figures = [cell.splits[split] for cell in cells if split in cell.splits]
        points = [(own["decided"], own["risk"]) for own in figures if not np.isnan(own["risk"])]
        means.append(np.mean(points, axis=0) if points else (np.nan, np.nan))
    return np.array(means)
