"""Plots of what predictions say of themselves: calibration and uncertainty."""

from collections.abc import Mapping

import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cdc_jax import metrics
from cdc_jax.report.drawing import Plot, Style, color, label_ends, panels, plot
from cdc_jax.report.families import Family

_BINS = 10
_COVERAGE = np.linspace(0.05, 1, 96)
_KINDS = {"right": "series-1", "wrong": "series-0", "new class": "series-2"}
_PANELS = 8  # methods that get a panel of their own in small multiples, the reference first


def _scores(family: Family) -> dict[str, pd.DataFrame]:
    """Row -> a line an image: confidence, uncertainty, correct, group of its class, seed.

    Of the rows that have scores, and of the splits that stand for all.
    """
    rows: dict[str, list[pd.DataFrame]] = {}
    for row, cells in family.rows.items():
        for cell, split in ((c, split) for c in cells for split in c.scores if split in c.headline):
            images = pd.DataFrame(cell.scores[split])
            images = images.astype({"confidence": np.float64, "uncertainty": np.float64})
            images["correct"] = images.labels == images.predicted
            images["group"] = cell.results.splits[split].group
            images["seed"] = cell.task.seed
            rows.setdefault(row, []).append(images)
    return {row: pd.concat(own, ignore_index=True) for row, own in rows.items()}


def _panels(family: Family, looks: Mapping[str, Style]) -> dict[str, pd.DataFrame]:
    """The scores of the first rows, the reference's before the others'."""
    scores = _scores(family)
    return {row: scores[row] for row in list(looks)[:_PANELS] if row in scores}


def risk_coverage(plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str) -> None:
    """Error among the images kept, when the most uncertain are set aside."""
    if not (scores := _scores(family)):
        return
    ends = {}
    with plot(plots, "risk", f"{name}-risk") as figure:
        axes = figure.subplots()
        for row, images in scores.items():
            curves = []
            for _, own in images.groupby("seed", sort=False):
                uncertainty, correct = own.uncertainty.to_numpy(), own.correct.to_numpy()
                coverage, risk = metrics.risk_coverage(uncertainty, correct)
                curves.append(100 * np.interp(_COVERAGE, coverage, risk))
            mean = np.mean(curves, axis=0)
            axes.plot(100 * _COVERAGE, mean, **looks[row].line())
            ends[row] = (100.0, float(mean[-1]))
        axes.set(xlim=(0, 100), ylim=(0, None), ylabel="errors among them (%)")
        axes.set_xlabel("images kept, the most certain first (%)")
        label_ends(axes, ends, looks)


def reliability(plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str) -> None:
    """Accuracy by confidence, a panel a row."""
    if not (scores := _panels(family, looks)):
        return
    height = 40 + 170 * -(-len(scores) // 2)
    with plot(plots, "reliability", f"{name}-reliability", height) as figure:
        labels = ("probability of the predicted class", "share that is right")
        for row, axes in panels(figure, list(scores), *labels, share=True):
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


def uncertainties(plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str) -> None:
    """Uncertainty of right, wrong and new-class images, a panel a row."""
    values = {row: _by_kind(images) for row, images in _panels(family, looks).items()}
    if not values:
        return
    shown = [kind for kind in _KINDS if any(kind in own for own in values.values())]
    new = ", and of images of new classes" if "new class" in shown else ""
    height = 58 + 140 * -(-len(values) // 2)
    with plot(plots, "uncertainty", f"{name}-uncertainty", height, new=new) as figure:
        labels = ("uncertainty, on each method's own scale", "share of each kind (%)")
        for row, axes in panels(figure, list(values), *labels, share=False):
            edges = _edges(axes, np.concatenate(list(values[row].values())))
            axes.minorticks_off()
            for kind, own in values[row].items():
                if len(own):
                    share = np.histogram(np.clip(own, edges[0], edges[-1]), edges)[0] / len(own)
                    hue = color(_KINDS[kind])
                    axes.stairs(100 * share, edges, color=hue, alpha=0.2, fill=True, linewidth=0)
                    axes.stairs(100 * share, edges, color=hue, linewidth=1.4)
        handles = [
            figure.axes[0].plot([], [], color=color(_KINDS[k]), linewidth=5)[0] for k in shown
        ]
        figure.legend(
            handles, shown, loc="outside upper left", ncols=len(shown), frameon=False,
            labelcolor="linecolor", handlelength=0.9, fontsize=11,
        )  # fmt: skip


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
