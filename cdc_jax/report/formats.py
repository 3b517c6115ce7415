"""The renderers of tables as Markdown, CSV and LaTeX; `console` has the one for a terminal.

Text formats are Jinja2 templates in this folder, whose environment escapes every name.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import pandas as pd

from cdc_jax.escaping import spreadsheet_cell
from cdc_jax.report.table import Line, Table, Value, by_methods, joined, shown
from cdc_jax.report.words import words

_PAGE = 45  # rows of a LaTeX table that a page holds
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
        "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": r"\textless{}", ">": r"\textgreater{}", "−": "$-$", "·": r"$\cdot$", "±": r"$\pm$",
        "–": "--", "\n": " ",
    }
)  # fmt: skip
_MARKDOWN = str.maketrans({c: "\\" + c for c in "\\|`*_[]<>&"} | {"\n": " "})


def environment(escapes: Mapping[int, str] | None = None, **syntax: Any) -> jinja2.Environment:
    """Templates in which whatever is filled in is text, escaped by a table or else as HTML."""

    def finalize(value: Any) -> Any:
        if escapes is None or isinstance(value, markupsafe.Markup):
            return value
        return markupsafe.Markup(str(value).translate(escapes))

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("cdc_jax.report", "."), autoescape=True, finalize=finalize,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, **syntax,
    )  # fmt: skip
    templates.globals |= {"shown": shown, "by_methods": by_methods, "words": words}
    return templates


_MARKDOWN_TEMPLATES = environment(_MARKDOWN)
_LATEX_TEMPLATES = environment(
    _LATEX, block_start_string="<%", block_end_string="%>", variable_start_string="<<",
    variable_end_string=">>", comment_start_string="<#", comment_end_string="#>",
)  # fmt: skip


def markdown(tables: Sequence[Table]) -> str:
    """Tables in GitHub's form with means ± sd [95 % interval], each with caption and notes."""
    return _MARKDOWN_TEMPLATES.get_template("tables.md.jinja").render(tables=tables)


def overview(families: Iterable[Sequence[Table]]) -> str:
    """What a README has room for: means, beside the reference's paired difference to each row.

    It is Markdown of the tables of each family, and empty without tables of accuracies.
    """
    overviews = []
    for tables in families:
        paired = {table.shots: table for table in tables if table.name == "differences"}
        measured = [table for table in tables if table.name == "accuracy"]
        overviews += [(table, *_beside(paired.get(table.shots))) for table in measured]
    template = _MARKDOWN_TEMPLATES.get_template("overview.md.jinja")
    return template.render(overviews=overviews) if overviews else ""


def _beside(table: Table | None) -> tuple[str, dict[tuple[str, str], str]]:
    """Title of the differences in H_int, H or the average, and (group, row) -> difference."""
    if table is None:
        return "", {}
    c = table.column("H_int", "H", "average") or 0
    texts = {
        (group, row.title.removeprefix("− ")): joined(cells[c].main, cells[c].interval)
        for group, rows in shown(table)
        for row, cells in rows
        if cells[c].kind == "value"
    }
    return f"{table.head} minus row, {table.columns[c].title}", texts


def comma_separated(table: Table) -> str:
    """A line a value: group, row, column, mean, sd, low, high, n, text, source; not rounded."""
    lines = [
        (group, row.title, column.title, *_figures(cell), row.source)
        for group, rows in table.groups
        for row in rows
        for column, cell in zip(table.columns, row.cells, strict=True)
        if cell is not None
    ]
    lines += [("", "", "note", *_figures(note), "") for note in table.notes]
    titles = ["column", "mean", "sd", "low", "high", "n", "text", "source"]
    return csv_text(pd.DataFrame(lines, columns=[table.group_head, table.head, *titles]))


def csv_text(lines: pd.DataFrame) -> str:
    """A CSV file; its texts are such that no spreadsheet runs them, see `spreadsheet_cell`."""
    texts = lines.map(lambda x: spreadsheet_cell(x) if isinstance(x, str) else x)
    texts.columns = [spreadsheet_cell(str(title)) for title in lines.columns]
    return texts.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def _figures(cell: Value | str) -> tuple[float | str, ...]:
    """Mean, sd, low, high, n and text."""
    if isinstance(cell, str):
        return (*[math.nan] * 4, "", cell)
    return cell.mean, cell.sd, cell.low, cell.high, str(cell.n or ""), ""


def latex(table: Table) -> str:
    """`table` environments of a page each; they need the packages booktabs and graphicx."""
    pages, used = list[list[tuple[str, list[Line]]]](), _PAGE
    for group, rows in shown(table):
        lines = len(rows) + len(by_methods(rows)) + bool(group)
        if not pages or used + lines > _PAGE:
            pages.append([])
            used = 0
        pages[-1].append((group, rows))
        used += lines
    return _LATEX_TEMPLATES.get_template("table.tex.jinja").render(table=table, pages=pages)
