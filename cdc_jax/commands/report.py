"""Makes tables, plots and one HTML page of what runs wrote.

%s runs/
%s runs/sweep --reference=coop_con --formats=markdown,latex
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from cdc_jax import report
from cdc_jax.escaping import visible
from cdc_jax.report import request


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("out", None, "Where to write; <first folder>/report if not given.")
    flags.DEFINE_string(
        "reference", None, "Method that is compared with every other, paired; cdc if it is there."
    )
    flags.DEFINE_list("formats", list(request.FORMATS), "What to write.")


def main(argv: Sequence[str]) -> None:
    """Reads, writes, prints the main table and where everything lies."""
    options = flags.FLAGS
    command, *folders = argv
    if not folders:
        raise ValueError(f"give folders of runs: {command} runs/")
    request.check(folders, options.formats)
    made = report.make(folders, options.reference, options.formats)
    out = Path(options.out or Path(folders[0]) / "report")
    report.write(made, out)
    report.print_main(made.main_table)
    for text in made.missing:
        print(text)
    print(visible(f"{len(made.files)} files: {out}/"))
    for name in ("index.html", "tables.md"):
        if name in made.files:
            print(visible(f"  {out / name}"))
