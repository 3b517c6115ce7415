"""Plots of the templates: each alone beside the fused prediction, and how alike they are."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdc_jax import schema
from cdc_jax.report.cells import Cell, read_json
from cdc_jax.report.drawing import Plot, Style, canvas, color, finish
from cdc_jax.report.figures import headline

_SQUARE = schema.list_of(schema.list_of(schema.number()))
_NEAR = schema.record(word=schema.text(), distance=schema.number())
_INTERPRETATION = schema.record(
    words=schema.list_of(schema.list_of(schema.list_of(_NEAR))),
    template_cosine=_SQUARE,
    disagreement=_SQUARE,
)
_ALONE = "Accuracy of each template alone (rings) and of the fused prediction, mean of seeds."
_LIKENESS = (
    "Left: mean cosine of the class features of each two templates. Right: share of the test "
    "images on which they choose different classes. Templates that agree are not independent "
    "sources."
)


def template_accuracy(
    cells: Mapping[str, Sequence[Cell]], looks: Mapping[str, Style], name: str
) -> list[Plot]:
    """Each template alone and the fused prediction, a line a row and split."""
    lines = []
    for row, own in cells.items():
        for split in headline(own[:1]):
            alone = [cell.splits[split]["template_accuracy"] for cell in own]
            if min(map(len, alone)) > 1:
                fused = np.mean([cell.splits[split]["accuracy"] for cell in own])
                lines.append((row, split, np.mean(alone, axis=0), fused))
    if not lines:
        return []
    with canvas(380, 62 + 26 * len(lines)) as figure:
        axes = figure.subplots()
        for y, (row, _, single, fused) in enumerate(lines):
            axes.plot([*single, fused], [y] * (len(single) + 1), color=color("grid"), linewidth=2)
            axes.plot(
                single, [y] * len(single), "o", markersize=6, alpha=0.75, color=color("muted"),
                markerfacecolor="none",
            )  # fmt: skip
            axes.plot([fused], [y], "D", markersize=6.5, color=looks[row].color)
        for text, x, hue in (
            ("fused", lines[0][3], looks[lines[0][0]].color),
            ("templates alone", float(np.mean(lines[0][2])), color("muted")),
        ):
            above = 10 if text == "fused" else 22
            axes.annotate(
                text, (x, 0), xytext=(0, above), textcoords="offset points", ha="center",
                color=hue, fontsize=10,
            )  # fmt: skip
        axes.set_yticks(range(len(lines)), [f"{row}, {split}" for row, split, *_ in lines])
        axes.set_ylim(len(lines) - 0.5, -1.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("accuracy (%)")
        title, label = "Templates alone and fused", "accuracy of templates alone and fused"
        return [finish(figure, f"{name}-templates", title, _ALONE, label)]


def interpretation(cell: Cell) -> dict[str, Any] | None:
    """A cell's `interpretation.json`, checked; None where it has none."""
    path = cell.folder / "interpretation.json"
    if not path.exists():
        return None
    content = read_json(path, _INTERPRETATION)
    for key in ("template_cosine", "disagreement"):
        rows = content[key]
        if any(len(row) != len(rows) for row in rows):
            raise ValueError(f"{path}: {key} must be square, templates by templates")
    return content


def template_maps(cells: Mapping[str, Sequence[Cell]], name: str) -> list[Plot]:
    """How alike templates are: cosine of class features, and disagreement of choices."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row, own in cells.items():
        for content in map(interpretation, own):
            if content is not None and len(content["template_cosine"]) > 1:
                found[row].append(content)
    plots = []
    for i, (row, contents) in enumerate(found.items()):
        with canvas(380, 225) as figure:
            for axes, key, title in zip(
                figure.subplots(1, 2),
                ("template_cosine", "disagreement"),
                ("cosine", "disagreement (%)"),
                strict=True,
            ):
                mean = np.mean([content[key] for content in contents], axis=0)
                percent = key == "disagreement"
                _map(axes, 100 * mean if percent else mean, 1 if percent else 2)
                axes.set_title(title, loc="left")
            title, label = f"Likeness of templates: {row}", f"likeness of the templates of {row}"
            plots.append(finish(figure, f"{name}-maps{i}", title, _LIKENESS, label))
    return plots


def _map(axes: Any, values: np.ndarray, digits: int) -> None:
    n = len(values)
    off = values[~np.eye(n, dtype=bool)]
    low, high = float(off.min()), float(off.max())
    mesh = axes.pcolormesh(
        np.ma.masked_where(np.eye(n, dtype=bool), values), cmap="cividis", vmin=low,
        vmax=high if high > low else low + 1, edgecolor="none",
    )  # fmt: skip
    names = [f"t{m + 1}" for m in range(n)]
    axes.set(xticks=np.arange(n) + 0.5, yticks=np.arange(n) + 0.5, aspect="equal")
    axes.set_xticklabels(names)
    axes.set_yticklabels(names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.invert_yaxis()
    for i, j in zip(*np.nonzero(~np.eye(n, dtype=bool)), strict=True):
        light = np.mean(mesh.cmap(mesh.norm(values[i, j]))[:3]) > 0.45
        axes.text(
            j + 0.5, i + 0.5, f"{values[i, j]:.{digits}f}", ha="center", va="center",
            fontsize=9.5 if n <= 4 else 6.5, color="#111111" if light else "#ffffff",
        )  # fmt: skip
