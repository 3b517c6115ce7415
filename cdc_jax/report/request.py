"""What the user asks of a report. It is checked before JAX is imported, which takes seconds."""

from collections.abc import Sequence
from pathlib import Path

FORMATS = ("html", "markdown", "csv", "latex", "svg")
"""What a report can be written as."""


def check(folders: Sequence[Path | str], formats: Sequence[str] = FORMATS) -> None:
    """Checks the folders and formats of a report.

    Args:
      folders: of runs or sweeps.
      formats: of `FORMATS`.

    Raises:
      FileNotFoundError: a folder is missing.
      ValueError: there is no format, or an unknown one.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise ValueError(f"unknown formats {unknown}: choose some of {', '.join(FORMATS)}")
    for folder in folders:
        if not Path(folder).expanduser().is_dir():
            raise FileNotFoundError(f"no folder {folder}: give folders that runs were written to")
