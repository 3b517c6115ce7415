"""The renderer of tables in a terminal, and the table of a run."""

from collections.abc import Mapping
from typing import Any

import rich.box
import rich.console
import rich.measure
import rich.table
import rich.text

from cdc_jax.escaping import visible
from cdc_jax.folder_names import folder_name
from cdc_jax.records import INTERVENTION
from cdc_jax.report.families import group_of
from cdc_jax.report.table import Column, Row, Table, Value, by_methods, joined, shown
from cdc_jax.report.words import words

COLUMNS: Mapping[str, str] = words("run", "columns")
"""Columns of a run's table: keys of `results["summary"]`, as far as it has them -> titles. Other
datasets that were tested on follow."""


def print_table(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a row a method; everything is in percent. Names the folders of other names.

    Args:
      results: method -> its results.json.
    """
    first = next(iter(results.values()))
    keys = {key for result in results.values() for key in result["summary"]}
    splits = {name: split for one in results.values() for name, split in one["splits"].items()}
    titles = {key: title.replace(" ", "\n") for key, title in COLUMNS.items() if key in keys}
    titles |= {k: k.replace("_", "\n") for k, s in splits.items() if s["group"] == "target"}
    rows = []
    for method, result in results.items():
        figures = map(result["summary"].get, titles)
        cells = tuple(None if figure is None else Value(figure) for figure in figures)
        rows.append(Row(result["row"]["title"], cells, method_group=group_of(method)))
    columns = tuple(map(Column, titles.values()))
    table = Table("run", None, words("run", "title"), "", "", columns, (("", tuple(rows)),))
    console = rich.console.Console()
    drawn = _drawn(table, padding=0, head_width=14)
    # Where many targets make it wider than the terminal, it is printed whole.
    wide = rich.console.Console(width=max(console.width, _width(console, drawn).minimum))
    wide.print(drawn)
    for name, result in results.items():
        if (folder := folder_name(name)) != name:
            console.print(_text(f"{result['row']['title']}: in the folder {folder}"))
    if note := first["task"]["note"]:
        console.print(_text(note))
    if count := len(first["skipped"]):
        console.print(f"{count} images can't be used and were left out, see results.json")
    if any(split["condition"] == INTERVENTION for split in splits.values()):
        console.print(words("run", "legend"), highlight=False)


def print_main(table: Table) -> None:
    """Prints a table of means ± standard deviations; of means alone where that is too wide."""
    console = rich.console.Console()
    drawn = _drawn(table, padding=2, spreads=True)
    if _width(console, drawn).maximum > console.width:
        drawn = _drawn(table, padding=1)
    wide = rich.console.Console(width=max(console.width, _width(console, drawn).maximum))
    wide.print(drawn)
    for text in (table.caption, *table.notes):
        console.print(_text(text))


def _drawn(
    table: Table, padding: int, spreads: bool = False, head_width: int | None = None
) -> rich.table.Table:
    drawn = rich.table.Table(
        title=_text(joined(table.where, table.title, by=": ")),
        box=rich.box.SIMPLE_HEAD,
        padding=(0, padding, 0, 0),
    )
    counted = any(row.n for _, rows in table.groups for row in rows)
    drawn.add_column(_text(table.head), min_width=head_width, no_wrap=head_width is None)
    for column in table.columns:
        heading = _text(column.title, "\n")
        drawn.add_column(heading, justify="left" if column.text else "right", no_wrap=True)
    if counted:
        drawn.add_column("n", justify="right")
    for i, (group, rows) in enumerate(shown(table)):
        if i:
            drawn.add_section()
        if group:
            drawn.add_row(rich.text.Text(visible(group), "italic"))
        for methods, lines in by_methods(rows):
            if methods:
                drawn.add_row(rich.text.Text(methods, "dim"))
            for row, cells in lines:
                texts = [joined(c.main, c.spread, c.count) if spreads else c.main for c in cells]
                count = [str(row.n or "–")] if counted else []
                drawn.add_row(*map(_text, [row.title, *texts, *count]))
    return drawn


def _width(console: rich.console.Console, drawn: rich.table.Table) -> rich.measure.Measurement:
    """The least and the greatest width of a table, however wide the terminal is."""
    return console.measure(drawn, options=console.options.update(max_width=1000))


def _text(text: str, keep: str = "") -> rich.text.Text:
    """What a name may hold is neither markup nor a command to the terminal."""
    return rich.text.Text(visible(text, keep))
