"""Training steps on one device: time, memory, compilation, and the device's rate of products."""

import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import step
from benchmarks.accelerator.context import Context, batches

ROUNDS = 5
_MOST_CALLS = 200  # a round
RATES = {
    "float32": ("float32", "highest"),
    "float32, fast": ("float32", "default"),  # TF32 on NVIDIA's, bfloat16 on TPUs
    "bfloat16": ("bfloat16", "default"),
}
"""dtype and precision of the products that give a device's rates."""
OPTIONS: dict[str, dict[str, Any]] = {
    "without autotuning": {"xla_gpu_autotune_level": 0},
    "without Triton's products": {"xla_gpu_enable_triton_gemm": False},
}
"""XLA's options for GPUs that may shorten compilation."""


# ---- Cases


def published(dtype: str, tiny: bool) -> tuple[str, ...]:
    """Steps with the published batch sizes."""
    small, large = batches(tiny)
    return _cases({"coop": large, "maple": small, "cdc": small}, dtype)


def others(tiny: bool) -> tuple[str, ...]:
    """Steps with the other batch size."""
    small, large = batches(tiny)
    sizes = {"coop": small} if tiny else {"coop": small, "maple": large, "cdc": large}
    return _cases(sizes, "bfloat16", "float32")


def _cases(sizes: dict[str, int], *dtypes: str) -> tuple[str, ...]:
    # The smaller memory first, so that the device's peak is that of the case.
    return tuple(f"{row} {dtype} batch {size}" for row, size in sizes.items() for dtype in dtypes)


def setup(case: str, context: Context) -> step.Setup:
    """The training step that a case names."""
    row, dtype, batch = re.fullmatch(r"(\w+) (\w+) batch (\d+)", case).groups()
    changes = {"optimizer.batch_size": int(batch)}
    return step.Setup(row, context.clip, context.classes, dtype, changes)


# ---- Measurements


def measure_step(case: str, context: Context) -> dict[str, Any]:
    """Compiles and times the training step of a case, on one device."""
    _without_cache(context)
    return _measured(setup(case, context), context)


def measure_option(case: str, context: Context) -> dict[str, Any]:
    """The step of CDC in float32, compiled with some of `OPTIONS`; where tiny, that of CoOp."""
    if jax.devices()[0].platform != "gpu" and not context.tiny:
        return {"not_run": f"an option for GPUs, the device is a {jax.devices()[0].platform}"}
    _without_cache(context)
    row = "coop" if context.tiny else "cdc"
    step = next(c for c in published("float32", context.tiny) if c.startswith(row))
    return _measured(setup(step, context), context, OPTIONS[case])


def measure_device(case: str, context: Context) -> dict[str, Any]:
    """What the device is, or one of its `RATES` in operations a second."""
    if case == "facts":
        return _facts()
    dtype, precision = RATES[case]
    a, b = jax.random.normal(jax.random.key(0), (2, context.side, context.side)).astype(dtype)

    @jax.jit
    def multiply(a, b):
        return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)

    seconds = _seconds(lambda: multiply(a, b), context)
    return {"operations_per_second": 2 * context.side**3 / min(seconds), "side": context.side}


def _facts() -> dict[str, Any]:
    device = jax.devices()[0]
    stats = device.memory_stats() or {}  # None on CPUs
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "devices": jax.device_count(),
        "memory_bytes": stats.get("bytes_limit"),
        "backend": device.client.platform_version,
    }


def _measured(
    setup: step.Setup, context: Context, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    function, arguments = step.build_step(setup)["step"]
    state, *others = jax.device_put(arguments, jax.devices()[0])
    before = _peak()
    started = time.perf_counter()
    lowered = jax.jit(function).lower(state, *others)
    traced = time.perf_counter()
    sooner = {"xla_backend_optimization_level": 0} if context.tiny else {}
    compiled = lowered.compile(compiler_options={**(options or {}), **sooner} or None)
    done = time.perf_counter()
    text = lowered.as_text()
    losses: dict[str, jax.Array] = {}

    def call() -> Any:
        nonlocal state, losses
        state, losses = compiled(state, *others)
        return losses

    seconds = _seconds(call, context)
    peak = _peak()
    return {
        "trace_seconds": traced - started,
        "compile_seconds": done - traced,
        "seconds": seconds,
        "loss": float(losses["loss"]),
        "necessary_operations": step.step_flops(setup),
        "program_bytes": _program_bytes(compiled),
        # None where a step before took more: the device only knows the most so far.
        "peak_bytes": peak if peak and peak > (before or 0) else None,
        "products": len(re.findall(r"stablehlo\.dot_general", text)),
        "convolutions": len(re.findall(r"stablehlo\.convolution", text)),
    }


def _seconds(call: Callable[[], Any], context: Context) -> list[float]:
    """Time of a call in each round: of calls that the device queues, as in training."""
    jax.block_until_ready(call())
    start = time.perf_counter()
    jax.block_until_ready(call())
    once = time.perf_counter() - start
    calls = int(np.clip(np.ceil(context.round_seconds / once), 1, _MOST_CALLS))
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(calls):
            result = call()
        jax.block_until_ready(result)
        rounds.append((time.perf_counter() - start) / calls)
    return rounds


def _peak() -> int | None:
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def _program_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Arguments, results and temporaries, where the backend says."""
    sizes = compiled.memory_analysis()
    if sizes is None:
        return None
    return (
        sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
        - sizes.alias_size_in_bytes
    )  # fmt: skip


def _without_cache(context: Context) -> None:
    if not context.tiny:  # tests compile the same programs again and again
        jax.config.update("jax_enable_compilation_cache", False)
