"""Whole training steps, and the image tower alone, at ViT-B/16 sizes with random weights.

    python experiments/benchmark.py --only=step

A step is what training runs: views of uint8 images, both towers, losses, gradient, optimiser; by
the published settings of CoOp (batch 32) and CDC (batch 4, M = 4 deep multimodal templates), with
K = 100 classes whose names have 8 tokens. The image tower runs 8 images, alone and with the
gradient of 9 layers of 2 visual prompts.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import measuring

from cdc_jax import clip as clip_lib
from cdc_jax import methods, optimizer, train, views
from cdc_jax.clip.backbone import ClipBackbone
from cdc_jax.methods import prompt_tuning
from cdc_jax.methods.prompts import Classes
from cdc_jax.tasks import Examples
from cdc_jax.tasks.batches import TrainingBatches

CLASSES, NAME, IMAGES, LAYERS, PROMPTS, ROUNDS = 100, 10, 8, 9, 2, 2


def build_step(
    method: str, sizes: clip_lib.ClipConfig = measuring.VIT_B16
) -> dict[str, tuple[Callable, tuple]]:
    """A method's training step, as a case."""
    phase, arguments = training(method, sizes, CLASSES)
    return {"step": (train.make_step(phase, 0), arguments)}


def training(
    method: str, sizes: clip_lib.ClipConfig, classes: int
) -> tuple[train.Phase, tuple[Any, ...]]:
    """A stage of training that has one batch, and the arguments of its step."""
    clip, (_, tokenizer) = measuring.random_clip(sizes), clip_lib.load("world")
    backbone = ClipBackbone(clip, tokenizer)
    choice = methods.configure(method)
    chosen, class_names = choice.config.unlock(), [str(i) for i in range(classes)]
    chosen.head.shift = 20.0
    built = methods.rebuild(choice.family_name, chosen, backbone, class_names, "a photo of a {}.")
    rng, size, batch = np.random.default_rng(0), sizes.image_size, chosen.optimizer.batch_size
    names = rng.integers(1, sizes.vocab_size - 2, (classes, NAME), np.int32)
    names[:, -1] = sizes.eot_id
    anchors = clip_lib.normalize(rng.standard_normal((1, classes, sizes.embed_width)))
    arrays = {
        "images": rng.integers(0, 256, (batch, size, size, 3), np.uint8),
        "labels": rng.integers(0, classes, batch, np.int32),
        "indices": np.arange(batch, dtype=np.int32),
    }
    examples = Examples(arrays["images"], arrays["labels"], tuple(class_names))
    (stage,) = built.stages()
    phase = train.Phase(
        stage=stage,
        examples=examples,
        batches=TrainingBatches(examples, batch, 0),
        update=optimizer.make(chosen.optimizer, 1),
        make_views=views.build(
            chosen.views, templates=built.templates, size=size, mean=clip.config.mean,
            std=clip.config.std,
        ),
        first=0,
        steps=100,
    )  # fmt: skip
    support = methods.Support(anchors[0], np.arange(classes))
    learned = built.initialize(jax.random.key(0), backbone, support)
    state = train.initial_state(stage, phase.update, learned.trained)
    arguments = (state, backbone, learned.fixed, Classes(names, anchors), arrays)
    return phase, arguments


def build_image() -> dict[str, tuple[Callable, tuple]]:
    """The image tower, as a case."""
    clip = measuring.random_clip(measuring.VIT_B16)
    size, keys = clip.config.image_size, jax.random.split(jax.random.key(0), 3)
    pixels = jax.random.normal(keys[0], (IMAGES, size, size, 3))
    visual = 0.02 * jax.random.normal(keys[1], (LAYERS, PROMPTS, clip.config.vision.width))
    weighting = jax.random.normal(keys[2], (IMAGES, clip.config.embed_width))

    def weighed(visual, clip, pixels, weighting):
        return jnp.vdot(clip_lib.normalize(clip.vision(pixels, visual)), weighting)

    return {
        "forward": (lambda clip, pixels: clip.encode_image(pixels), (clip, pixels)),
        "gradient": (jax.grad(weighed), (visual, clip, pixels, weighting)),
    }


def image_flops(config: clip_lib.ClipConfig, visual: int = 0) -> int:
    """Operations of the products of one image's forward pass, see `measuring.tower_flops`."""
    tokens = 1 + config.patches + visual
    pixels = 2 * config.patches * 3 * config.patch_size**2 * config.vision.width
    return pixels + measuring.tower_flops(config.vision, tokens, tokens**2)


def text_flops(
    config: clip_lib.ClipConfig, context: int, words: int, classes: int = CLASSES
) -> int:
    """Operations of the products of one template's forward pass; the prefix is shared."""
    before = 1 + context + words
    prefix = measuring.tower_flops(config.text, before, before * (before + 1) // 2)
    pairs = NAME * before + NAME * (NAME + 1) // 2
    return prefix + classes * measuring.tower_flops(config.text, NAME, pairs)


def step_flops(config: clip_lib.ClipConfig, method: str) -> int:
    """Operations of the products that a method's step needs in the towers.

    Twice the forward pass where prompts are learned; images without visual prompts run forward
    only, and once for all templates that share a view.
    """
    settings = methods.configure(method).config
    chosen, batch = settings.prompts, settings.optimizer.batch_size
    words = len(chosen.phrases.split()) - chosen.context
    text = 2 * chosen.templates * text_flops(config, chosen.context, words)
    if not prompt_tuning.kind_of(chosen).changes_images:
        return text + batch * image_flops(config)
    return text + 2 * chosen.templates * batch * image_flops(config, chosen.context)


def main() -> None:
    """Prints one table."""
    config = measuring.VIT_B16
    necessary = {
        ("image", "forward"): IMAGES * image_flops(config),
        ("image", "gradient"): 2 * IMAGES * image_flops(config, PROMPTS),
        ("coop", "step"): step_flops(config, "coop"),
        ("cdc", "step"): step_flops(config, "cdc"),
    }
    print(f"{measuring.LEGEND}\n\n{ROUNDS} rounds in turn\n{measuring.HEADER}")
    with contextlib.ExitStack() as stack:
        cases = {"image": measuring.Case(build_image)}
        cases |= {method: measuring.Case(build_step, method) for method in ("coop", "cdc")}
        for case in cases.values():
            stack.enter_context(contextlib.closing(case))
        times = measuring.take_turns(cases, ROUNDS)
        peaks = {name: case.peak() for name, case in cases.items()}
    for (name, program), measured in times.items():
        compiled = cases[name].programs[program]
        flops = necessary[name, program]
        print(measuring.row(f"{program} {name}", compiled, measured, flops, peaks[name]))
