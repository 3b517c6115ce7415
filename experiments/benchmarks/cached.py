"""CoOp on cached views against fresh views, at ViT-B/16 sizes with random weights, in float32.

    python experiments/benchmark.py --only=cached

Whole training as published: K = 10 classes of 16 images, batches of 32, 200 epochs. A step is what
training runs. With cached views it holds no operation of the image tower; the tower encodes ten
views of each image before the first step. About three minutes on two cores.
"""

import contextlib
import dataclasses
from collections.abc import Callable

import numpy as np
from benchmarks import measuring, step

from cdc_jax import cached_views, methods, train
from cdc_jax import clip as clip_lib

METHOD, CLASSES, SHOTS, VIEWS, ROUNDS = "coop", 10, 16, 10, 3


def build(
    sizes: clip_lib.ClipConfig = measuring.VIT_B16,
) -> dict[str, tuple[Callable, tuple]]:
    """The step on fresh views, the step on cached views, and the encoding of a batch of views."""
    fresh, (*others, images) = step.prepare(step.Setup(METHOD, sizes, CLASSES))
    cached = dataclasses.replace(fresh, cached_views=1)
    views = cached_views.view_rows(cached)[:]
    drawn = np.random.default_rng(0).standard_normal((len(images["labels"]), 1, sizes.embed_width))
    features = {
        "features": np.asarray(clip_lib.normalize(drawn), np.float32),
        "labels": images["labels"],
        "indices": images["indices"],
    }
    return {
        "fresh": (train.make_step(fresh, 0), (*others, images)),
        "cached": (train.make_step(cached, 0), (*others, features)),
        "encode": (cached_views.encoder(cached.make_views, 0), (others[1], views)),
    }


def necessary(sizes: clip_lib.ClipConfig) -> dict[str, int]:
    """Operations of the products that each program needs in the towers."""
    config = methods.configure(METHOD).config
    context, phrase = config.prompts.context, config.prompts.phrases
    text = 2 * step.text_flops(sizes, context, len(phrase.split()) - context, CLASSES)
    image = config.optimizer.batch_size * step.image_flops(sizes)
    return {"fresh": text + image, "cached": text, "encode": image}


def main() -> None:
    """Prints a table of the programs, and the ratios of a step and of whole training."""
    config = methods.configure(METHOD).config.optimizer
    print(f"{measuring.LEGEND}\n\n{ROUNDS} rounds in turn\n{measuring.HEADER}")
    with contextlib.closing(measuring.Case(build)) as case:
        times = measuring.take_turns({METHOD: case}, ROUNDS)
        peak = case.peak()
    flops = necessary(measuring.VIT_B16)
    for name, program in case.programs.items():
        print(measuring.row(f"{METHOD} {name}", program, times[METHOD, name], flops[name], peak))
    seconds = {name: times[METHOD, name].seconds for name in case.programs}
    images = CLASSES * SHOTS
    steps = config.epochs * (images // config.batch_size)
    encoding = VIEWS * images / config.batch_size * seconds["encode"]
    whole = {"fresh": steps * seconds["fresh"], "cached": steps * seconds["cached"] + encoding}
    print()
    for what, value, unit in (
        ("a step: fresh over cached", seconds["fresh"] / seconds["cached"], " times"),
        (f"encoding {VIEWS} views, a step of {steps}", encoding / steps, " s"),
        ("whole training on fresh views", whole["fresh"] / 60, " min"),
        (f"whole training on {VIEWS} cached views", whole["cached"] / 60, " min"),
        ("whole training: fresh over cached", whole["fresh"] / whole["cached"], " times"),
    ):
        low, middle, high = (f(value) for f in (np.min, np.median, np.max))
        print(f"{what:<40} {middle:.3g}{unit} [{low:.3g} .. {high:.3g}]")
