"""Plots of what predictions say of themselves: calibration, uncertainty and guarantees."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cdc_jax import metrics
from cdc_jax.calibration import DELTA, RISK
from cdc_jax.report.cells import Cell
from cdc_jax.report.drawing import Plot, Style, color, label_ends, legend, panels, plot
from cdc_jax.report.families import Family
from cdc_jax.report.figures import source_split

_BINS = 10
_COVERAGE = np.linspace(0.05, 1, 96)
_KINDS = {"right": "series-1", "wrong": "series-0", "new class": "series-2"}
_PANELS = 8  # rows that get a panel of their own in small multiples, the reference first
_SPLITS = 6  # of different colours


def risk_coverage(plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str) -> None:
    """Error among the images kept, when the most uncertain are set aside."""
    if not (scores := _scores(family, family.headline, family.rows)):
        return
    with plot(plots, "risk", f"{name}-risk") as figure:
        axes = figure.subplots()
        for row, images in scores.items():
            axes.plot(100 * _COVERAGE, _risk(images, "uncertainty"), **looks[row].line(row))
        axes.set(xlim=(0, 100), ylim=(0, None))
        label_ends(axes)


def reliability(plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str) -> None:
    """Accuracy by confidence, a panel a row."""
    if not (scores := _scores(family, family.headline, list(looks)[:_PANELS])):
        return
    with panels(plots, "reliability", f"{name}-reliability", list(scores), 40, 170) as each:
        for row, axes in each.items():
            look, confidence = looks[row], scores[row].confidence.to_numpy()
            correct = scores[row].correct.to_numpy()
            index = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
            bins = scores[row].groupby(index)[["confidence", "correct"]].mean()
            share = np.bincount(index, minlength=_BINS) / len(index)
            axes.bar(
                (np.arange(_BINS) + 0.5) / _BINS, share, 0.9 / _BINS,
                color=color("muted"), alpha=0.28, linewidth=0,
            )  # fmt: skip
            axes.plot([0, 1], [0, 1], color=color("muted"), linewidth=0.8, dashes=(3, 2))
            axes.plot(
                bins.confidence, bins.correct, marker=look.marker, markersize=4, color=look.color,
                linewidth=look.width, clip_on=False,
            )  # fmt: skip
            ece = 100 * metrics.expected_calibration_error(confidence, correct)
            axes.text(0.04, 0.95, f"ECE {ece:.1f}", va="top", fontsize=10)
            axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            axes.set_aspect("equal")


def guaranteed_risk(
    plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str
) -> None:
    """Errors among the images of largest probability, with the rule's point on every line.

    The lines are the splits that stand for all, and before them the split whose images are like
    the validation images.
    """
    splits = [*filter(None, [source_split(family)]), *family.headline]
    splits = list(dict.fromkeys(splits))[:_SPLITS]
    scores = _scores(family, splits, list(looks)[:_PANELS])
    points = {row: _points(family.rows[row], splits) for row in scores}
    if all(np.isnan(own).all() for own in points.values()):
        return
    hues = {split: color(f"series-{i}") for i, split in enumerate(splits)}
    names: dict[str, Any] = {"risk": 100 * RISK, "sure": 100 * (1 - DELTA)}
    with panels(plots, "guarantee", f"{name}-guarantee", list(scores), 58, 150, **names) as each:
        for row, axes in each.items():
            axes.axhline(100 * RISK, color=color("muted"), linewidth=0.8, dashes=(3, 2))
            if np.isnan(points[row]).all():
                axes.text(0.04, 0.95, "no rule", transform=axes.transAxes, va="top", fontsize=10)
            for split, point in zip(splits, points[row], strict=True):
                if len(images := scores[row][scores[row].split == split]):
                    risk = _risk(images, "improbability")
                    axes.plot(100 * _COVERAGE, risk, color=hues[split], linewidth=1.4)
                    axes.plot(*point, "o", markersize=6, color=hues[split], clip_on=False)
            axes.set_xlim(0, 100)
        first, *_ = each.values()
        first.set_ylim(0, None)  # of all panels: none scales itself from here on
        titles = {family.records[split].title(split): hue for split, hue in hues.items()}
        legend(first, titles)


def uncertainties(plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str) -> None:
    """Uncertainty of right, wrong and new-class images, a panel a row."""
    scores = _scores(family, family.headline, list(looks)[:_PANELS])
    if not (values := {row: _by_kind(images) for row, images in scores.items()}):
        return
    hues = {k: color(hue) for k, hue in _KINDS.items() if any(k in own for own in values.values())}
    new = ", and of images of new classes" if "new class" in hues else ""
    with panels(
        plots, "uncertainty", f"{name}-uncertainty", list(values), 58, 140, share=False, new=new
    ) as each:
        for row, axes in each.items():
            edges = _edges(axes, np.concatenate(list(values[row].values())))
            axes.minorticks_off()
            for kind, own in values[row].items():
                if len(own):
                    share = np.histogram(np.clip(own, edges[0], edges[-1]), edges)[0] / len(own)
                    hue = hues[kind]
                    axes.stairs(100 * share, edges, color=hue, alpha=0.2, fill=True, linewidth=0)
                    axes.stairs(100 * share, edges, color=hue, linewidth=1.4)
        legend(next(iter(each.values())), hues)


def _scores(family: Family, splits: Sequence[str], rows: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Row with scores -> a line an image of some splits: see `Cell.scores`, and what follows."""
    frames = {
        (row, cell.task.seed, split): pd.DataFrame(cell.scores[split])
        for row in rows
        for cell in family.rows.get(row, ())
        for split in cell.scores
        if split in splits
    }
    if not frames:
        return {}
    images = pd.concat(frames, names=["row", "seed", "split"]).reset_index()
    images = images.astype({"confidence": np.float64, "uncertainty": np.float64})
    images["correct"] = images.labels == images.predicted
    images["improbability"] = -images.confidence
    images["group"] = images.split.map({s: record.group for s, record in family.records.items()})
    return dict(iter(images.groupby("row", sort=False)))


def _risk(images: pd.DataFrame, uncertainty: str) -> np.ndarray:
    """Percent of errors at each of `_COVERAGE`, the mean over seeds."""
    curves = [
        metrics.risk_coverage(own[uncertainty].to_numpy(), own.correct.to_numpy())
        for _, own in images.groupby("seed", sort=False)
    ]
    return np.mean([100 * np.interp(_COVERAGE, *curve) for curve in curves], axis=0)


def _points(cells: Sequence[Cell], splits: Sequence[str]) -> np.ndarray:
    """Percent of decided images, and of errors among them, of each split; NaN without a rule.

    The mean over the cells with scores whose rule decides images of the split.
    """
    means = []
    for split in splits:
        figures = [cell.splits[split] for cell in cells if split in cell.scores]
        points = [(own["decided"], own["risk"]) for own in figures if not np.isnan(own["risk"])]
        means.append(np.mean(points, axis=0) if points else (np.nan, np.nan))
    return np.array(means)


def _by_kind(images: pd.DataFrame) -> dict[str, np.ndarray]:
    """Kind of images -> their uncertainties."""
    new = images.group == "new"
    kinds = {"right": images.correct & ~new, "wrong": ~images.correct & ~new}
    if new.any() and (images.group == "base").any():
        kinds["new class"] = new
    return {kind: images.uncertainty[own].to_numpy() for kind, own in kinds.items()}


def _edges(axes: Axes, values: np.ndarray) -> np.ndarray:
    """Edges of a histogram; x is logarithmic for many tiny values and few large ones."""
    low, high = np.quantile(values, [0.005, 1])
    if low > 0 and np.median(values) < 0.05 * high:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(numticks=4))
        axes.xaxis.set_major_formatter("{x:g}")
        return np.geomspace(low, high, 31)
    return np.linspace(low, high if high > low else low + 1, 31)
