"""Plots of the templates: each alone beside the fused prediction, and how alike they are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from cdc_jax.report import tables
from cdc_jax.report.drawing import Plot, Style, color, name_rows, plot
from cdc_jax.report.families import Family
from cdc_jax.report.table import Value


def template_accuracy(
    plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str
) -> None:
    """Each template alone and the fused prediction, a line a row and split, from their table."""
    lines = [
        (f"{row.title}, {row.cells[0]}", looks[row.title].color, fused, single)
        for table in tables.templates(family)
        for row in table.groups[0][1]
        for fused, *single in [[cell.mean for cell in row.cells if isinstance(cell, Value)]]
    ]
    if not lines:
        return
    with plot(plots, "templates", f"{name}-templates", 62 + 26 * len(lines)) as figure:
        axes = figure.subplots()
        for y, (_, hue, fused, single) in enumerate(lines):
            axes.plot([*single, fused], [y] * (len(single) + 1), color=color("grid"), linewidth=2)
            axes.plot(
                single, [y] * len(single), "o", markersize=6, alpha=0.75, color=color("muted"),
                markerfacecolor="none",
            )  # fmt: skip
            axes.plot([fused], [y], "D", markersize=6.5, color=hue)
        _, hue, fused, single = lines[0]
        for text, x, ink, above in (
            ("fused", fused, hue, 10),
            ("templates alone", float(np.mean(single)), color("muted"), 22),
        ):
            axes.annotate(
                text, (x, 0), xytext=(0, above), textcoords="offset points", ha="center",
                color=ink, fontsize=10,
            )  # fmt: skip
        name_rows(axes, [title for title, *_ in lines], top=-1.4)
        axes.set_xlabel("accuracy (%)")


def template_maps(plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str) -> None:
    """How alike templates are: cosine of class features, and disagreement of choices."""
    each = ((row, cell.interpretation) for row, cells in family.rows.items() for cell in cells)
    maps: dict[str, list[Any]] = {}
    for row, content in each:
        if content and len(content["template_cosine"]) > 1:
            maps.setdefault(row, []).append((content["template_cosine"], content["disagreement"]))
    for i, (row, seeds) in enumerate(maps.items()):
        with plot(plots, "maps", f"{name}-maps{i}", 225, row=row) as figure:
            left, right = figure.subplots(1, 2)
            cosine, disagreement = np.mean(seeds, axis=0)
            _map(left, "cosine", cosine, 2)
            _map(right, "disagreement (%)", 100 * disagreement, 1)


def _map(axes: Axes, title: str, values: np.ndarray, digits: int) -> None:
    n = len(values)
    diagonal = np.eye(n, dtype=bool)
    low, high = float(values[~diagonal].min()), float(values[~diagonal].max())
    mesh = axes.pcolormesh(
        np.ma.masked_where(diagonal, values), cmap="cividis", vmin=low,
        vmax=high if high > low else low + 1, edgecolor="none",
    )  # fmt: skip
    names = [f"t{m + 1}" for m in range(n)]
    axes.set(xticks=np.arange(n) + 0.5, yticks=np.arange(n) + 0.5, aspect="equal")
    axes.set(xticklabels=names, yticklabels=names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.invert_yaxis()
    for i, j in zip(*np.nonzero(~diagonal), strict=True):
        light = np.mean(mesh.cmap(mesh.norm(values[i, j]))[:3]) > 0.45
        axes.text(
            j + 0.5, i + 0.5, f"{values[i, j]:.{digits}f}", ha="center", va="center",
            fontsize=9.5 if n <= 4 else 6.5, color="#111111" if light else "#ffffff",
        )  # fmt: skip
    axes.set_title(title)
