"""Runs an experiment: `%s --config=fewshot.py`.

`--config=FILE.py:key=value,…` names fewshot.py, base_to_new.py, cross_dataset.py,
domain_generalization.py or ablation.py of cdc_jax/configs and changes its settings, as
`--config.key=value` does: `fewshot.py:dataset=folder,data.root=photos,shots=4,methods=coop,cdc`. A
setting of one method stands below its row: `--config.cdc.optimizer.epochs=20`.

Prints one table and says where the run's files lie. A run that was stopped goes on where it was
when the same command is given again; of a sweep, only what is missing is run. Exit codes: 0 all is
complete, 1 something failed, 75 stopped by SIGTERM and saved.
"""

from collections.abc import Sequence

from absl import flags

from cdc_jax import config_file, sweep
from cdc_jax.escaping import visible


def define() -> None:
    """Defines the flags."""
    config_file.define(default="fewshot.py")
    flags.DEFINE_string("workdir", None, "Folder for the files of the run; runs/ by default.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0; or CDC_COORDINATOR.")
    flags.DEFINE_integer("processes", None, "How many processes take part; or CDC_PROCESSES.")
    flags.DEFINE_integer("process", None, "Number of this one, from 0; or CDC_PROCESS.")


def main(argv: Sequence[str]) -> None:
    """Adapts, evaluates, prints."""
    options = flags.FLAGS
    workdir = options.workdir or "runs"
    sweep.check(options.config, workdir)
    from cdc_jax import devices, programs, report  # these import JAX, which takes seconds

    programs.keep()
    devices.start(options.coordinator, options.processes, options.process)
    try:
        cells = sweep.run(options.config, workdir)
    except sweep.SweepError as error:
        raise SystemExit(visible(str(error), keep="\n")) from None
    if not devices.is_first():
        return
    for cell, results in cells.items():
        print(f"\n{cell}")
        report.print_table(results)
    print(visible(f"Everything about this run: {workdir}/"))
