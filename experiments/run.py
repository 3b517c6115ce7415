"""Runs an experiment: `python experiments/run.py --config=fewshot.py`.

Prints one table and says where the run's files lie. A run that was stopped goes on where it was
when the same command is given again.
"""

from absl import flags

from cdc_jax import config_file, report, train

_CONFIG = config_file.define(__file__, default="fewshot.py")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; one that says what it is.")


def main(_):
    """Adapts, evaluates, prints."""
    config = _CONFIG.value
    workdir = _WORKDIR.value or f"runs/{config.dataset}-{config.shots}shot-seed{config.seed}"
    results = train.train_and_evaluate(config, workdir)
    report.print_table(results)
    print(f"Everything about this run: {workdir}/")


if __name__ == "__main__":
    config_file.run(main, __file__)
