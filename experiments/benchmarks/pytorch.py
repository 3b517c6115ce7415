"""Whole training steps beside the published PyTorch forms, ViT-B/16 sizes, random weights.

    python experiments/benchmark.py --only=pytorch [--methods=coop,cdc] [--classes=10,100,1000]
      [--dtypes=float32,bfloat16] [--rounds=3] [--torch_python=PATH]

Both sides have the same weights, images, class names and settings, and take turns; each has a
process of its own, whose peak memory is given. PyTorch encodes texts of 77 tokens, one template
after the other, with `scaled_dot_product_attention`; frozen weights need no gradient, and the image
tower of CoOp and KgCoOp runs without a graph (`torch_forms`). Its bfloat16 is autocast with the
frozen matrices in bfloat16. Only our step draws augmented views; that of `coop_cached` or
`kgcoop_cached` takes features that were encoded before (`views.cached`), PyTorch's runs its tower.
A step that the machine's free memory does not hold is reported as "does not fit".

First the machine: a matrix product and the forward pass of the image tower. Then parity: losses of
three steps, and the momentum after them, of both sides on a small CLIP. With all methods, 10 and
100 classes, both dtypes and 3 rounds, two cores need half an hour. PyTorch may have an interpreter
of its own (`--torch_python`).
"""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import flags
from benchmarks import measuring, step
from benchmarks.torch_process import TorchCase, require_torch

from cdc_jax import clip as clip_lib
from cdc_jax.clip import pretrained, weights
from cdc_jax.clip.backbone import ClipBackbone
from cdc_jax.methods.prompts import HandCrafted
from cdc_jax.step import make_step

METHODS = {"coop": 32, "kgcoop": 32, "maple": 4, "cdc": 4}
"""Rows and their batch sizes."""
CACHED = "_cached"
"""At the end of a row's name: our step takes features that were encoded before."""
KNOWN = (*METHODS, *(row + CACHED for row in ("coop", "kgcoop")))
DTYPES = ("float32", "bfloat16")
SIDE, IMAGES, STEPS = 3072, 16, 3
SMALL = clip_lib.ClipConfig(
    vision=clip_lib.Transformer(48, 4, 6, 192),
    text=clip_lib.Transformer(32, 4, 4, 128),
    embed_width=40,
    image_size=32,
    patch_size=8,
    vocab_size=3000,
    context_length=77,
    eot_id=2999,
)


PARITY_CHANGES = {
    "views": "clean", "head.shift": 0.0, "head.kl_weight": 1.0, "optimizer.batch_size": 4,
    "optimizer.warmup_rate": 0.2, "optimizer.learning_rate": 0.4,
}  # fmt: skip
"""So that both sides see the same pixels, and every term and every step counts in the losses."""


def main() -> None:
    """Prints the parts in turn, for what the flags say."""
    values = flags.FLAGS
    _require_known("methods", values.methods, KNOWN)
    _require_known("dtypes", values.dtypes, DTYPES)
    python, rounds = values.torch_python, values.rounds
    print(
        f"PyTorch {require_torch(python)}, jax {jax.__version__}; ratios: median [min .. max]",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for dtype in values.dtypes:
            print(machine(dtype, python, folder, rounds), flush=True)
        for method in dict.fromkeys(name.removesuffix(CACHED) for name in values.methods):
            print(parity(method, python, folder), flush=True)
        print(f"\n{rounds} rounds in turn\n{HEADER}", flush=True)
        for dtype in values.dtypes:
            for method in values.methods:
                for classes in map(int, values.classes):
                    print(row(timed(method, classes, dtype), python, folder, rounds), flush=True)


def _require_known(flag: str, values: Sequence[str], known: Collection[str]) -> None:
    if unknown := set(values) - set(known):
        raise ValueError(
            f"--{flag} names {', '.join(sorted(unknown))}, which the pytorch part does not have: "
            f"choose among {', '.join(known)}"
        )


# ---- What PyTorch's process is given


def torch_task(setup: step.Setup, folder: Path) -> dict[str, Any]:
    """A training step as `torch_worker` takes it; arrays go to files in the folder."""
    float32 = dataclasses.replace(setup, dtype="float32", cached=False)
    phase, (state, backbone, _, classes, batch) = step.prepare(float32)
    method, config = phase.stage.method, phase.stage.method.config
    ids, ends = texts(method.prompts, backbone, classes.names)
    pixels = (batch["images"] / 255 - np.array(backbone.mean)) / np.array(backbone.std)
    arrays = learned(state["trained"]) | {
        "pixels": pixels.transpose(0, 3, 1, 2).astype(np.float32),
        "labels": batch["labels"].astype(np.int64),
        "texts": ids,
        "ends": ends,
        "anchors": np.asarray(classes.anchors[0]),
    }
    file = folder / f"{setup.method}_{setup.classes}.npz"
    np.savez(file, **arrays)
    settings = {
        "evidential": config.head.name == "evidential",
        "shift": config.head.shift,
        "kl_weight": config.head.kl_weight,
        "decoupling": config.loss.decoupling_weight,
        "consistency": config.loss.consistency_weight,
        "rate": config.optimizer.learning_rate,
        "warmup": config.optimizer.warmup_rate,
        "decay": config.optimizer.weight_decay,
        "epochs": config.optimizer.epochs,
        "steps": phase.steps,
    }
    return {
        "programs": ["step"],
        "weights": weights_file(folder, setup.sizes, setup.std, setup.logit_scale),
        "config": setup.sizes.to_hf(),
        "arrays": str(file),
        "settings": settings,
        "dtype": setup.dtype,
    }


def texts(
    prompts: HandCrafted, backbone: ClipBackbone, names: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of every template and class at full length, and where each class's text ends.

    The start of text fills the places of the learned vectors.
    """
    words, (classes, tokens) = prompts.fixed_words, names.shape
    templates, fixed = words.shape
    learned_end = 1 + prompts.templates.context
    start = learned_end + fixed
    ids = np.zeros((templates, classes, backbone.clip.config.context_length), np.int64)
    ids[:, :, :learned_end] = backbone.tokenizer.start_id
    ids[:, :, learned_end:start] = words[:, None]
    ids[:, :, start : start + tokens] = names
    return ids, start + np.argmax(names == backbone.clip.config.eot_id, 1)


def learned(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What a method learns, in PyTorch's names and layout: a linear map is (outputs, inputs)."""
    prompts = jax.device_get(tree["prompts"])
    arrays = {"context": prompts["context"]}
    if "coupling" in prompts:
        arrays["coupling_weight"] = np.swapaxes(prompts["coupling"]["kernel"], -1, -2)
        arrays["coupling_bias"] = prompts["coupling"]["bias"]
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


@functools.cache
def weights_file(folder: Path, sizes: clip_lib.ClipConfig, *others: float) -> str:
    """Writes a `measuring.random_clip` by CLIPModel's names, in float32; the file's path."""
    clip = measuring.random_clip(sizes, "float32", *others)
    tensors = weights.to_hf(jax.device_get(pretrained.parameters(clip)))
    file = folder / f"weights_{len(list(folder.iterdir()))}.npz"
    np.savez(file, **{name: np.ascontiguousarray(value) for name, value in tensors.items()})
    return str(file)


# ---- Parity


def small(method: str) -> step.Setup:
    """A method's step on a CLIP so small that both sides run within seconds."""
    deep = {"prompts.layers": 3} if method in ("maple", "cdc") else {}
    changes = PARITY_CHANGES | deep
    return step.Setup(method, SMALL, classes=6, changes=changes, std=0.3, logit_scale=10.0)


def our_steps(setup: step.Setup) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Losses of `STEPS` training steps, and the momentum of what is learned after them."""
    phase, (state, *others) = step.prepare(setup)
    run = jax.jit(make_step(phase, 0), compiler_options={"xla_backend_optimization_level": 0})
    losses = []
    for _ in range(STEPS):
        state, values = run(state, *others)
        losses.append(float(values["loss"]))
    return np.array(losses), learned(optax.tree_utils.tree_get(state["optimizer"], "trace"))


def torch_steps(
    setup: step.Setup, python: str, folder: Path
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The same of PyTorch's form."""
    task = torch_task(setup, folder) | {"threads": 1}  # threads cost more than so small a CLIP
    with contextlib.closing(TorchCase(python, task)) as case:
        losses = [case.answer("step")["loss"] for _ in range(STEPS)]
        velocity = case.answer("velocity")
    names = velocity.keys() - {"seconds", "peak"}
    return np.array(losses), {name: np.array(velocity[name]) for name in names}


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, in units of the largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def parity(method: str, python: str, folder: Path) -> str:
    """How far both sides are apart on a small CLIP, in a line."""
    (losses, velocity), (expected, momentum) = (
        our_steps(small(method)),
        torch_steps(small(method), python, folder),
    )
    worst = max(difference(velocity[name], momentum[name]) for name in momentum)
    return (
        f"parity, {method:<7} small CLIP, float32, {STEPS} steps: losses differ by "
        f"{difference(losses, expected):.1e}, momentum by {worst:.1e} of the largest value"
    )


# ---- Speed and memory


def build_machine(dtype: str, sizes: clip_lib.ClipConfig) -> dict[str, tuple[Callable, tuple]]:
    """A matrix product and the image tower, as a case."""
    clip = measuring.random_clip(sizes, dtype)
    pixels = jax.random.normal(jax.random.key(0), (IMAGES, sizes.image_size, sizes.image_size, 3))
    tower = (lambda clip, pixels: clip.encode_image(pixels), (clip, pixels))
    return measuring.product(dtype, SIDE) | {"image": tower}


def machine(
    dtype: str,
    python: str,
    folder: Path,
    rounds: int,
    sizes: clip_lib.ClipConfig = measuring.VIT_B16,
) -> str:
    """Rates of a matrix product of both libraries, and the image tower's shares of the better."""
    pixels = np.random.default_rng(0).standard_normal(
        (IMAGES, 3, sizes.image_size, sizes.image_size), np.float32
    )
    file = folder / "pixels.npz"
    np.savez(file, pixels=pixels)
    task = {
        "programs": ["product", "image"],
        "weights": weights_file(folder, sizes),
        "config": sizes.to_hf(),
        "arrays": str(file),
        "dtype": dtype,
        "side": SIDE,
    }
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(contextlib.closing(measuring.Case(build_machine, dtype, sizes)))
        torch = stack.enter_context(contextlib.closing(TorchCase(python, task)))
        times = in_turns(ours, torch, rounds)
    product, image = 2 * SIDE**3, IMAGES * step.image_flops(sizes)
    rates = {side: product / np.median(times[side, "product"].seconds) for side in SIDES}
    lines = [
        f"\n{dtype}: product of side {SIDE}: ours {rates['ours'] / 1e9:.0f}, PyTorch "
        f"{rates['PyTorch'] / 1e9:.0f} GFLOP/s; image tower, forward, {IMAGES} images:"
    ]
    for side in SIDES:
        tower = times[side, "image"]
        share = image / np.median(tower.seconds) / max(rates.values())
        lines.append(f"  {side:<8} {tower!s:>28}   {share:.0%} of the better product")
    lines.append(f"  PyTorch to ours {ratios(times, 'image')}")
    return "\n".join(lines)


SIDES = ("ours", "PyTorch")
HEADER = (
    f"{'step':<34} {'ours':>27} {'PyTorch':>27} {'PyTorch / ours':>21} {'memory: ours':>13} "
    f"{'PyTorch':>9} {'ours / PyTorch':>15}"
)


def timed(name: str, classes: int, dtype: str) -> step.Setup:
    """The step of one of `KNOWN` at ViT-B/16 sizes."""
    method = name.removesuffix(CACHED)
    changes = {"optimizer.batch_size": METHODS[method]}
    cached = name != method
    return step.Setup(method, classes=classes, dtype=dtype, changes=changes, cached=cached)


def row(setup: step.Setup, python: str, folder: Path, rounds: int) -> str:
    """A line under `HEADER`."""
    batch = setup.changes["optimizer.batch_size"]
    method = setup.method + CACHED * setup.cached
    name = f"{method} {batch}, K = {setup.classes} {setup.dtype}"
    task = torch_task(setup, folder)
    with contextlib.closing(measuring.Case(step.build_step, setup)) as ours:
        try:
            with contextlib.closing(TorchCase(python, task)) as torch:
                times = in_turns(ours, torch, rounds)
                held, other = ours.peak(), torch.peak()
        except MemoryError as error:
            alone = measuring.take_turns({"ours": ours}, rounds)["ours", "step"]
            return (
                f"{name:<34} {alone!s:>27} {'does not fit':>27} {'':>21} {_size(ours.peak())}   "
                f"({error})"
            )
    return (
        f"{name:<34} {times['ours', 'step']!s:>27} {times['PyTorch', 'step']!s:>27} "
        f"{ratios(times, 'step'):>21} {_size(held)} {other / 1e9:>6.2f} GB {held / other:>15.2f}"
    )


def in_turns(
    ours: measuring.Case, torch: TorchCase, rounds: int
) -> dict[tuple[str, str], measuring.Times]:
    """Times of both sides' programs, by side and program, after a call each that is not counted."""
    cases = dict(zip(SIDES, (ours, torch), strict=True))
    for case in cases.values():
        for program in case.programs:
            case.seconds(program)
    return measuring.take_turns(cases, rounds)


def ratios(times: Mapping[tuple[str, str], measuring.Times], program: str) -> str:
    """PyTorch's seconds to ours in the same round."""
    quotients = times["PyTorch", program].seconds / times["ours", program].seconds
    low, middle, high = (f(quotients) for f in (np.min, np.median, np.max))
    return f"{middle:.2f} [{low:.2f} .. {high:.2f}]"


def _size(held: int) -> str:
    return f"{held / 1e9:>10.2f} GB"
