"""The renderers of tables as Markdown, CSV and LaTeX; `console` has the one for a terminal.

Text formats are Jinja2 templates in this folder, whose environment escapes every name.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import markupsafe

from cdc_jax.escaping import spreadsheet_cell
from cdc_jax.report.table import Row, Shown, Table, Value, joined, shown
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
    """Templates in which whatever is filled in is text.

    Args:
      escapes: character -> what stands for it; None for HTML's.
      **syntax: delimiters other than Jinja2's own.
    """

    def finalize(value: Any) -> Any:
        if escapes is None or isinstance(value, markupsafe.Markup):
            return value
        return markupsafe.Markup(str(value).translate(escapes))

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("cdc_jax.report", "."), autoescape=True, finalize=finalize,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, **syntax,
    )  # fmt: skip
    templates.globals |= {"shown": shown, "words": words}
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
    """The means of every dataset, beside the reference's paired difference to each row.

    This is what a README has room for.

    Args:
      families: the tables of each family.

    Returns:
      Markdown; nothing without tables of accuracies.
    """
    overviews = [
        (table, *_beside(tables, table.shots))
        for tables in families
        for table in tables
        if table.name == "accuracy"
    ]
    template = _MARKDOWN_TEMPLATES.get_template("overview.md.jinja")
    return template.render(overviews=overviews) if overviews else ""


def _beside(tables: Sequence[Table], shots: int | None) -> tuple[str, dict[tuple[str, str], str]]:
    """Title of the column of differences, and group and row -> difference with its interval.

    The difference is in H_int, H or the average, if there is one.
    """
    for table in tables:
        if (table.name, table.shots) == ("differences", shots):
            c = table.column("H_int", "H", "average") or 0
            texts = {
                (group, row.title.removeprefix("− ")): joined(cells[c].main, cells[c].interval)
                for group, rows in shown(table)
                for row, cells in rows
                if cells[c].kind == "value"
            }
            return f"{table.head} minus row, {table.columns[c].title}", texts
    return "", {}


def comma_separated(table: Table) -> str:
    """A line a value: group, row, column, mean, sd, low, high, n, text, source; not rounded.

    Texts are such that no spreadsheet runs them, see `spreadsheet_cell`.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["column", "mean", "sd", "low", "high", "n", "text", "source"]
    writer.writerow(map(spreadsheet_cell, (table.group_head, table.head, *names)))
    for group, rows in table.groups:
        for row in rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                if cell is not None:
                    titles = map(spreadsheet_cell, (group, row.title, column.title))
                    writer.writerow([*titles, *_figures(cell), spreadsheet_cell(row.source)])
    for note in table.notes:
        writer.writerow(["", "", "note", *[""] * 5, spreadsheet_cell(note), ""])
    return out.getvalue()


def _figures(cell: Value | str) -> list[str]:
    """Mean, sd, low, high, n and text."""
    if isinstance(cell, str):
        return [*[""] * 5, spreadsheet_cell(cell)]
    figures = (cell.mean, cell.sd, cell.low, cell.high)
    texts = ["" if math.isnan(x) else f"{x:.6f}" for x in figures]
    return [*texts, str(cell.n or ""), ""]


def latex(table: Table) -> str:
    """`table` environments; they need the packages booktabs and graphicx.

    As many groups in one as a page holds; no wider than the text.
    """
    pages: list[list[tuple[str, list[tuple[Row, list[Shown]]]]]] = [[]]
    used = 0
    for group, rows in shown(table):
        lines = len(rows) + 1 + bool(group)
        if pages[-1] and used + lines > _PAGE:
            pages.append([])
            used = 0
        pages[-1].append((group, rows))
        used += lines
    return _LATEX_TEMPLATES.get_template("table.tex.jinja").render(table=table, pages=pages)
