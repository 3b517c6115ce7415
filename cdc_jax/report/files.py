"""A report as files: complete in memory, then written."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from cdc_jax import writing
from cdc_jax.report import request
from cdc_jax.report.cells import find
from cdc_jax.report.classes import class_files
from cdc_jax.report.drawing import standalone
from cdc_jax.report.families import Family, arrange
from cdc_jax.report.formats import comma_separated, latex, markdown, overview
from cdc_jax.report.page import page, part
from cdc_jax.report.request import FORMATS
from cdc_jax.report.table import Table
from cdc_jax.report.tables import family_tables

_DRAWN_FROM = ("curve", "interpretation", "gallery", "scores")


@dataclasses.dataclass(frozen=True)
class Report:
    """Tables, files (path below the report's folder -> content), and what is `missing`.

    The latter are sentences about cells that failed or haven't finished, and so are in no table.
    """

    tables: Sequence[Table]
    files: Mapping[str, str]
    missing: Sequence[str]

    @property
    def main_table(self) -> Table:
        """The first: the accuracies of the first family, or what it reaches by shots."""
        return self.tables[0]


def make(
    folders: Sequence[Path | str],
    reference: str | None = None,
    formats: Sequence[str] = FORMATS,
) -> Report:
    """Makes a report of what runs wrote; the same files give the same report to the byte.

    Args:
      folders: of runs or sweeps; all cells below them are read.
      reference: method that is compared with every other, paired by cell; None takes the row
        whose role that is.
      formats: of `FORMATS`.

    Returns:
      `index.html`, `tables.md`, `overview.md`, `tables/*.csv`, `tables/*.tex` and `plots/*.svg`.

    Raises:
      FileNotFoundError: a folder that isn't there.
      ValueError: no finished run, a broken file (it is named), two runs of the same settings and
        seed with different results, or an unknown reference or format.
    """
    request.check(folders, formats)
    cells, unfinished, failed = find(folders)
    missing = [f"Not finished, and in no table: {', '.join(unfinished)}."] if unfinished else []
    missing += [f"Failed, see error.txt there: {', '.join(failed)}."] if failed else []
    drawn = bool({"html", "svg"} & set(formats))
    if drawn:  # a broken file stops the report before anything is drawn
        for cell in cells:
            for optional in _DRAWN_FROM:
                getattr(cell, optional)
    families = [(family, family_tables(family)) for family in arrange(cells, reference)]
    tables = [table for _, own in families for table in own]
    files = {}
    if "markdown" in formats:
        files = {"tables.md": markdown(tables), "overview.md": overview(own for _, own in families)}
    for family, own in families:
        files |= _table_files(family, own, formats)
    parts = [part(family, own) for family, own in families if drawn]
    if "svg" in formats:
        plots = [p for one in parts for _, own in [("", one.general), *one.plots] for p in own]
        files |= {f"plots/{plot.name}.svg": standalone(plot.drawing) for plot in plots}
    if "html" in formats:
        files["index.html"] = page(parts, cells, missing)
    return Report(tables, {name: text for name, text in files.items() if text}, missing)


def write(report: Report, out: Path | str) -> None:
    """Writes a report's files; each is either complete or as it was."""
    for name, content in report.files.items():
        path = Path(out).expanduser() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        writing.write_text(path, content)


def _table_files(family: Family, tables: Sequence[Table], formats: Sequence[str]) -> dict[str, str]:
    """The CSV and LaTeX files of a family."""
    csv, texts = "csv" in formats, dict[str, str]()
    for table in tables:
        name = f"tables/{family.name}-{table.name}" + f"-{table.shots}shot" * bool(table.shots)
        texts[f"{name}.csv"] = comma_separated(table) if csv else ""
        texts[f"{name}.tex"] = latex(table) if "latex" in formats else ""
    for name, text in class_files(family).items() if csv else ():
        texts[f"tables/{family.name}-{name}.csv"] = text
    return texts
