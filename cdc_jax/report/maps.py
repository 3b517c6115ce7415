"""Heat maps: how alike templates are, and which classes a method takes for one another."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from cdc_jax.report.classes import confusions
from cdc_jax.report.drawing import Plot, Style, color, plot
from cdc_jax.report.families import Family

_LIKENESS = (("template_cosine", "cosine", 1, 2), ("disagreement", "disagreement (%)", 100, 1))
_CLASSES = 16  # that a map shows
_SPLITS = 4
_NAMED = 3  # pairs in the caption
_LONGEST = 22  # characters of a class name beside a map


def template_maps(plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str) -> None:
    """How alike templates are: cosine of class features, and disagreement of choices."""
    each = {
        row: [cell.interpretation for cell in cells if cell.interpretation]
        for row, cells in family.rows.items()
    }
    several = {row: own for row, own in each.items() if own and len(own[0]["disagreement"]) > 1}
    for i, (row, contents) in enumerate(several.items()):
        with plot(plots, "maps", f"{name}-maps{i}", 225, row=row) as figure:
            for axes, (key, title, factor, digits) in zip(
                figure.subplots(1, 2), _LIKENESS, strict=True
            ):
                values = factor * np.mean([content[key] for content in contents], axis=0)
                others = ~np.eye(len(values), dtype=bool)
                low, high = values[others].min(), values[others].max()
                _heat_map(
                    axes, values, [f"t{m + 1}" for m in range(len(values))], others, others,
                    digits, size=9.5 if len(values) <= 4 else 6.5, cmap="cividis",
                    vmin=low, vmax=high if high > low else low + 1,
                )  # fmt: skip
                axes.set(title=title, aspect="equal")


def confusion_maps(
    plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str
) -> None:
    """A map a split that stands for all, of the first row: the reference, if there is one."""
    row = next(row for row in looks if row in family.rows)
    for i, split in enumerate(family.headline[:_SPLITS]):
        entries = confusions(family.rows[row], split)
        wrong = entries[entries.true != entries.predicted]
        if wrong.empty:
            continue
        images = entries.groupby("true").images.sum()
        confused = list(dict.fromkeys(wrong[["true", "predicted"]].to_numpy().flat))
        classes = sorted(confused[:_CLASSES])
        counts = entries.pivot(index="true", columns="predicted", values="images")
        shown = 100 * counts.reindex(classes, columns=classes)
        share = shown.div(images.reindex(classes), axis=0).fillna(0).to_numpy()
        pairs = "; ".join(
            f"{true} as {predicted} ({count} of {images[true]} images)"
            for true, predicted, count in wrong[:_NAMED].itertuples(index=False)
        )
        which = "all classes"
        if len(classes) < len(images):
            which = f"the {len(classes)} classes that are confused most, of {len(images)}"
        names: dict[str, Any] = {"row": row, "split": split, "pairs": pairs, "which": which}
        height = 130 + 17 * len(classes)
        with plot(plots, "confusion", f"{name}-confusion{i}", height, **names) as figure:
            axes = figure.subplots()
            short = [k if len(k) <= _LONGEST else f"{k[: _LONGEST - 1]}…" for k in classes]
            others = ~np.eye(len(classes), dtype=bool) & (share > 0)
            written = share.round() > 0
            _heat_map(axes, share, short, others, written, 0, size=9, cmap="cividis_r", vmin=0)
            axes.tick_params(labelsize=9.5)
            axes.tick_params(axis="x", rotation=90)


def _heat_map(
    axes: Axes, values: np.ndarray, names: list[str], colored: np.ndarray, written: np.ndarray,
    digits: int, size: float, **colors: Any,
) -> None:  # fmt: skip
    """A matrix with colours where `colored`, numbers where `written`, and names beside it."""
    mesh = axes.pcolormesh(np.ma.masked_where(~colored, values), edgecolor="none", **colors)
    places = np.arange(len(names)) + 0.5
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.invert_yaxis()
    for i, k in zip(*np.nonzero(written), strict=True):
        light = np.mean(mesh.cmap(mesh.norm(values[i, k]))[:3]) > 0.45
        ink = ("#111111" if light else "#ffffff") if colored[i, k] else color("muted")
        axes.text(
            k + 0.5, i + 0.5, f"{values[i, k]:.{digits}f}", ha="center", va="center", fontsize=size,
            color=ink,
        )  # fmt: skip
