"""Heat maps of the classes that a method takes for one another."""

from collections.abc import Mapping, Sequence

import numpy as np

from cdc_jax.report.classes import Confusion, confusions
from cdc_jax.report.drawing import Plot, Style, color, plot
from cdc_jax.report.families import Family

_CLASSES = 16  # that a map shows
_SPLITS = 4
_NAMED = 3  # pairs in the caption
_LONGEST = 22  # characters of a class name beside a map


def confusion_maps(
    plots: list[Plot], family: Family, looks: Mapping[str, Style], name: str
) -> None:
    """A map a split that stands for all, of the first row: the reference, if there is one."""
    row = next(row for row in looks if row in family.rows)
    for i, split in enumerate(family.headline[:_SPLITS]):
        entries = confusions(family.rows[row], split)
        wrong = [entry for entry in entries if entry.true != entry.predicted]
        if wrong:
            _map(plots, f"{name}-confusion{i}", row, split, entries, wrong)


def _map(
    plots: list[Plot], name: str, row: str, split: str,
    entries: Sequence[Confusion], wrong: Sequence[Confusion],
) -> None:  # fmt: skip
    images: dict[str, int] = {}
    for entry in entries:
        images[entry.true] = images.get(entry.true, 0) + entry.images
    confused = dict.fromkeys(k for entry in wrong for k in (entry.true, entry.predicted))
    classes = sorted(list(confused)[:_CLASSES])
    share = np.zeros((len(classes), len(classes)))
    for entry in entries:
        if entry.true in classes and entry.predicted in classes:
            place = classes.index(entry.true), classes.index(entry.predicted)
            share[place] = 100 * entry.images / images[entry.true]
    pairs = "; ".join(
        f"{entry.true} as {entry.predicted} ({entry.images} of {images[entry.true]} images)"
        for entry in wrong[:_NAMED]
    )
    which = "all classes"
    if len(classes) < len(images):
        which = f"the {len(classes)} classes that are confused most, of {len(images)}"
    said = {"row": row, "split": split, "pairs": pairs, "which": which}
    with plot(plots, "confusion", name, 130 + 17 * len(classes), **said) as figure:
        axes = figure.subplots()
        diagonal = np.eye(len(classes), dtype=bool)
        mesh = axes.pcolormesh(
            np.ma.masked_where(diagonal | (share == 0), share), cmap="cividis_r", vmin=0,
            edgecolor="none",
        )  # fmt: skip
        for i, k in zip(*np.nonzero(share.round()), strict=True):
            dark = not diagonal[i, k] and np.mean(mesh.cmap(mesh.norm(share[i, k]))[:3]) <= 0.45
            axes.text(
                k + 0.5, i + 0.5, f"{share[i, k]:.0f}", ha="center", va="center", fontsize=8,
                color=color("muted") if diagonal[i, k] else "#ffffff" if dark else "#111111",
            )  # fmt: skip
        names = [k if len(k) <= _LONGEST else f"{k[: _LONGEST - 1]}…" for k in classes]
        places = np.arange(len(classes)) + 0.5
        axes.set_xticks(places, names, rotation=90)
        axes.set_yticks(places, names)
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.tick_params(length=0, labelsize=8)
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
        axes.invert_yaxis()
