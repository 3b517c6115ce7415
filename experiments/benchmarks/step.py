"""Whole training steps, and the image tower alone, at ViT-B/16 sizes with random weights.

    python experiments/benchmark.py --only=step

A step is what training runs: views of uint8 images, both towers, losses, gradient, optimiser; by
the published settings of CoOp (batch 32) and CDC (batch 4, M = 4 deep multimodal templates), with
K = 100 classes whose names have 8 tokens. The image tower runs 8 images, alone and with the
gradient of 9 layers of 2 visual prompts.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import measuring, row_settings

from cdc_jax import clip as clip_lib
from cdc_jax import methods, optimizer, views
from cdc_jax.clip.backbone import ClipBackbone
from cdc_jax.methods import prompt_tuning
from cdc_jax.methods.prompts import Classes
from cdc_jax.step import Phase, initial_state, make_step
from cdc_jax.tasks import Examples
from cdc_jax.tasks.batches import TrainingBatches

CLASSES, NAME, IMAGES, LAYERS, PROMPTS, ROUNDS = 100, 10, 8, 9, 2, 2


@dataclasses.dataclass(frozen=True)
class Setup:
    """A method's training step on random weights, images and class names.

    Attributes:
      method: a row.
      sizes: of the CLIP.
      classes: K.
      dtype: of the weights.
      changes: of the row's settings, dots reaching into the parts.
      std: of the weights.
      logit_scale: of the CLIP; 0 draws it like a weight.
      cached: whether the step takes the features of encoded views in place of images.
    """

    method: str
    sizes: clip_lib.ClipConfig = measuring.VIT_B16
    classes: int = CLASSES
    dtype: str = "float32"
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    std: float = 0.02
    logit_scale: float = 0.0
    cached: bool = False


def build_step(setup: Setup) -> dict[str, tuple[Callable, tuple]]:
    """A method's training step, as a case."""
    phase, arguments = prepare(setup)
    return {"step": (make_step(phase, 0), arguments)}


def prepare(setup: Setup) -> tuple[Phase, tuple]:
    """What training a method is made of, and the arguments of its step."""
    sizes, classes = setup.sizes, setup.classes
    clip = measuring.random_clip(sizes, setup.dtype, setup.std, setup.logit_scale)
    _, tokenizer = clip_lib.load("world")
    backbone = ClipBackbone(clip, tokenizer)
    chosen = row_settings.configure(setup.method, {"head.shift": 20.0, **setup.changes})
    family, class_names = methods.ROWS[setup.method].family, [str(i) for i in range(classes)]
    built = methods.rebuild(family, chosen, backbone, class_names, "a photo of a {}.")
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
    phase = Phase(
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
        cached_views=int(setup.cached),
    )  # fmt: skip
    if setup.cached:
        drawn = rng.standard_normal((batch, 1, sizes.embed_width), np.float32)
        arrays["features"] = np.asarray(clip_lib.normalize(drawn))
        del arrays["images"]
    support = methods.Support(anchors[0], np.arange(classes))
    learned = built.initialize(jax.random.key(0), backbone, support)
    state = initial_state(stage, phase.update, learned.trained)
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


def text_flops(config: clip_lib.ClipConfig, context: int, words: int, classes: int) -> int:
    """Operations of the products of one template's forward pass; the prefix is shared."""
    before = 1 + context + words
    prefix = measuring.tower_flops(config.text, before, before * (before + 1) // 2)
    pairs = NAME * before + NAME * (NAME + 1) // 2
    return prefix + classes * measuring.tower_flops(config.text, NAME, pairs)


def step_flops(setup: Setup) -> int:
    """Operations of the products that a method's step needs in the towers.

    Twice the forward pass where prompts are learned; images without visual prompts run forward
    only, and once for all templates that share a view.
    """
    config, settings = setup.sizes, row_settings.configure(setup.method, setup.changes)
    chosen, batch = settings.prompts, settings.optimizer.batch_size
    words = len(chosen.phrases.split()) - chosen.context
    text = 2 * chosen.templates * text_flops(config, chosen.context, words, setup.classes)
    if not prompt_tuning.kind_of(chosen).changes_images:
        return text + batch * image_flops(config)
    return text + 2 * chosen.templates * batch * image_flops(config, chosen.context)


def main() -> None:
    """Prints one table."""
    config = measuring.VIT_B16
    necessary = {
        ("image", "forward"): IMAGES * image_flops(config),
        ("image", "gradient"): 2 * IMAGES * image_flops(config, PROMPTS),
        ("coop", "step"): step_flops(Setup("coop")),
        ("cdc", "step"): step_flops(Setup("cdc")),
    }
    print(f"{measuring.LEGEND}\n\n{ROUNDS} rounds in turn\n{measuring.HEADER}")
    with contextlib.ExitStack() as stack:
        cases = {"image": measuring.Case(build_image)}
        cases |= {method: measuring.Case(build_step, Setup(method)) for method in ("coop", "cdc")}
        for case in cases.values():
            stack.enter_context(contextlib.closing(case))
        times = measuring.take_turns(cases, ROUNDS)
        peaks = {name: case.peak() for name, case in cases.items()}
    for (name, program), measured in times.items():
        compiled = cases[name].programs[program]
        flops = necessary[name, program]
        print(measuring.row(f"{program} {name}", compiled, measured, flops, peaks[name]))
