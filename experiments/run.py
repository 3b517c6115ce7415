"""Runs an experiment: `python experiments/run.py --config=fewshot.py`.

Prints one table and says where the run's files lie. A run that was stopped goes on where it was
when the same command is given again; of a sweep, only what is missing is run.
"""

from absl import flags

from cdc_jax import config_file, report, sweep

_CONFIG = config_file.define(__file__, default="fewshot.py")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; one that says what it is.")


def main(_):
    """Adapts, evaluates, prints."""
    workdir = _WORKDIR.value or "runs"
    try:
        cells = sweep.run(_CONFIG.value, workdir)
    except sweep.SweepError as error:
        raise SystemExit(str(error)) from None
    for cell, results in cells.items():
        print(f"\n{cell}")
        report.print_table(results)
    print(f"Everything about this run: {workdir}/")


if __name__ == "__main__":
    config_file.run(main, __file__)
