"""Time, memory and floating-point operations of compiled programs, each in a process of its own."""

import contextlib
import dataclasses
import functools
import math
import multiprocessing
import re
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdc_jax import clip as clip_lib
from cdc_jax import programs as programs_lib

Build = Callable[..., dict[str, tuple[Callable, tuple]]]
VIT_B16 = clip_lib.ClipConfig.from_hf({"model_type": "clip", "vision_config": {"patch_size": 16}})
_SHORTEST = 0.1  # seconds of a measurement
PRODUCT = 2048  # side of the square matrices whose product is the machine's rate


# ---- Floating-point operations


def product_flops(compiled: str) -> int:
    """Floating-point operations of all matrix products in the text of a compiled program.

    XLA's own `cost_analysis` counts the body of a loop once, whatever its trip count; here a
    body counts as often as XLA says it runs. Elementwise work is left out: two operations for
    each multiply-add of a `dot`, nothing else.

    On GPUs, calls of cuBLAS are products, too.

    Args:
      compiled: `jax.stages.Compiled.as_text()`.

    Raises:
      ValueError: a loop that contains products has no known trip count.
    """
    computations, entry = _computations(compiled)

    @functools.cache
    def flops(name: str) -> int:
        shapes: dict[str, list[int]] = {}
        total = 0
        for line in computations[name]:
            result = re.match(r"(?:ROOT )?%?([\w.-]+) = \(?\w+\[([\d,]*)\]", line)
            if result:
                shapes[result[1]] = _integers(result[2])
            if product := re.search(_PRODUCT, line):
                lhs, contracted = shapes[product[1]], re.search(_CONTRACTED, line)[1]
                summed = math.prod(lhs[i] for i in _integers(contracted))
                total += 2 * math.prod(shapes[result[1]]) * summed
            inside = sum(flops(n) for n in re.findall(r"(?:calls|body|to_apply)=%?([\w.-]+)", line))
            if inside and " while(" in line:
                trips = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
                if trips is None:
                    raise ValueError(f"a loop over products of unknown length: {line[:200]}")
                inside *= int(trips[1])
            total += inside
        return total

    return flops(entry)


_PRODUCT = r" (?:dot|custom-call)\((?:\w+\[\S* )?%?([\w.-]+)(?=.*lhs_contracting_dim)"
_CONTRACTED = r"""lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)[\]}]"""


def _computations(compiled: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation of an HLO module by name, and the name of the entry."""
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in compiled.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = head[2]
            computations[name] = []
            entry = name if head[1] else entry
        elif " = " in line and name:
            computations[name].append(line.strip())
    return computations, entry


def _integers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


# ---- Processes


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiler says of a program.

    Attributes:
      seconds: of compilation, without a cache.
      flops: of its matrix products.
      memory: bytes of arguments, results and temporaries.
    """

    seconds: float
    flops: int
    memory: int


class Timed(Protocol):
    """Programs that `take_turns` times."""

    programs: Iterable[str]

    def seconds(self, program: str) -> float:
        """Time of one call."""
        ...


class Case:
    """Programs in a process of their own, so that the process's peak memory is theirs.

    Args:
      build: a module's function that returns functions and their arguments, by name; it is called
        in the process.
      arguments: of `build`.
    """

    def __init__(self, build: Build, *arguments: Any):
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._built = self._process.submit(_build, build, arguments)
        self.programs: dict[str, Program] = self._built.result()

    def seconds(self, program: str) -> float:
        """Time of one call."""
        return self._process.submit(_run, program).result()

    def peak(self) -> int:
        """The most bytes so far: on an accelerator its own, else of the whole process."""
        return self._process.submit(_device_peak).result()

    def close(self) -> None:
        """Ends the process."""
        self._process.shutdown()


_calls: dict[str, Callable[[], Any]] = {}  # of a case's process


def _build(build: Build, arguments: Sequence[Any]) -> dict[str, Program]:
    jax.config.update("jax_enable_compilation_cache", False)
    programs = {}
    for name, (function, inputs) in build(*arguments).items():
        dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(inputs)}
        options = programs_lib.options("bfloat16" if "bfloat16" in dtypes else "float32")
        lowered = jax.jit(function, compiler_options=options).lower(*inputs)
        start = time.perf_counter()
        compiled = lowered.compile()
        seconds = time.perf_counter() - start
        sizes = compiled.memory_analysis()
        memory = (
            sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
        )
        programs[name] = Program(seconds, product_flops(compiled.as_text()), memory)
        _calls[name] = functools.partial(compiled, *inputs)
    return programs


def _run(program: str) -> float:
    """Time of a call; the mean of several where one is short."""
    start, calls = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < _SHORTEST or not calls:
        jax.block_until_ready(_calls[program]())
        calls += 1
    return seconds / calls


def _device_peak() -> int:
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use") or peak()


def peak() -> int:
    """The most bytes that this process has held so far."""
    # ru_maxrss starts at the parent's on Linux, VmHWM is the process's own.
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def product(dtype: str, side: int = PRODUCT) -> dict[str, tuple[Callable, tuple]]:
    """A square matrix product with float32 sums, as a case: the machine's own rate."""
    a, b = jax.random.normal(jax.random.key(0), (2, side, side)).astype(dtype)

    def multiply(a, b):
        return jnp.dot(a, b, precision="highest", preferred_element_type=dtype)

    return {"product": (multiply, (a, b))}


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of each round, and the rate of matrix products around it, operations a second."""

    seconds: np.ndarray
    rate: np.ndarray

    def share(self, flops: float) -> float:
        """Which share of the rate so many operations in that time are; the rounds' median."""
        return float(np.median(flops / self.seconds / self.rate))

    def __str__(self) -> str:
        low, middle, high = (f(self.seconds) for f in (np.min, np.median, np.max))
        return f"{middle:.3g} s [{low:.3g} .. {high:.3g}]"


def take_turns(cases: Mapping[str, Timed], rounds: int) -> dict[tuple[str, str], Times]:
    """Times every program of every case, one after the other, so many rounds.

    Before and after each the machine's rate of matrix products is taken in a process of its own.
    """
    order = [(name, program) for name, case in cases.items() for program in case.programs]
    seconds: dict = {key: [] for key in order}
    rates: dict = {key: [] for key in order}
    with contextlib.closing(Case(product, "float32")) as machine:
        before = _rate(machine)
        for name, program in order * rounds:
            seconds[name, program].append(cases[name].seconds(program))
            after = _rate(machine)
            rates[name, program].append((before + after) / 2)
            before = after
    return {key: Times(np.array(seconds[key]), np.array(rates[key])) for key in order}


def _rate(machine: Case) -> float:
    return 2 * PRODUCT**3 / min(machine.seconds("product") for _ in range(3))


HEADER = (
    f"{'case':<28} {'compile':>8} {'median [min .. max]':>28} {'compiled':>9} {'necessary':>9} "
    f"{'of peak':>8} {'program':>8} {'process':>8}"
)
LEGEND = (
    "compiled, necessary: matrix products in GFLOP; of peak: necessary GFLOP/s over those of one "
    f"{PRODUCT} x {PRODUCT}\nproduct in float32 in the same run; program: arguments, results and "
    "temporaries of the compiled program;\nprocess: the most memory of the process that runs all "
    "of a case's programs"
)


def row(name: str, program: Program, times: Times, necessary: float, peak: int) -> str:
    """A line under `HEADER`."""
    return (
        f"{name:<28} {program.seconds:>6.1f} s {times!s:>28} {program.flops / 1e9:>9.4g} "
        f"{necessary / 1e9:>9.4g} {times.share(necessary):>8.0%} {program.memory / 1e9:>5.2f} GB "
        f"{peak / 1e9:>5.2f} GB"
    )


# ---- Models and what they must compute


def random_clip(
    config: clip_lib.ClipConfig,
    dtype: str = "float32",
    std: float = 0.02,
    logit_scale: float = 0.0,
) -> clip_lib.Clip:
    """A CLIP whose weights are all drawn from N(0, std²), but for a logit scale that is given."""
    rng = np.random.default_rng(0)

    def weights(leaf):
        return jnp.asarray(std * rng.standard_normal(leaf.shape, np.float32), dtype)

    clip = jax.tree.map(weights, nnx.eval_shape(lambda: clip_lib.Clip(config, nnx.Rngs(0))))
    if logit_scale:
        clip.log_logit_scale = nnx.Param(jnp.log(jnp.float32(logit_scale)))
    return clip


def tower_flops(sizes: clip_lib.Transformer, tokens: int, pairs: int) -> int:
    """Operations of the matrix products of a forward pass through a tower's blocks.

    2 (4 width² + 2 width mlp_width) a token and block for the products with weights, 4 width a
    pair of query and key for scores and mixing. The gradient of prompts needs as many again for
    the cotangents of activations, and none for the frozen weights.

    Args:
      sizes: of the tower.
      tokens: how many there are.
      pairs: how many times a token attends to another or to itself.
    """
    weights = 4 * sizes.width**2 + 2 * sizes.width * sizes.mlp_width
    return sizes.depth * (2 * tokens * weights + 4 * sizes.width * pairs)
