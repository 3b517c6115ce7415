"""Speed and memory on this machine: `python experiments/benchmark.py [--only=evidence,text]`.

Every part prints a table. Compared cases take turns in one run, so that their ratios mean
something on a machine that others use, too; a rate is a share of the rate that matrix products
reach in the same run.
"""

import importlib

from absl import app, flags

from cdc_jax import config_file

PARTS = ("evidence", "text", "step", "pipeline", "lists", "startup")
_ONLY = flags.DEFINE_list("only", list(PARTS), "Parts to run.")


def main(_):
    """Runs the chosen parts in turn."""
    if unknown := set(_ONLY.value) - set(PARTS):
        raise app.UsageError(f"no part {', '.join(unknown)}: there are {', '.join(PARTS)}")
    for part in _ONLY.value:
        print(f"\n== {part}", flush=True)
        importlib.import_module(f"benchmarks.{part}").main()


if __name__ == "__main__":
    config_file.run(main, __file__)
