"""Tables as Markdown, CSV and LaTeX."""

import csv
import io
import math
from collections.abc import Sequence

from cdc_jax.escaping import spreadsheet_cell
from cdc_jax.report.table import Column, Row, Table, Value

EXTENSIONS = {"markdown": "md", "csv": "csv", "latex": "tex"}

_HEADLINES = ("H_int", "H", "average")  # what an overview compares by
_PAGE = 45  # rows of a LaTeX table that a page holds
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
        "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": r"\textless{}", ">": r"\textgreater{}", "−": "$-$", "·": r"$\cdot$", "±": r"$\pm$",
        "\n": " ",
    }
)  # fmt: skip
_MARKDOWN = str.maketrans(
    {c: "\\" + c for c in "\\|`*_[]<>&"} | {"\n": " "},
)


def number(value: float, digits: int, signed: bool = False) -> str:
    """A figure; differences carry their sign, with a true minus.

    >>> number(-1.26, 1, signed=True), number(93.0, 1), number(-0.01, 1, signed=True)
    ('−1.3', '93.0', '0.0')
    """
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if not float(text):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def spread(value: Value, digits: int) -> str:
    """Its standard deviation, nothing where there is none."""
    return "" if math.isnan(value.sd) else f"± {number(value.sd, digits)}"


def interval(value: Value, digits: int, signed: bool = False) -> str:
    """Its 95 % interval, nothing where there is none."""
    if math.isnan(value.low):
        return ""
    return f"[{number(value.low, digits, signed)}, {number(value.high, digits, signed)}]"


def best(table: Table) -> set[tuple[int, int, int]]:
    """Positions (group, row, column) of what stands out.

    The best mean of each column among a group's measured rows, of those over the most seeds; in a
    table of differences every one whose interval leaves 0 out.
    """
    found = set()
    for g, (_, rows) in enumerate(table.groups):
        for c, column in enumerate(table.columns):
            values = {
                r: cell
                for r, row in enumerate(rows)
                if isinstance(cell := row.cells[c], Value) and row.mark not in ("published", "room")
            }
            if table.signed:
                found |= {(g, r, c) for r, v in values.items() if v.low > 0 or v.high < 0}
            elif len(values) > 1 and column.falling is not None:
                most = max(v.n for v in values.values())
                rounded = {
                    r: round(v.mean, column.digits) for r, v in values.items() if v.n == most
                }
                top = min(rounded.values()) if column.falling else max(rounded.values())
                found |= {(g, r, c) for r, mean in rounded.items() if mean == top}
    return found


def count(row: Row) -> int:
    """The number of seeds or pairs of a row."""
    return max((cell.n for cell in row.cells if isinstance(cell, Value)), default=0)


def odd_count(cell: Value, row: Row) -> str:
    """Its number where it isn't the row's."""
    return f"(n = {cell.n})" if cell.n != count(row) else ""


def _grouped(table: Table) -> bool:
    return any(title for title, _ in table.groups)


def markdown(table: Table, level: int = 2) -> str:
    """A heading, the table in GitHub's form with means ± sd [95 % interval], caption and notes."""
    bold = best(table)
    head = [*([table.group_head] if _grouped(table) else []), table.head]
    titles = [*head, *(column.title for column in table.columns), "n"]
    lines = [
        f"{'#' * level} {_md(table.title)}",
        "",
        _md(table.where),
        "",
        _md_row([_md(title) for title in titles]),
        _md_row(
            ["---"] * len(head)
            + ["---" if column.text else "---:" for column in table.columns]
            + ["---:"]
        ),
    ]
    for g, (group, rows) in enumerate(table.groups):
        for r, row in enumerate(rows):
            texts = [_md(group)] if _grouped(table) else []
            texts.append(_md(_row_title(row)))
            for c, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True)):
                texts.append(_md_cell(cell, column, row, table.signed, (g, r, c) in bold))
            lines.append(_md_row([*texts, str(count(row) or "–")]))
    lines += ["", _md(table.caption)]
    lines += [f"\nNote: {_md(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def overview(tables: Sequence[Table]) -> str:
    """Of every dataset the means alone, beside the reference's paired difference to each row.

    What a README has room for. The difference is in H_int, H or the average, if there is one.
    """
    differences = {table.shots: table for table in tables if table.name == "differences"}
    lines = []
    for table in tables:
        if table.name != "accuracy":
            continue
        bold, compared = best(table), differences.get(table.shots)
        beside = {}
        heads = [table.head, *(column.title for column in table.columns), "n"]
        if compared:
            titles = [column.title for column in compared.columns]
            c = next((titles.index(title) for title in _HEADLINES if title in titles), 0)
            column = compared.columns[c]
            heads.append(f"{compared.head} minus row, {column.title}")
            for group, rows in compared.groups:
                for row in rows:
                    if isinstance(cell := row.cells[c], Value):
                        mean = number(cell.mean, column.digits, signed=True)
                        said = f"{mean} {interval(cell, column.digits, signed=True)}".strip()
                        beside[group, row.title.removeprefix("− ")] = said
        for g, (group, rows) in enumerate(table.groups):
            lines += [f"## {_md(', '.join(filter(None, [group, table.where])))}", ""]
            lines.append(_md_row([_md(head) for head in heads]))
            lines.append(_md_row(["---"] + ["---:"] * (len(heads) - 1)))
            for r, row in enumerate(rows):
                texts = [_md(_row_title(row))]
                for c, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True)):
                    text = number(cell.mean, column.digits) if isinstance(cell, Value) else "–"
                    texts.append(f"**{text}**" if (g, r, c) in bold else text)
                texts.append(str(count(row) or "–"))
                if compared:
                    texts.append(beside.get((group, row.title), "–"))
                lines.append(_md_row(texts))
            lines.append("")
    return "\n".join(lines)


def _row_title(row: Row) -> str:
    return f"{row.title} ({row.source})" if row.source else row.title


def _md(text: str) -> str:
    return text.translate(_MARKDOWN)


def _md_row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _md_cell(cell: Value | str | None, column: Column, row: Row, signed: bool, bold: bool) -> str:
    if not isinstance(cell, Value):
        return "–" if cell is None else _md(cell)
    mean = number(cell.mean, column.digits, signed)
    parts = [
        f"**{mean}**" if bold else mean,
        spread(cell, column.digits),
        interval(cell, column.digits, signed),
        odd_count(cell, row),
    ]
    return " ".join(part for part in parts if part)


def comma_separated(table: Table) -> str:
    """A line a value: group, row, column, mean, sd, low, high, n, text, source; not rounded.

    Texts are such that no spreadsheet runs them, see `spreadsheet_cell`.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [table.group_head, table.head, "column", "mean", "sd", "low", "high", "n", "text", "source"]
    )
    for group, rows in table.groups:
        for row in rows:
            for cell, column in zip(row.cells, table.columns, strict=True):
                names = [spreadsheet_cell(name) for name in (group, row.title, column.title)]
                source = spreadsheet_cell(row.source)
                if isinstance(cell, Value):
                    figures = [cell.mean, cell.sd, cell.low, cell.high]
                    said = ["" if math.isnan(x) else f"{x:.6f}" for x in figures]
                    writer.writerow([*names, *said, cell.n or "", "", source])
                elif cell is not None:
                    writer.writerow([*names, *[""] * 5, spreadsheet_cell(cell), source])
    for note in table.notes:
        writer.writerow(["", "", "note", *[""] * 5, spreadsheet_cell(note), ""])
    return out.getvalue()


def latex(table: Table) -> str:
    """`table` environments; they need the packages booktabs and graphicx.

    As many groups in one as a page holds; no wider than the text.
    """
    bold = best(table)
    width = len(table.columns) + 2
    columns = "".join("l" if column.text else "r" for column in table.columns)
    titles = [table.head, *(column.title for column in table.columns), "n"]
    bodies: list[list[str]] = [[]]
    for g, (group, rows) in enumerate(table.groups):
        lines = [r"\midrule"]
        if group:
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{_tex(group)}}}}} \\")
        for r, row in enumerate(rows):
            texts = [_tex(_row_title(row))]
            for c, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True)):
                texts.append(_tex_cell(cell, column, row, table.signed, (g, r, c) in bold))
            lines.append(_tex_row([*texts, str(count(row) or "--")]))
        if bodies[-1] and len(bodies[-1]) + len(lines) > _PAGE:
            bodies.append([])
        bodies[-1] += lines
    notes = "".join(f" Note: {_tex(note)}." for note in table.notes)
    made = []
    for body in bodies:
        made += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(table.title)}. {_tex(table.where)}. {_tex(table.caption)}{notes}}}",
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{"
            rf"\begin{{tabular}}{{l{columns}r}}",
            r"\toprule",
            _tex_row([_tex(title) for title in titles]),
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
    return "\n".join(made) + "\n"


def _tex(text: str) -> str:
    return text.translate(_LATEX)


def _tex_row(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"


def _tex_cell(cell: Value | str | None, column: Column, row: Row, signed: bool, bold: bool) -> str:
    if not isinstance(cell, Value):
        return "--" if cell is None else _tex(cell)
    mean = _tex(number(cell.mean, column.digits, signed))
    first = " ".join(
        part
        for part in (
            rf"\textbf{{{mean}}}" if bold else mean,
            _tex(spread(cell, column.digits)),
        )
        if part
    )
    second = " ".join(
        part for part in (interval(cell, column.digits, signed), odd_count(cell, row)) if part
    )
    return rf"\shortstack[r]{{{first}\\{{\scriptsize {_tex(second)}}}}}" if second else first
