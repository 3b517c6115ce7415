"""Plots of what predictions say of themselves: calibration and uncertainty."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np

from cdc_jax import metrics
from cdc_jax.report.cells import Cell, scores
from cdc_jax.report.drawing import Plot, Style, color, label_ends, panels, plot
from cdc_jax.report.figures import headline

BINS = 10
_COVERAGE = np.linspace(0.05, 1, 96)
_KINDS = {"right": "series-1", "wrong": "series-0", "new class": "series-2"}
_PANELS = 8  # methods that get a panel of their own in small multiples, the reference first

Scored = Mapping[str, Sequence[Sequence[tuple[str, Mapping[str, np.ndarray]]]]]
"""Row -> seed by seed of each split its group of classes, and its scores by name."""


def trust_plots(
    cells: Mapping[str, Sequence[Cell]], looks: Mapping[str, Style], name: str
) -> list[Plot]:
    """Plots of the scores of the headline splits, of rows whose cells have them."""
    scored: dict[str, Any] = {}
    for row, own in cells.items():
        seeds = [
            [(cell.records[split].group, by_split[split]) for split in headline([cell])]
            for cell in own
            if (by_split := scores(cell))
        ]
        scored |= {row: seeds} if seeds else {}
    plots: list[Plot] = []
    if scored:
        few = {row: scored[row] for row in list(looks)[:_PANELS] if row in scored}
        _risk_coverage(plots, scored, looks, f"{name}-risk")
        _reliability(plots, few, looks, f"{name}-reliability")
        _histograms(plots, few, f"{name}-uncertainty")
    return plots


def _pooled(seeds: Sequence[Any], without: str = "") -> Any:
    """confidence, uncertainty, correct of all images, but those of a group of classes."""
    parts = [arrays for splits in seeds for group, arrays in splits if group != without]
    correct = [a["labels"] == a["predicted"] for a in parts]
    return (
        np.concatenate([a["confidence"] for a in parts]).astype(np.float64),
        np.concatenate([a["uncertainty"] for a in parts]).astype(np.float64),
        np.concatenate(correct),
    )


def _reliability(plots: list[Plot], scored: Scored, looks: Mapping[str, Style], name: str) -> None:
    """Accuracy by confidence, a panel a row."""
    with plot(plots, "reliability", name, 380, 40 + 170 * -(-len(scored) // 2)) as figure:
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


def _risk_coverage(
    plots: list[Plot], scored: Scored, looks: Mapping[str, Style], name: str
) -> None:
    """Error among the images kept, when the most uncertain are set aside."""
    ends = {}
    with plot(plots, "risk", name) as figure:
        axes = figure.subplots()
        for row, seeds in scored.items():
            curves = []
            for _, uncertainty, correct in (_pooled([seed]) for seed in seeds):
                coverage, risk = metrics.risk_coverage(uncertainty, correct)
                curves.append(100 * np.interp(_COVERAGE, coverage, risk))
            mean = np.mean(curves, axis=0)
            axes.plot(100 * _COVERAGE, mean, **looks[row].line())
            ends[row] = (100.0, float(mean[-1]))
        axes.set(xlim=(0, 100), ylim=(0, None), ylabel="errors among them (%)")
        axes.set_xlabel("images kept, the most certain first (%)")
        label_ends(axes, ends, looks)


def _histograms(plots: list[Plot], scored: Scored, name: str) -> None:
    """Uncertainty of right, wrong and new-class images, a panel a row."""
    values = {}
    for row, seeds in scored.items():
        groups = {group for splits in seeds for group, _ in splits}
        _, uncertainty, correct = _pooled(seeds, without="new")
        values[row] = {"right": uncertainty[correct], "wrong": uncertainty[~correct]}
        if {"base", "new"} <= groups:
            values[row]["new class"] = _pooled(seeds, without="base")[1]
    shown = [kind for kind in _KINDS if any(kind in by for by in values.values())]
    new = ", and of images of new classes" if "new class" in shown else ""
    height = 58 + 140 * -(-len(scored) // 2)
    with plot(plots, "uncertainty", name, 380, height, new=new) as figure:
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
        figure.supxlabel("uncertainty, on each method's own scale", fontsize=11)
        figure.supylabel("share of each kind (%)", fontsize=11)
