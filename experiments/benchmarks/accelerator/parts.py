"""The parts of the benchmark, in order of worth."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from benchmarks.accelerator import parity, runs, steps, torch_steps
from benchmarks.accelerator.context import Context
from benchmarks.accelerator.worker import Measure


@dataclasses.dataclass(frozen=True)
class Part:
    """Measurements that share a process.

    Attributes:
      name: its key in the report.
      title: what the table calls it.
      seconds: estimate of its duration on an accelerator.
      measure: measures a case.
      cases: their names, by whether the work is tiny.
    """

    name: str
    title: str
    seconds: int
    measure: Measure
    cases: Callable[[bool], tuple[str, ...]]


def measure_parity(case: str, context: Context) -> dict[str, Any]:
    """Compares figures or decisions with those of a CPU."""
    kind, _, what = case.partition(" ")
    if kind == "decisions":
        return parity.agreement(
            what, *((1, 240) if context.tiny else (parity.TASKS, parity.IMAGES))
        )
    found = parity.view_figures() if case == "views" else parity.figures(case)
    return parity.compare(found, case)


def _always(*cases: str) -> Callable[[bool], tuple[str, ...]]:
    return lambda tiny: cases


_BFLOAT16, _FLOAT32 = (functools.partial(steps.published, d) for d in ("bfloat16", "float32"))
PARTS = (
    Part("device", "device", 20, steps.measure_device, _always("facts", *steps.RATES)),
    Part(
        "parity", "parity with a CPU", 150, measure_parity,
        _always("views", *parity.ROWS, "decisions float32", "decisions bfloat16"),
    ),
    Part("steps", "training steps in bfloat16", 130, steps.measure_step, _BFLOAT16),
    Part("pytorch", "PyTorch's", 70, torch_steps.measure_torch, _BFLOAT16),
    Part("command", "first command", 110, runs.measure_command, _always("first command")),
    Part("resume", "kill and resume", 100, runs.measure_resume, _always("kill and resume")),
    Part("steps_float32", "training steps in float32", 200, steps.measure_step, _FLOAT32),
    Part("pytorch_float32", "PyTorch's", 60, torch_steps.measure_torch, _FLOAT32),
    Part("batches", "other batch size", 260, steps.measure_step, steps.others),
    Part("pytorch_batches", "PyTorch's", 100, torch_steps.measure_torch, steps.others),
    Part("options", "compile options", 120, steps.measure_option, _always(*steps.OPTIONS)),
)  # fmt: skip
"""The estimates follow a run on an H100, where XLA compiled a step in 27 to 59 s. CDC's steps and
the parts from the first command on found no time there: their estimates are guesses."""
