"""Parity, speed and memory on a GPU or TPU, in at most eight minutes, for a table and a report.

    python experiments/benchmark.py --only=accelerator
      [--accelerator_json=FILE] [--accelerator_seconds=480] [--torch_python=PATH] [--tiny]

The parts run in order of worth: the device's rate of matrix products; parity with answers of a CPU;
training steps of CoOp, MaPLe and CDC at ViT-B/16 sizes with random weights, with the published
batch size, in bfloat16, and PyTorch's where it is installed; the README's first command; a kill and
a resume; the steps in float32; steps with the other batch size; CDC's compilation with other
options. All parts together should take about 22 minutes (`--accelerator_seconds=1320`).

A part whose estimate does not fit the time left is skipped, and a part that takes twice its
estimate is stopped. The table names what was not run. The JSON file is written after every
measurement. Needs jax, flax, optax, orbax, chex and transformers. A part that needs another library
says so where that is missing, and the others run.

Without an accelerator, `--tiny` tries the script on the CPU with small sizes.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from absl import flags
from benchmarks.accelerator import table, worker
from benchmarks.accelerator.context import Context
from benchmarks.accelerator.parts import PARTS, Part

from cdc_jax import writing

FORMAT = 1
Measurements = Generator[tuple[str, dict[str, Any]], None, None]
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "transformers", "torch")


def main() -> None:
    """Runs the parts that fit the time, writes the file, prints the table."""
    values = flags.FLAGS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the part, too
    # Programs of several processes share a GPU, and its peak is what was used.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    context = Context(values.tiny, values.accelerator_seconds, values.torch_python)
    report = measure(Path(values.accelerator_json), context)
    print(f"\n{table.text(report)}\n\nall figures: {values.accelerator_json}")


def measure(file: Path, context: Context) -> dict[str, Any]:
    """Runs the parts that fit the time, and writes what they measure.

    Args:
      file: of the report, JSON.
      context: with the seconds for all parts.

    Returns:
      The report.

    Raises:
      FileExistsError: the file is there.
      ValueError: there is no accelerator, and `tiny` is not asked for.
    """
    if file.exists():
        raise FileExistsError(
            f"--accelerator_json={file} exists: name another file, or delete this one"
        )
    report: dict[str, Any] = {
        "format": FORMAT,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "tiny": context.tiny,
        "budget_seconds": context.seconds,
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "parts": {},
    }
    start = time.monotonic()
    for part in PARTS:
        left = context.seconds - (time.monotonic() - start)
        entry = report["parts"][part.name] = {
            "title": part.title, "estimate_seconds": part.seconds, "cases": {},
        }  # fmt: skip
        print(f"{part.title}: about {part.seconds} s, {left:.0f} s are left", flush=True)
        began = time.monotonic()
        with contextlib.closing(_run(part, left, context)) as measurements:
            for case, measured in measurements:
                entry["cases"][case] = measured
                entry["seconds"] = time.monotonic() - began
                if case == "facts":
                    _require_accelerator(measured, context.tiny)
                _write(file, report)
                print(f"  {case}: {table.short(measured)}", flush=True)
    report["seconds"] = time.monotonic() - start
    _write(file, report)
    return report


def _run(part: Part, left: float, context: Context) -> Measurements:
    """The cases of a part, each with what was measured."""
    cases = part.cases(context.tiny)
    if part.seconds > left:
        return ((case, worker.NO_TIME) for case in cases)
    limit = left if context.tiny else min(2 * part.seconds, left)
    return worker.run(part.measure, cases, dataclasses.replace(context, seconds=limit))


def _require_accelerator(facts: dict[str, Any], tiny: bool) -> None:
    if "error" in facts:
        raise ValueError(f"JAX finds no device that works: {facts['error']}")
    if facts.get("platform") == "cpu" and not tiny:
        raise ValueError(
            "no accelerator: JAX sees only the CPU. Install jax[cuda13] or jax[tpu], or give "
            "--tiny to try the script on the CPU"
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _write(file: Path, report: dict[str, Any]) -> None:
    writing.write_text(file, json.dumps(_plain(report), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    """The value as JSON has it, which knows neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
