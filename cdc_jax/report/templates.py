"""Plots of the templates: each alone beside the fused prediction, and how alike they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdc_jax import schema
from cdc_jax.report.cells import Cell, read_json
from cdc_jax.report.drawing import Plot, Style, color, plot
from cdc_jax.report.table import Row, Value

_SQUARE = schema.list_of(schema.list_of(schema.number()))
_NEAR = schema.record(word=schema.text(), distance=schema.number())
_INTERPRETATION = schema.record(
    words=schema.list_of(schema.list_of(schema.list_of(_NEAR))),
    template_cosine=_SQUARE,
    disagreement=_SQUARE,
)


def template_accuracy(rows: Sequence[Row], looks: Mapping[str, Style], name: str) -> list[Plot]:
    """Each template alone and the fused prediction, a line a row and split, from their table."""
    lines = [
        (f"{row.title}, {row.cells[0]}", looks[row.title].color, fused, single)
        for row in rows
        for fused, *single in [[cell.mean for cell in row.cells if isinstance(cell, Value)]]
    ]
    plots: list[Plot] = []
    if not lines:
        return plots
    with plot(plots, "templates", f"{name}-templates", 380, 62 + 26 * len(lines)) as figure:
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
        axes.set_yticks(range(len(lines)), [title for title, *_ in lines])
        axes.set_ylim(len(lines) - 0.5, -1.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("accuracy (%)")
    return plots


def interpretation(cell: Cell) -> dict[str, Any] | None:
    """A cell's `interpretation.json`, checked; None where it has none."""
    path = cell.folder / "interpretation.json"
    if not path.exists():
        return None
    content = read_json(path, _INTERPRETATION)
    for key in ("template_cosine", "disagreement"):
        if any(len(row) != len(content[key]) for row in content[key]):
            raise ValueError(f"{path}: {key} must be square, templates by templates")
    return content


def template_maps(cells: Mapping[str, Sequence[Cell]], name: str) -> list[Plot]:
    """How alike templates are: cosine of class features, and disagreement of choices."""
    by_row = {
        row: [c for c in map(interpretation, own) if c and len(c["template_cosine"]) > 1]
        for row, own in cells.items()
    }
    plots: list[Plot] = []
    for row, contents in by_row.items():
        if not contents:
            continue
        with plot(plots, "maps", f"{name}-maps{len(plots)}", 380, 225, row=row) as figure:
            left, right = figure.subplots(1, 2)
            cosine, disagreement = (
                np.mean([content[key] for content in contents], axis=0)
                for key in ("template_cosine", "disagreement")
            )
            _map(left, "cosine", cosine, 2)
            _map(right, "disagreement (%)", 100 * disagreement, 1)
    return plots


def _map(axes: Any, title: str, values: np.ndarray, digits: int) -> None:
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
    axes.set_title(title, loc="left")
