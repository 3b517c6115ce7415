"""The page: one HTML file with every table, plot and gallery, that needs no network."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from importlib import resources

import jinja2
import markupsafe

from cdc_jax.report.cells import Cell
from cdc_jax.report.drawing import stylesheet
from cdc_jax.report.parts import Part
from cdc_jax.report.table import joined, shown
from cdc_jax.report.words import words


def page(parts: Sequence[Part], cells: Sequence[Cell], missing: Sequence[str]) -> str:
    """The page as text; names in it are only ever text."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.globals |= {"shown": shown, "joined": joined, "words": words}
    environment.filters["svg"] = _svg
    folder = resources.files("cdc_jax.report")
    html, css = (folder.joinpath(name).read_text("utf-8") for name in ("page.html", "page.css"))
    methods, tasks = {cell.row.row for cell in cells}, {cell.task.dataset for cell in cells}
    return environment.from_string(html).render(
        title=f"{_many(len(methods), 'method')} on {_many(len(tasks), 'task')}",
        css=markupsafe.Markup(stylesheet() + css),
        leads=list(filter(None, (part.lead for part in parts))),
        parts=parts,
        cells=cells,
        missing=missing,
    )


def _svg(drawing: ET.Element) -> markupsafe.Markup:
    return markupsafe.Markup(ET.tostring(drawing, encoding="unicode", method="html"))


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
