"""How plots look: figures drawn in named colours, and SVG that takes them from the page.

matplotlib draws in placeholder colours; in the SVG they become CSS variables, so that one drawing
is legible on light and on dark paper. The series' colours are Okabe and Ito's, for colour-blind
readers, darkened for light paper and lightened for dark.
"""

import contextlib
import dataclasses
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import scipy.optimize
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cdc_jax.report.words import titled, words

COLORS = {
    "ink": ("#22252b", "#e6e4df"), "muted": ("#6a6f78", "#9a9ea6"), "grid": ("#dcd9d2", "#34383f"),
    "series-0": ("#c8500a", "#ff9350"), "series-1": ("#0069a8", "#62b5f0"),
    "series-2": ("#00825f", "#3cc79b"), "series-3": ("#a84a86", "#e59cc9"),
    "series-4": ("#96700a", "#e8b93f"), "series-5": ("#2f8fc4", "#a9dcff"),
    "series-6": ("#6a4fb0", "#b3a0f0"), "series-7": ("#5d6068", "#aeb2ba"),
}  # fmt: skip
"""Name -> its colour on light and on dark paper."""

_DRAWN = {name: f"#f0f0{i:02x}" for i, name in enumerate(COLORS)}
_MARKERS = "osD^vPX<>"
_WIDTH = 380  # of a figure, in CSS pixels
_DASHES = ((), (4, 1.5), (1.5, 1.5), (6, 1.5, 1.5, 1.5))
_NEUTRAL = len([name for name in COLORS if name.startswith("series")]) - 1
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_SETTINGS: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "cdc_jax", "text.parse_math": False,
    "font.size": 11, "axes.titlesize": 11, "axes.labelsize": 11, "figure.labelsize": 11,
    "axes.titlelocation": "left", "xtick.labelsize": 10, "ytick.labelsize": 10,
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.linewidth": 0.7, "axes.axisbelow": True, "grid.color": _DRAWN["grid"],
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), _DRAWN["muted"]),
    **dict.fromkeys(("axes.labelcolor", "axes.titlecolor", "text.color"), _DRAWN["ink"]),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor"), "none"),
}  # fmt: skip


def color(name: str) -> str:
    """What matplotlib draws a named colour in."""
    return _DRAWN[name]


@dataclasses.dataclass(frozen=True)
class Plot:
    """A drawing with its title, and a caption that says what is seen."""

    name: str
    title: str
    caption: str
    drawing: ET.Element


@dataclasses.dataclass(frozen=True)
class Style:
    """How a row is drawn in every plot: colour, marker, dashes, line width."""

    color: str
    marker: str
    dashes: tuple[float, ...]
    width: float

    def line(self, label: str) -> dict[str, Any]:
        """Arguments of `Axes.plot`; `label_ends` writes the label."""
        look = {"color": self.color, "dashes": self.dashes, "linewidth": self.width}
        return look | {"label": label}


def styles(
    rows: Sequence[str], reference: str | None, neutral: str | None = None
) -> dict[str, Style]:
    """A style for each row: the reference stands out, one (zero-shot) is grey."""
    special = {
        neutral: Style(color(f"series-{_NEUTRAL}"), _MARKERS[1], (1.5, 1.5), 1.4),
        reference: Style(color("series-0"), _MARKERS[0], (), 2.2),
    }
    looks = {row: special[row] for row in rows if row in special}
    for i, row in enumerate(row for row in rows if row not in special):
        again, hue = divmod(i, _NEUTRAL - 1)
        marker = _MARKERS[2 + i % (len(_MARKERS) - 2)]
        dashes = _DASHES[again % len(_DASHES)]
        looks[row] = Style(color(f"series-{1 + hue}"), marker, dashes, 1.4)
    return {row: looks[row] for row in rows}


@contextlib.contextmanager
def plot(
    plots: list[Plot], kind: str, name: str, height: float = 285, **names: Any
) -> Iterator[Figure]:
    """An empty figure, whose drawing is added to the plots at the end.

    Args:
      plots: to be extended.
      kind: of plot; `words.toml` has its texts, into which the other names go.
      name: unique on the page; begins every id.
      height: in CSS pixels.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the reader's own matplotlibrc says
        matplotlib.rcParams.update(_SETTINGS)
        figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
        yield figure
        texts = words("plots", kind)
        labels = {key: texts[key].format(**names) for key in ("xlabel", "ylabel") if key in texts}
        figure.axes[-1].set(**labels)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=_NO_METADATA)
    drawing = _svg(out.getvalue(), name, words("plots", kind, "label", **names))
    plots.append(Plot(name, *titled("plots", kind, **names), drawing))


def _svg(text: str, name: str, label: str) -> ET.Element:
    """An `svg` element for a page that sets `COLORS` as CSS variables."""
    for key, drawn in _DRAWN.items():
        text = text.replace(drawn, f"var(--{key})")
    root = ET.fromstring(text)
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        node.attrib = {
            key.rpartition("}")[2]: re.sub(r"(?<=^#)|(?<=url\(#)", f"{name}-", value)
            for key, value in node.attrib.items()
        }
        if "id" in node.attrib:
            node.attrib["id"] = f"{name}-{node.attrib['id']}"
    for key in ("width", "height", "version"):
        del root.attrib[key]
    root.attrib |= {"role": "img", "aria-label": label}
    return root


def standalone(drawing: ET.Element) -> str:
    """An `svg` element as a file of its own, with its colours for light and dark."""
    root = ET.fromstring(ET.tostring(drawing))
    root.attrib["xmlns"] = "http://www.w3.org/2000/svg"
    style = ET.Element("style")
    style.text = stylesheet()
    root.insert(0, style)
    return ET.tostring(root, encoding="unicode") + "\n"


def stylesheet() -> str:
    """`COLORS` as CSS variables, by the reader's colour scheme."""
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in COLORS.items()) for i in (0, 1))
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def label_ends(axes: Axes) -> None:
    """Writes each line's label beside its last point, apart from one another."""
    lines = {str(line.get_label()): line for line in axes.lines}
    last = {name: np.asarray(line.get_xydata())[-1] for name, line in lines.items()}
    if not (names := sorted(lines, key=lambda name: (last[name][1], name))):
        return
    low, high = axes.get_ylim()
    height = axes.bbox.height / axes.figure.dpi * 72
    gap = 12.5 / height * (high - low)
    steps = gap * np.arange(len(names))
    wanted = np.array([last[name][1] for name in names])
    # The nearest positions, in least squares, that keep the gap.
    placed = scipy.optimize.isotonic_regression(wanted - steps).x + steps
    placed += min(0, high + gap / 2 - placed[-1])
    for name, y in zip(names, placed, strict=True):
        hue = lines[name].get_color()
        axes.annotate(
            name, last[name], xytext=(1.04, y), textcoords=("axes fraction", "data"), color=hue,
            fontsize=10, va="center", annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "linewidth": 0.6, "color": hue, "alpha": 0.6, "shrinkA": 1,
                "shrinkB": 2,
            },
        )  # fmt: skip


@contextlib.contextmanager
def panels(
    plots: list[Plot], kind: str, name: str, rows: Sequence[str], above: float, height: float,
    share: bool = True, **names: Any,
) -> Iterator[dict[str, Axes]]:  # fmt: skip
    """Small multiples in two columns, a panel a row, as a `plot`.

    Args:
      plots, kind, name, names: as for `plot`; the kind's words have the titles of x and y.
      rows: titles of the panels.
      above: CSS pixels beside the panels.
      height: of a panel.
      share: whether the panels share the scale of x.
    """
    lines = -(-len(rows) // 2)
    with plot(plots, kind, name, above + height * lines, **names) as figure:
        grid = list(figure.subplots(lines, 2, sharex=share, sharey=True, squeeze=False).flat)
        for axes in grid[len(rows) :]:
            axes.remove()
        each = dict(zip(rows, grid, strict=False))
        for axes in list(each.values())[-2:]:
            axes.xaxis.set_tick_params(labelbottom=True)
        for row, axes in each.items():
            axes.set_title(row, fontsize=10.5)
        yield each
        figure.supxlabel(words("plots", kind, "supxlabel"))
        figure.supylabel(words("plots", kind, "supylabel"))


def legend(axes: Axes, hues: Mapping[str, str]) -> None:
    """A legend above all panels: texts in their colours."""
    handles = [axes.plot([], [], color=hue, linewidth=5)[0] for hue in hues.values()]
    axes.figure.legend(
        handles, list(hues), loc="outside upper left", ncols=3, frameon=False,
        labelcolor="linecolor", handlelength=0.9, fontsize=11,
    )  # fmt: skip


def name_rows(axes: Axes, names: Sequence[str], top: float = -0.5) -> None:
    """A row a name, from the top down, for values along x; `top` leaves room above them."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, top)
    axes.grid(axis="y", visible=False)
