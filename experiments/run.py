"""Runs an experiment: `python experiments/run.py --config=fewshot.py`.

`--config=FILE.py:key=value,…` names a file of experiments/configs and changes its settings, as
`--config.key=value` does. Prints one table and says where the run's files lie. A run that was
stopped goes on where it was when the same command is given again; of a sweep, only what is missing
is run. Exit codes: 0 all is complete, 1 something failed, 75 stopped by SIGTERM and saved.
"""

from absl import flags

from cdc_jax import config_file, sweep
from cdc_jax.escaping import visible

_CONFIG = config_file.define(__file__, default="fewshot.py")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; one that says what it is.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "See devices.start; or CDC_COORDINATOR.")
_PROCESSES = flags.DEFINE_integer("processes", None, "How many take part; or CDC_PROCESSES.")
_PROCESS = flags.DEFINE_integer("process", None, "Number of this one, from 0; or CDC_PROCESS.")


def main(_):
    """Adapts, evaluates, prints."""
    workdir = _WORKDIR.value or "runs"
    sweep.check(_CONFIG.value, workdir)
    from cdc_jax import devices, programs, report  # these import JAX, which takes seconds

    programs.keep()
    devices.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    try:
        cells = sweep.run(_CONFIG.value, workdir)
    except sweep.SweepError as error:
        raise SystemExit(visible(str(error), keep="\n")) from None
    if not devices.is_first():
        return
    for cell, results in cells.items():
        print(f"\n{cell}")
        report.print_table(results)
    print(visible(f"Everything about this run: {workdir}/"))


if __name__ == "__main__":
    config_file.run(main, __file__)
