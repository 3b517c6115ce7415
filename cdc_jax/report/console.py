"""Tables in a terminal."""

from collections.abc import Mapping
from typing import Any

import rich.box
import rich.console
import rich.table
import rich.text

from cdc_jax.escaping import visible
from cdc_jax.folder_names import folder_name
from cdc_jax.records import INTERVENTION
from cdc_jax.report.formats import count, number, odd_count, spread
from cdc_jax.report.table import Table, Value

COLUMNS = {
    "test": "test",
    "base_test": "base",
    "new_test": "new",
    "H_test": "H",
    "base_iid": "base iid",
    "base_int": "base int",
    "base_rev": "base rev",
    "base_style": "base style",
    "new_iid": "new iid",
    "new_int": "new int",
    "H_iid": "H",
    "H_int": "H_int",
    "ece": "ECE",
    "auroc": "AUROC",
}
"""Columns of a run's table: keys of `results["summary"]`, as far as it has them -> titles. Other
datasets that were tested on follow."""


def print_table(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a row a method; everything is in percent. Says where a folder is called otherwise.

    Args:
      results: method -> its results.json.
    """
    table = rich.table.Table(
        title="accuracy, harmonic means and calibration in percent",
        box=rich.box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("method", min_width=14)
    first = next(iter(results.values()))
    keys = dict.fromkeys(key for result in results.values() for key in result["summary"])
    splits = {
        name: split for result in results.values() for name, split in result["splits"].items()
    }
    targets = [name for name, split in splits.items() if split["group"] == "target"]
    columns = [*(key for key in COLUMNS if key in keys), *targets]
    for key in columns:
        title = COLUMNS[key].replace(" ", "\n") if key in COLUMNS else key.replace("_", "\n")
        heading = rich.text.Text("\n".join(map(visible, title.split("\n"))))
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results.values():
        summary = result["summary"]
        figures = [summary.get(key) for key in columns]
        cells = ("–" if figure is None else f"{figure:.1f}" for figure in figures)
        table.add_row(_text(result["row"]["title"]), *cells)
    console = rich.console.Console()
    # Where many targets make it wider than the terminal, it is printed whole.
    needed = console.measure(table, options=console.options.update(max_width=1000)).minimum
    rich.console.Console(width=max(console.width, needed)).print(table)
    for name, result in results.items():
        if (folder := folder_name(name)) != name:
            console.print(_text(f"{result['row']['title']}: in the folder {folder}"))
    if note := first["task"]["note"]:
        console.print(_text(note))
    if count := len(first["skipped"]):
        console.print(f"{count} images can't be used and were left out, see results.json")
    if not any(split["condition"] == INTERVENTION for split in splits.values()):
        return
    console.print(
        "iid: the training correlation; int: do(task-irrelevant factors); rev: correlation "
        "permuted; style: unseen styles.\nH: harmonic mean of base and new, iid; H_int: the same "
        "under do(). ECE, and AUROC of the uncertainty for errors: int, mean of base and new.",
        highlight=False,
    )


def print_main(table: Table) -> None:
    """Prints a table of means ± standard deviations; of means alone where that is too wide."""
    console = rich.console.Console()
    wide = console.options.update(max_width=1000)
    drawn, narrow = _rich(table, spreads=True), _rich(table, spreads=False)
    if console.measure(drawn, options=wide).maximum > console.width:
        drawn = narrow
    needed = console.measure(drawn, options=wide).maximum
    rich.console.Console(width=max(console.width, needed)).print(drawn)
    for text in (table.caption, *table.notes):
        console.print(_text(text))


def _rich(table: Table, spreads: bool) -> rich.table.Table:
    drawn = rich.table.Table(
        title=_text(f"{table.where}: {table.title}"),
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 2 if spreads else 1, 0, 0),
    )
    drawn.add_column(_text(table.head), no_wrap=True)
    for column in table.columns:
        drawn.add_column(_text(column.title), justify="left" if column.text else "right")
    drawn.add_column("n", justify="right")
    for i, (group, rows) in enumerate(table.groups):
        if group:
            drawn.add_row(rich.text.Text(visible(group), "italic"))
        for row in rows:
            cells = []
            for cell, column in zip(row.cells, table.columns, strict=True):
                if isinstance(cell, Value):
                    parts = [number(cell.mean, column.digits, table.signed)]
                    parts += [spread(cell, column.digits), odd_count(cell, row)] if spreads else []
                    cells.append(" ".join(part for part in parts if part))
                else:
                    cells.append(cell or "–")
            drawn.add_row(*map(_text, (row.title, *cells)), str(count(row) or "–"))
        if i + 1 < len(table.groups):
            drawn.add_section()
    return drawn


def _text(text: str) -> rich.text.Text:
    """What a name may hold is neither markup nor a command to the terminal."""
    return rich.text.Text(visible(text))
