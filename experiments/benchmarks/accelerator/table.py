"""The report as a table for the terminal, of the same figures as the file."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Measured = Mapping[str, Any]
_STEP = "{:<32} {:>9} {:>9} {:>30} {:>9} {:>9} {:>9} {:>12}"


def text(report: Measured) -> str:
    """All parts, one line a case.

    Args:
      report: of `accelerator.measure`.
    """
    device = report["parts"]["device"]["cases"].get("facts", {})
    head = (
        f"{device.get('devices')} x {device.get('kind')} ({device.get('platform')}), jax "
        f"{report['packages'].get('jax')}, Python {report['python']}, {report['seconds']:.0f} s"
        f"{', tiny sizes' if report['tiny'] else ''}"
    )
    lines = [head]
    for part in report["parts"].values():
        lines += ["", f"{part['title']}: {part.get('seconds', 0):.0f} s"]
        cases = part["cases"]
        if any("program_bytes" in measured for measured in cases.values()):
            lines += _steps(cases, report)
        else:
            lines += [f"  {case:<30} {short(measured)}" for case, measured in cases.items()]
    return "\n".join([*lines, "", LEGEND])


LEGEND = (
    "error: the largest difference from the CPU, in units of a tensor's largest value. Steps run "
    "on one device:\ncompile: seconds in XLA; step: median [min .. max] of the rounds; of rate: "
    "necessary matrix products a second,\nover the device's own rate in that dtype (float32 at "
    "highest precision); program: arguments, results and\ntemporaries by the compiler; peak: the "
    "most bytes on the device, – where it does not say or an earlier step took more;\nproducts: "
    "matrix products in the program, each of which XLA may autotune on a GPU"
)


def short(measured: Measured) -> str:
    """A measurement in one line."""
    if "not_run" in measured:
        return f"not run: {measured['not_run']}"
    if "error" in measured and "passed" not in measured:
        return f"FAILED: {measured['error']}"
    verdict = "" if "passed" not in measured else "passed" if measured["passed"] else "FAILED"
    for key, form in _SHORT.items():
        if key in measured:
            return f"{verdict}{', ' if verdict else ''}{form(measured)}"
    return verdict or ", ".join(f"{key} {value}" for key, value in measured.items())


def _command(measured: Measured) -> str:
    compiled = measured["compiled"]
    slowest = ", ".join(f"{p['program']} {p['seconds']:.1f} s" for p in compiled["slowest"])
    return (
        f"{measured['run_seconds']:.0f} s; {compiled['programs']} programs compiled in "
        f"{compiled['seconds']:.0f} s, the slowest: {slowest}"
    )


_SHORT = {
    "errors": lambda m: f"error {m['error']:.1e} ({m['worst']})",
    "share": lambda m: (
        f"{m['share']:.2%} of {m['cases']} decisions"
        + ("" if m["same_pixels"] else "; other pixels were drawn here than on the CPU")
    ),
    "operations_per_second": lambda m: f"{m['operations_per_second'] / 1e12:.4g} TFLOP/s",
    "compiled": _command,
    "killed_after": lambda m: (
        f"killed after step {m['killed_after']}, "
        + ("equal" if m["equal"] else f"error {m['difference']:.1e}")
    ),
    "program_bytes": lambda m: (
        f"{_milliseconds(m['seconds'])} a step, compiled in {m['compile_seconds']:.1f} s"
    ),
    "torch_seconds": lambda m: (
        f"{_milliseconds(m['torch_seconds'])} a step by PyTorch "
        f"{m['torch']} on {m['torch_device']}, peak {_gigabytes(m['torch_peak_bytes'])}"
    ),
    "kind": lambda m: f"{m['devices']} x {m['kind']} ({m['platform']})",
}
"""How a measurement is told, by a key that only its kind has."""


def _rates(report: Measured) -> dict[str, float]:
    cases = report["parts"]["device"]["cases"]
    return {name: measured.get("operations_per_second", 0.0) for name, measured in cases.items()}


def _torch(report: Measured) -> dict[str, float]:
    """PyTorch's seconds a step, by case."""
    return {
        case: float(np.median(measured["torch_seconds"]))
        for part in report["parts"].values()
        for case, measured in part["cases"].items()
        if "torch_seconds" in measured
    }


def _steps(cases: Mapping[str, Measured], report: Measured) -> Iterator[str]:
    rates, torch = _rates(report), _torch(report)
    heads = ("", "products", "compile", "step", "of rate", "program", "peak", "PyTorch/ours")
    yield _STEP.format(*heads)
    for case, measured in cases.items():
        if "program_bytes" not in measured:
            yield f"  {case:<30} {short(measured)}"
            continue
        middle = np.median(measured["seconds"])
        rate = rates.get("bfloat16" if "bfloat16" in case else "float32")
        share = measured["necessary_operations"] / middle / rate if rate else None
        yield _STEP.format(
            f"  {case}",
            measured["products"],
            f"{measured['compile_seconds']:.1f} s",
            _milliseconds(measured["seconds"]),
            "–" if share is None else f"{share:.0%}",
            _gigabytes(measured["program_bytes"]),
            _gigabytes(measured["peak_bytes"]),
            f"{torch[case] / middle:.2f}" if case in torch else "–",
        )


def _milliseconds(seconds: list[float]) -> str:
    low, middle, high = (1000 * f(seconds) for f in (np.min, np.median, np.max))
    return f"{middle:#.3g} ms [{low:#.3g} .. {high:#.3g}]"


def _gigabytes(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e9:.2f} GB"
