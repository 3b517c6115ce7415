"""The page: one HTML file with every table, plot and gallery, that needs no network."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from importlib import resources

from cdc_jax.report.cells import Cell
from cdc_jax.report.curves import Plot
from cdc_jax.report.drawing import stylesheet
from cdc_jax.report.families import Family
from cdc_jax.report.formats import number
from cdc_jax.report.markup import element, html, table_figure
from cdc_jax.report.measures import primary
from cdc_jax.report.parts import Part
from cdc_jax.report.table import capitalized, first_column

_MANY_RUNS = 24  # their table is folded


def page(parts: Sequence[Part], cells: Sequence[Cell], missing: Sequence[str]) -> str:
    """The page as text."""
    methods, tasks = {cell.method for cell in cells}, {cell.dataset for cell in cells}
    title = f"{_many(len(methods), 'method')} on {_many(len(tasks), 'task')}"
    css = stylesheet() + resources.files("cdc_jax.report").joinpath("page.css").read_text()
    links = [(f"#part-{i}", _full_title(part)) for i, part in enumerate(parts, 1)]
    body = [
        element(
            "header",
            element("p", "cdc_jax · report", class_="eyebrow"),
            element("h1", title),
            *(element("p", lead, class_="lead") for lead in _leads(parts)),
        ),
    ]
    sections = [_section(part, i) for i, part in enumerate(parts, 1)]
    sections.append(_runs(cells, missing))
    items = [
        element("li", element("a", text, href=link)) for link, text in [*links, ("#runs", "Runs")]
    ]
    document = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", f"cdc_jax report: {title}"),
            element("style", css),
        ),
        element(
            "body",
            element("div", *body, class_="wide"),
            element("nav", element("ul", *items, class_="wide"), aria_label="parts"),
            element("main", *sections, class_="wide"),
            element(
                "div",
                element(
                    "footer",
                    "Means over seeds with the sample standard deviation (±), the 95 % t-interval "
                    "in brackets and the number n of seeds or pairs. The same runs give the same "
                    "page to the byte.",
                ),
                class_="wide",
            ),
        ),
        lang="en",
    )
    return "<!doctype html>\n" + html(document) + "\n"


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _full_title(part: Part) -> str:
    return f"{part.title}, {part.family.title}" if part.family.title else part.title


def _section(part: Part, i: int) -> ET.Element:
    first, *others = map(table_figure, part.tables)
    children: list[ET.Element | None] = [
        element("p", f"Part {i}", class_="part"),
        element("h2", part.title),
        element("p", _about(part.family), class_="lead"),
        first,
        _grid(part.general),
        element("div", *others, class_="tables") if others else None,
    ]
    shown = [(title, plots) for title, plots in part.plots if plots]
    for title, plots in shown:
        opened = {"open": "open"} if title == shown[0][0] else {}
        folded = element("details", element("summary", title), _grid(plots), **opened)
        children.append(folded if len(shown) > 1 else _grid(plots))
    return element("section", *children, *part.galleries, id=f"part-{i}")


def _grid(plots: Sequence[Plot]) -> ET.Element | None:
    figures = [
        element("figure", element("h3", p.title), p.drawing, element("figcaption", p.caption))
        for p in plots
    ]
    return element("div", *figures, class_="plots") if figures else None


def _about(family: Family) -> str:
    seeds = sorted({cell.seed for cell in family.cells()})
    shots = " and ".join(", ".join(map(str, family.shots)).rsplit(", ", 1))
    parts = [
        f"{len(family.datasets)} datasets" if len(family.datasets) > 1 else "",
        f"{shots} {'shots' if family.shots != (1,) else 'shot'}",
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        family.title,
    ]
    return capitalized(", ".join(part for part in parts if part)) + "."


def _leads(parts: Sequence[Part]) -> list[str]:
    """What the paired differences of each part say, in a sentence."""
    sentences = []
    for part in parts:
        table = next((t for t in reversed(part.tables) if t.name == "differences"), None)
        if table is None:
            if len(part.family.rows) > 1:
                sentences.append(f"{_full_title(part)}: no run of the method to compare with.")
            continue
        measure = primary(part.family).title.replace("average", "average accuracy")
        alone = "compared, on one pair of runs and so without an interval, with"
        known = ("ahead of", "behind", "not separated from", alone)
        verdicts: dict[str, list[str]] = {verdict: [] for verdict in known}
        for row, value in first_column(table, primary(part.family).title).items():
            above, below = value.low > 0, value.high < 0
            verdict = "ahead of" if above else "behind" if below else "not separated from"
            verdict = alone if math.isnan(value.low) else verdict
            points = number(value.mean, 1, signed=True)
            verdicts[verdict].append(f"{row.removeprefix('− ')} ({points})")
        said = [f"{verdict} {', '.join(rows)}" for verdict, rows in verdicts.items() if rows]
        if said:
            sentences.append(
                f"{_full_title(part)}: in {measure}, {part.reference} is {'; '.join(said)}."
            )
    return sentences


def _runs(cells: Sequence[Cell], missing: Sequence[str]) -> ET.Element:
    head = ("run", "seed", "steps", "learned parameters", "device")
    lines = [
        element(
            "tr",
            element("th", cell.name, scope="row"),
            element("td", str(cell.seed)),
            element("td", f"{cell.about['steps']:,}"),
            element("td", f"{cell.about['trainable_parameters']:,}"),
            element("td", str(cell.about["device"]), class_="text"),
        )
        for cell in cells
    ]
    columns = [
        element("th", text, scope="col", **({"class_": "text"} if text == "device" else {}))
        for text in head
    ]
    grid = element("table", element("thead", element("tr", *columns)), element("tbody", *lines))
    figure = element(
        "figure",
        element("div", grid, class_="scroll", tabindex="0", role="region", aria_label="Runs"),
        element("figcaption", "The folders that all of the above was computed from."),
        class_="table",
    )
    if len(cells) > _MANY_RUNS:
        figure = element("details", element("summary", f"{len(cells)} runs"), figure)
    return element(
        "section",
        element("p", "Sources", class_="part"),
        element("h2", "Runs"),
        *(element("p", text, class_="lead") for text in missing),
        figure,
        id="runs",
    )
