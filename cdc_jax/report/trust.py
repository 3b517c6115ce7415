"""Plots of what predictions say of themselves: calibration and uncertainty."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np

from cdc_jax import metrics
from cdc_jax.report.cells import Cell, scores
from cdc_jax.report.drawing import Plot, Style, canvas, color, finish, label_ends, panels
from cdc_jax.report.figures import headline

Scored = Mapping[str, Sequence[Sequence[tuple[str, Mapping[str, np.ndarray]]]]]
"""Row -> seed by seed of each split its group of classes, and its scores by name."""

BINS = 10
_COVERAGE = np.linspace(0.05, 1, 96)
_RELIABILITY = (
    "How often predictions of a given probability are right; on the dashed line they are "
    "calibrated, below it too sure. Grey bars: share of the images. All seeds pooled."
)
_RISK = (
    "Error among the images kept when the most uncertain are set aside: a good uncertainty falls "
    "early to the left. Mean over seeds."
)


def read_scores(cells: Mapping[str, Sequence[Cell]]) -> Scored:
    """The scores of the headline splits, of rows whose cells have them."""
    found = {}
    for row, own in cells.items():
        chosen = [
            [(cell.records[split].group, by_split[split]) for split in headline([cell])]
            for cell in own
            if (by_split := scores(cell))
        ]
        if chosen:
            found[row] = chosen
    return found


def _pooled(seeds: Sequence[Any], without: str = "") -> Any:
    """confidence, uncertainty, correct of all images, but those of a group of classes."""
    parts = [arrays for splits in seeds for group, arrays in splits if group != without]
    correct = [a["labels"] == a["predicted"] for a in parts]
    return (
        np.concatenate([a["confidence"] for a in parts]).astype(np.float64),
        np.concatenate([a["uncertainty"] for a in parts]).astype(np.float64),
        np.concatenate(correct),
    )


def reliability(scored: Scored, looks: Mapping[str, Style], name: str) -> list[Plot]:
    """Accuracy by confidence, a panel a row."""
    if not scored:
        return []
    with canvas(380, 40 + 170 * -(-len(scored) // 2)) as figure:
        for row, axes in panels(figure, list(scored), share=True).items():
            confidence, _, correct = _pooled(scored[row])
            index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
            count = np.bincount(index, minlength=BINS)
            there = count > 0
            mean = np.bincount(index, confidence, BINS)[there] / count[there]
            right = np.bincount(index, correct, BINS)[there] / count[there]
            axes.bar(
                (np.arange(BINS) + 0.5) / BINS, count / count.sum(), 0.9 / BINS,
                color=color("muted"), alpha=0.28, linewidth=0,
            )  # fmt: skip
            axes.plot([0, 1], [0, 1], color=color("muted"), linewidth=0.8, dashes=(3, 2))
            axes.plot(
                mean, right, marker=looks[row].marker, markersize=4, color=looks[row].color,
                linewidth=looks[row].width, clip_on=False,
            )  # fmt: skip
            ece = 100 * metrics.expected_calibration_error(confidence, correct)
            axes.text(0.04, 0.95, f"ECE {ece:.1f}", va="top", fontsize=10)
            axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            axes.set_aspect("equal")
        figure.supxlabel("probability of the predicted class", fontsize=11)
        figure.supylabel("share that is right", fontsize=11)
        title, label = "Reliability", "reliability diagrams"
        return [finish(figure, f"{name}-reliability", title, _RELIABILITY, label)]


def risk_coverage(scored: Scored, looks: Mapping[str, Style], name: str) -> list[Plot]:
    """Error among the images kept, when the most uncertain are set aside."""
    if not scored:
        return []
    ends = {}
    with canvas() as figure:
        axes = figure.subplots()
        for row, seeds in scored.items():
            curves = []
            for seed in seeds:
                _, uncertainty, correct = _pooled([seed])
                coverage, risk = metrics.risk_coverage(uncertainty, correct)
                curves.append(100 * np.interp(_COVERAGE, coverage, risk))
            mean = np.mean(curves, axis=0)
            axes.plot(100 * _COVERAGE, mean, **looks[row].line())
            ends[row] = (100.0, float(mean[-1]))
        axes.set(xlim=(0, 100), ylim=(0, None))
        axes.set_xlabel("images kept, the most certain first (%)")
        axes.set_ylabel("errors among them (%)")
        label_ends(axes, ends, looks)
        title, label = "Risk and coverage", "risk-coverage curves"
        return [finish(figure, f"{name}-risk", title, _RISK, label)]


def histograms(scored: Scored, name: str) -> list[Plot]:
    """Uncertainty of right, wrong and new-class images, a panel a row."""
    if not scored:
        return []
    kinds = {"right": "series-1", "wrong": "series-0", "new class": "series-2"}
    values = {}
    for row, seeds in scored.items():
        groups = {group for splits in seeds for group, _ in splits}
        _, known, correct = _pooled(seeds, without="new")
        values[row] = {"right": known[correct], "wrong": known[~correct]}
        if {"base", "new"} <= groups:
            values[row]["new class"] = _pooled(seeds, without="base")[1]
    shown = [kind for kind in kinds if any(kind in by for by in values.values())]
    with canvas(380, 58 + 140 * -(-len(scored) // 2)) as figure:
        for row, axes in panels(figure, list(scored), share=False).items():
            joined = np.concatenate(list(values[row].values()))
            low, high = np.quantile(joined, [0.005, 1])
            edges = np.linspace(low, high if high > low else low + 1, 31)
            # Many tiny values and few large ones say more on a logarithmic scale.
            if low > 0 and np.median(joined) < 0.05 * high:
                edges = np.geomspace(low, high, 31)
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(numticks=4))
                axes.xaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
            for kind, x in values[row].items():
                if len(x):
                    share = np.histogram(np.clip(x, edges[0], edges[-1]), edges)[0] / len(x)
                    hue = color(kinds[kind])
                    axes.stairs(100 * share, edges, color=hue, alpha=0.2, fill=True, linewidth=0)
                    axes.stairs(100 * share, edges, color=hue, linewidth=1.4)
        handles = [
            figure.axes[0].plot([], [], color=color(kinds[kind]), linewidth=5)[0] for kind in shown
        ]
        figure.legend(
            handles, shown, loc="outside upper left", ncols=len(shown), frameon=False,
            labelcolor="linecolor", handlelength=0.9, fontsize=11,
        )  # fmt: skip
        figure.supxlabel("uncertainty, on each method's own scale", fontsize=11)
        figure.supylabel("share of each kind (%)", fontsize=11)
        also = ", and of images of new classes" if "new class" in shown else ""
        caption = (
            f"The head's uncertainty of images that are predicted rightly and wrongly{also}. The "
            "further apart, the better it warns. All seeds pooled."
        )
        label = "histograms of uncertainty"
        return [finish(figure, f"{name}-uncertainty", "Uncertainty", caption, label)]
