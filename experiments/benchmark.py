"""Speed and memory on this machine: `python experiments/benchmark.py [--only=evidence,text]`.

Without `--only` all parts run but cost, which runs every method, pytorch, which needs PyTorch, and
accelerator, which needs a GPU or TPU.

Every part prints a table; `> experiments/results/benchmarks/PART.txt` makes the pages that are
kept. Compared cases take turns in one run, so that their ratios mean
something on a machine that others use, too; a rate is a share of the rate that matrix products
reach in the same run.
"""

import importlib
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path

from absl import app, flags

from cdc_jax import config_file

PARTS = ("evidence", "text", "step", "cached", "pipeline", "cache", "lists", "startup")
ON_REQUEST = ("cost", "pytorch", "accelerator")
_ONLY = flags.DEFINE_list("only", list(PARTS), "Parts to run.")
# Of the accelerator part.
flags.DEFINE_string("accelerator_json", "accelerator.json", "The report to write.")
flags.DEFINE_float("accelerator_seconds", 480, "For all measurements.", lower_bound=1)
flags.DEFINE_bool("tiny", False, "Small sizes, to try the part on a CPU.")
# Of the pytorch part.
_METHODS = ["coop", "coop_cached", "kgcoop", "maple", "cdc"]
flags.DEFINE_list("methods", _METHODS, "Rows to compare with PyTorch.")
flags.DEFINE_list("classes", ["10", "100"], "Numbers of classes.")
flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "Of the weights.")
flags.DEFINE_integer("rounds", 3, "How often each step is timed.", lower_bound=1)
flags.DEFINE_string("torch_python", sys.executable, "A Python that has torch.")
flags.register_validator(
    "classes",
    lambda values: all(value.isdecimal() and int(value) > 1 for value in values),
    "--classes must be numbers above 1, such as 10,100",
)


def main(_):
    """Runs the chosen parts in turn."""
    known = (*PARTS, *ON_REQUEST)
    if unknown := set(_ONLY.value) - set(known):
        raise app.UsageError(f"no part {', '.join(unknown)}: there are {', '.join(known)}")
    print(machine())
    for part in _ONLY.value:
        print(f"\n== {part}", flush=True)
        importlib.import_module(f"benchmarks.{part}").main()


def machine() -> str:
    """The machine and the versions, in a line. It asks no device: a TPU serves one process."""
    cpuinfo = Path("/proc/cpuinfo")
    told = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    model = told[1] if told else platform.processor() or platform.machine()
    return (
        f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}, JAX "
        f"{metadata.version('jax')}"
    )


if __name__ == "__main__":
    config_file.run(main)
