"""Tables of what runs wrote."""

from collections.abc import Mapping
from typing import Any

import rich.box
import rich.console
import rich.table

from cdc_jax import methods

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
"""Columns of a run's table: keys of `results["summary"]`, as far as it has them -> titles."""


def print_table(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a row a method; everything is in percent.

    Args:
      results: method -> its results.json.
    """
    table = rich.table.Table(
        title="accuracy, harmonic means and calibration in percent",
        box=rich.box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("method", no_wrap=True, min_width=14)
    first = next(iter(results.values()))
    columns = [key for key in COLUMNS if any(key in r["summary"] for r in results.values())]
    for key in columns:
        table.add_column(COLUMNS[key], justify="right")
    for method, result in results.items():
        summary = result["summary"]
        cells = (f"{summary[key]:.1f}" if key in summary else "–" for key in columns)
        table.add_row(methods.title(method), *cells)
    console = rich.console.Console()
    console.print(table)
    if first["note"]:
        console.print(first["note"])
    if count := first["skipped"]["count"]:
        console.print(f"{count} images can't be used and were left out, see results.json")
    if "base_int" not in columns:
        return
    console.print(
        "iid: the training correlation; int: do(task-irrelevant factors); rev: correlation "
        "permuted; style: unseen styles.\nH: harmonic mean of base and new, iid; H_int: the same "
        "under do(). ECE, and AUROC of the uncertainty for errors: int, mean of base and new.",
        highlight=False,
    )
