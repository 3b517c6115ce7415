"""Tables, plots and a page from the files that runs wrote.

`make` reads folders of runs and makes a report, `write` writes it; `print_table` shows one run.
"""

from etils import epy

with epy.lazy_api_imports(globals()):  # a run prints its table without matplotlib
    from cdc_jax.report.console import COLUMNS, print_main, print_table
    from cdc_jax.report.files import Report, make, write
    from cdc_jax.report.request import FORMATS

__all__ = ["COLUMNS", "FORMATS", "Report", "make", "print_main", "print_table", "write"]
