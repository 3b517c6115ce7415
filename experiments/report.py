"""Makes tables, plots and one HTML page of what runs wrote.

python experiments/report.py runs/
python experiments/report.py runs/sweep --reference=coop_con --formats=markdown,latex
"""

from pathlib import Path

from absl import flags

from cdc_jax import config_file, report
from cdc_jax.escaping import visible

_OUT = flags.DEFINE_string("out", None, "Where to write; <first folder>/report if not given.")
_REFERENCE = flags.DEFINE_string(
    "reference", None, "Method that is compared with every other, paired; cdc if it is there."
)
_FORMATS = flags.DEFINE_list("formats", list(report.FORMATS), "What to write.")


def main(argv):
    """Reads, writes, prints the main table and where everything lies."""
    folders = argv[1:]
    if not folders:
        raise ValueError("give folders of runs: python experiments/report.py runs/")
    made = report.make(folders, _REFERENCE.value, _FORMATS.value)
    out = Path(_OUT.value or Path(folders[0]) / "report")
    report.write(made, out)
    report.print_main(made.main_table)
    for text in made.missing:
        print(text)
    print(visible(f"{len(made.files)} files: {out}/"))
    for name in ("index.html", "tables.md"):
        if name in made.files:
            print(visible(f"  {out / name}"))


if __name__ == "__main__":
    config_file.run(main, __file__)
