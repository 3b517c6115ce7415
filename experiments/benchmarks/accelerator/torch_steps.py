"""The published PyTorch forms of the training steps, on the same device."""

import contextlib
import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jax
from benchmarks import pytorch
from benchmarks.accelerator import steps
from benchmarks.accelerator.context import Context
from benchmarks.torch_process import TorchCase

WARMUP, CALLS = 2, 10
_ASK = "import torch; print(torch.__version__, torch.cuda.is_available())"


def measure_torch(case: str, context: Context) -> dict[str, Any]:
    """Times PyTorch's step of a case: float32 without TF32, bfloat16 by autocast.

    Each call is timed up to its loss, which PyTorch has to wait for.
    """
    # Weights and inputs are made by JAX, which must not take the device's memory here.
    jax.config.update("jax_platforms", "cpu")
    version, device = _torch(context.torch_python, context.tiny)
    if device is None:
        return {"not_run": version}
    task = pytorch.torch_task(steps.setup(case, context), _folder())
    task |= {"device": device, "memory": 0}
    try:
        with contextlib.closing(TorchCase(context.torch_python, task)) as torch:
            answers = [torch.answer("step") for _ in range(WARMUP + CALLS)][WARMUP:]
    except MemoryError as error:
        return {"error": f"out of memory: {error}"}
    return {
        "torch": version,
        "torch_device": device,
        "torch_seconds": [answer["seconds"] for answer in answers],
        "torch_loss": answers[-1]["loss"],
        "torch_peak_bytes": torch.peak(),
    }


@functools.cache
def _torch(python: str, tiny: bool) -> tuple[str, str | None]:
    """PyTorch's version and device; or the reason why it can't be asked, and None."""
    command = [python, "-c", _ASK]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        return f"needs torch, which {python} cannot import", None
    version, gpu = answer.stdout.split()
    if gpu == "True":
        return version, "cuda"
    if tiny:
        return version, "cpu"
    return f"needs a PyTorch that sees the device, {version} sees no GPU", None


@functools.cache
def _folder() -> Path:
    """Where arrays go for PyTorch, as long as this process lives."""
    return Path(_temporary().name)


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()
