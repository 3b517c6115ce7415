"""The renderers of tables as Markdown, CSV and LaTeX; `console` has the one for a terminal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from cdc_jax.escaping import spreadsheet_cell
from cdc_jax.report.table import Shown, Table, Value, interval, joined, number, shown

_HEADLINES = ("H_int", "H", "average")  # what an overview compares by
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


def markdown(table: Table) -> str:
    """A heading, the table in GitHub's form with means ± sd [95 % interval], caption and notes."""
    grouped = any(group for group, _ in table.groups)
    heads = [table.group_head, table.head] if grouped else [table.head]
    lines = [f"## {_md(table.title)}", "", _md(table.where), ""]
    lines += _md_head(heads, [(c.title, c.text) for c in table.columns])
    for group, rows in shown(table):
        for row, cells in rows:
            titles = [_md(group), _md(row.label)] if grouped else [_md(row.label)]
            lines.append(_md_row([*titles, *map(_md_cell, cells), str(row.n or "–")]))
    lines += ["", _md(table.caption), *(f"\nNote: {_md(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def overview(tables: Sequence[Table]) -> str:
    """The means of every dataset, beside the reference's paired difference to each row.

    This is what a README has room for. The difference is in H_int, H or the average, if there is
    one.
    """
    differences = {table.shots: table for table in tables if table.name == "differences"}
    lines = []
    for table in (table for table in tables if table.name == "accuracy"):
        heads = [(column.title, False) for column in table.columns]
        head, beside = _beside(differences.get(table.shots))
        for group, rows in shown(table):
            lines += [f"## {_md(joined_by_comma(group, table.where))}", ""]
            lines += _md_head([table.head], heads, head)
            for row, cells in rows:
                means = [_bold(cell) if cell.kind == "value" else "–" for cell in cells]
                difference = [beside.get((group, row.title), "–")] if head else []
                lines.append(_md_row([_md(row.label), *means, str(row.n or "–"), *difference]))
            lines.append("")
    return "\n".join(lines)


def _beside(table: Table | None) -> tuple[list[str], dict[tuple[str, str], str]]:
    """Title of the column of differences, and group and row -> difference with its interval."""
    if table is None:
        return [], {}
    titles = [column.title for column in table.columns]
    c = next((titles.index(title) for title in _HEADLINES if title in titles), 0)
    digits = table.columns[c].digits
    differences = {
        (group, row.title.removeprefix("− ")): joined(
            number(cell.mean, digits, signed=True), interval(cell, digits, signed=True)
        )
        for group, rows in table.groups
        for row in rows
        if isinstance(cell := row.cells[c], Value)
    }
    return [f"{table.head} minus row, {titles[c]}"], differences


def joined_by_comma(*parts: str) -> str:
    """The parts that are not empty, with commas between."""
    return ", ".join(filter(None, parts))


def _md(text: str) -> str:
    return text.translate(_MARKDOWN)


def _md_row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _md_head(
    heads: Sequence[str], columns: Sequence[tuple[str, bool]], last: Sequence[str] = ()
) -> list[str]:
    titles = [*heads, *(title for title, _ in columns), "n", *last]
    rules = ["---"] * len(heads) + ["---" if text else "---:" for _, text in columns]
    return [_md_row(map(_md, titles)), _md_row(rules + ["---:"] * (1 + len(last)))]


def _bold(cell: Shown) -> str:
    return f"**{cell.main}**" if cell.best else cell.main


def _md_cell(cell: Shown) -> str:
    if cell.kind == "text":
        return _md(cell.main)
    return joined(_bold(cell), cell.spread, cell.interval, cell.count)


def comma_separated(table: Table) -> str:
    """A line a value: group, row, column, mean, sd, low, high, n, text, source; not rounded.

    Texts are such that no spreadsheet runs them, see `spreadsheet_cell`.
    """
    names = [table.group_head, table.head, "column", "text", "source"]
    lines: list[dict[str, Any]] = []
    for group, rows in table.groups:
        for row in rows:
            for cell, column in zip(row.cells, table.columns, strict=True):
                text = cell if isinstance(cell, str) else ""
                texts = map(spreadsheet_cell, (group, row.title, column.title, text, row.source))
                figures = vars(cell) | {"n": cell.n or None} if isinstance(cell, Value) else {}
                if cell is not None:
                    lines.append(dict(zip(names, texts, strict=True)) | figures)
    lines += [{"column": "note", "text": spreadsheet_cell(note)} for note in table.notes]
    columns = [*names[:3], "mean", "sd", "low", "high", "n", *names[3:]]
    frame = pd.DataFrame(lines, columns=columns).astype({"n": "Int64"})
    return frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def latex(table: Table) -> str:
    """`table` environments; they need the packages booktabs and graphicx.

    As many groups in one as a page holds; no wider than the text.
    """
    width = len(table.columns) + 2
    columns = "".join("l" if column.text else "r" for column in table.columns)
    titles = [table.head, *(column.title for column in table.columns), "n"]
    bodies: list[list[str]] = [[]]
    for group, rows in shown(table):
        lines = [r"\midrule"]
        if group:
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{_tex(group)}}}}} \\")
        lines += [
            _tex_row([_tex(row.label), *map(_tex_cell, cells), str(row.n or "--")])
            for row, cells in rows
        ]
        if bodies[-1] and len(bodies[-1]) + len(lines) > _PAGE:
            bodies.append([])
        bodies[-1] += lines
    notes = "".join(f" Note: {_tex(note)}." for note in table.notes)
    head = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(table.title)}. {_tex(table.where)}. {_tex(table.caption)}{notes}}}",
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{"
        rf"\begin{{tabular}}{{l{columns}r}}",
        r"\toprule",
        _tex_row(map(_tex, titles)),
    ]
    foot = [r"\bottomrule", r"\end{tabular}}", r"\end{table}"]
    return "\n".join(line for body in bodies for line in [*head, *body, *foot]) + "\n"


def _tex(text: str) -> str:
    return text.translate(_LATEX)


def _tex_row(texts: Iterable[str]) -> str:
    return " & ".join(texts) + r" \\"


def _tex_cell(cell: Shown) -> str:
    mean = rf"\textbf{{{_tex(cell.main)}}}" if cell.best else _tex(cell.main)
    first, second = joined(mean, _tex(cell.spread)), joined(cell.interval, cell.count)
    return rf"\shortstack[r]{{{first}\\{{\scriptsize {_tex(second)}}}}}" if second else first


RENDERERS: Mapping[str, tuple[str, Callable[[Table], str]]] = {
    "csv": ("csv", comma_separated),
    "latex": ("tex", latex),
}
"""Format of one file a table -> its suffix and its renderer."""
