"""The parts of the benchmark, in order of worth."""

import dataclasses
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


PARTS = (
    Part("device", "device", 20, steps.measure_device, _always("facts", *steps.RATES)),
    Part(
        "parity", "parity with a CPU", 60, measure_parity,
        _always("views", *parity.ROWS, "decisions float32", "decisions bfloat16"),
    ),
    Part("steps", "training steps", 120, steps.measure_step, steps.published),
    Part("pytorch", "PyTorch's steps", 40, torch_steps.measure_torch, steps.published),
    Part("command", "first command", 90, runs.measure_command, _always("first command")),
    Part("resume", "kill and resume", 80, runs.measure_resume, _always("kill and resume")),
    Part("batches", "other batch size", 60, steps.measure_step, steps.others),
    Part("pytorch_batches", "PyTorch's", 30, torch_steps.measure_torch, steps.others),
    Part("options", "compile options", 40, steps.measure_option, _always(*steps.OPTIONS)),
)  # fmt: skip
