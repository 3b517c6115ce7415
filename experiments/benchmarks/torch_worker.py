"""The process that runs PyTorch's side: `python -m benchmarks.torch_worker`. Needs torch, not JAX.

The first line of the input is a JSON object:

  programs  some of `step`, `image` and `product`
  weights   an .npz file: CLIPModel's tensors by name
  config    its config.json
  arrays    an .npz file: the arrays of `torch_forms.Training`, or `pixels` alone
  settings  the settings of `torch_forms.Training`
  dtype     "float32", or "bfloat16" for products under autocast
  device    of PyTorch, "cpu" unless given; only `step` runs on others
  side      of the matrices that `product` multiplies
  threads   of PyTorch
  memory    bytes that the process may allocate; 0 sets no bound

The process answers `{}` when it is ready. Each further line of input names a program to run. The
answer is a line of JSON: `seconds` of the run, the most bytes that the process has held (`peak`; on
a GPU, of its memory), and what the program returns. `{"refused": reason}` says that the memory did
not suffice.
"""

import functools
import json
import re
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import torch_forms

Program = Callable[[], dict[str, Any]]
_OUT_OF_MEMORY = "alloc|memory|could not execute a primitive"  # the last is oneDNN's


def build(task: Mapping[str, Any]) -> dict[str, Program]:
    """The programs that a task names."""
    makers = {"step": _training, "image": _image, "product": _product}
    programs: dict[str, Program] = {}
    for name in task["programs"]:
        programs |= makers[name](task)
    return programs


def _training(task: Mapping[str, Any]) -> dict[str, Program]:
    arrays, autocast = _arrays(task["arrays"]), task["dtype"] != "float32"
    device = task.get("device", "cpu")
    training = torch_forms.Training(_clip(task), arrays, task["settings"], autocast, device)

    def velocity() -> dict[str, Any]:
        return {name: value.tolist() for name, value in training.velocity().items()}

    return {"step": lambda: {"loss": training.step()}, "velocity": velocity}


def _image(task: Mapping[str, Any]) -> dict[str, Program]:
    clip, pixels = _clip(task), torch.from_numpy(_arrays(task["arrays"])["pixels"])

    def forward() -> dict[str, Any]:
        with torch.inference_mode(), _autocast(task):
            clip.image(pixels)
        return {}

    return {"image": forward}


def _product(task: Mapping[str, Any]) -> dict[str, Program]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, task["side"], task["side"], generator=generator).unbind()

    def multiply(a: torch.Tensor, b: torch.Tensor) -> dict[str, Any]:
        with torch.inference_mode():
            a @ b
        return {}

    dtype = getattr(torch, task["dtype"])
    return {"product": functools.partial(multiply, a.to(dtype), b.to(dtype))}


def _clip(task: Mapping[str, Any]) -> torch_forms.Clip:
    device, arrays = task.get("device", "cpu"), _arrays(task["weights"])
    tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    return torch_forms.Clip(tensors, task["config"], task["dtype"])


def _autocast(task: Mapping[str, Any]) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=task["dtype"] != "float32")


def _arrays(path: str) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _peak() -> int:
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    # Linux's ru_maxrss starts at that of the parent.
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _answer(work: Program) -> None:
    """Prints what the work returns, or that the memory did not suffice."""
    try:
        answer = work()
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search(_OUT_OF_MEMORY, str(error)):
            raise
        answer = {"refused": str(error).strip().splitlines()[0]}
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Builds the programs of the first line, and runs those that the other lines name."""
    task, programs = json.loads(sys.stdin.readline()), {}
    torch.set_num_threads(task["threads"])
    if task["memory"]:
        resource.setrlimit(resource.RLIMIT_DATA, (task["memory"], task["memory"]))

    def built() -> dict[str, Any]:
        programs.update(build(task))
        return {}

    def timed(name: str) -> dict[str, Any]:
        start = time.perf_counter()
        answer = programs[name]()
        return answer | {"seconds": time.perf_counter() - start, "peak": _peak()}

    _answer(built)
    for line in sys.stdin:
        _answer(functools.partial(timed, line.strip()))


if __name__ == "__main__":
    main()
