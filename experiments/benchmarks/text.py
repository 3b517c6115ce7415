"""The text path at ViT-B/16 sizes with random weights: all its savings, and their price.

    python experiments/benchmark.py --only=text

The forms compute the same features of M = 4 templates with d = 4 learned vectors each:

  full       all 77 tokens of every text
  cut        up to the longest end of text
  prefix     what the product runs: start-of-text and learned vectors once a template, the names
             attend to them; activations within `clip.backbone.TEXT_MEMORY`

`gradient` is the derivative by the learned vectors of a function of all features, forward pass
included. Names have 8 tokens (or 4), a full stop and an end of text. The full form keeps all
activations, whatever the memory: it is not slowed by recomputing.
"""

import contextlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import measuring

from cdc_jax import clip as clip_lib
from cdc_jax.clip.backbone import ClipBackbone

TEMPLATES, CONTEXT = 4, 4
RUNS = (  # K, rounds, cases: form, tokens of a name, dtype
    (10, 3, (("full", 8, "float32"), ("cut", 8, "float32"), ("prefix", 8, "float32"))),
    (100, 2, (("full", 8, "float32"), *(("prefix", n, "float32") for n in (8, 4)),
              ("prefix", 8, "bfloat16"))),
    (1000, 1, (("prefix", 8, "float32"),)),
)  # fmt: skip


class StartOnly(clip_lib.Tokenizer):
    """What is needed of a tokenizer where all names are drawn: the start-of-text token."""

    def __init__(self, start_id: int):
        self.start_id = start_id


def build(form: str, classes: int, name: int, dtype: str) -> dict[str, tuple[Callable, tuple]]:
    """Forward pass and gradient of one form, as a case."""
    return programs(measuring.random_clip(measuring.VIT_B16, dtype), form, classes, name)


def programs(
    clip: clip_lib.Clip, form: str, classes: int, name: int
) -> dict[str, tuple[Callable, tuple]]:
    """Forward pass and gradient of one form on a CLIP, with their arguments."""
    start, end = clip.config.vocab_size - 2, clip.config.vocab_size - 1
    keys = jax.random.split(jax.random.key(0), 3)
    words = np.asarray(jax.random.randint(keys[0], (classes, name + 1), 1, start), np.int32)
    names = np.pad(words, ((0, 0), (0, 1)), constant_values=end)
    width, embed = clip.config.text.width, clip.config.embed_width
    parameters = {"context": 0.02 * jax.random.normal(keys[1], (TEMPLATES, 1, CONTEXT, width))}
    weighting = jax.random.normal(keys[2], (TEMPLATES, classes, embed))
    length = clip.config.context_length if form == "full" else 1 + CONTEXT + names.shape[1]
    texts = np.full((classes, length), end, np.int32)
    texts[:, : 1 + CONTEXT] = start
    texts[:, 1 + CONTEXT : 1 + CONTEXT + names.shape[1]] = names

    tokenizer = StartOnly(start)

    def features(parameters, clip, names, texts):
        if form == "prefix":
            none = np.zeros((TEMPLATES, 0), np.int32)
            backbone = ClipBackbone(clip, tokenizer)
            return backbone.encode_prompted(parameters["context"], none, names)
        return clip_lib.normalize(
            jax.vmap(lambda context: clip.text(texts, context))(parameters["context"])
        )

    def weighed(parameters, clip, names, texts, weighting):
        return jnp.vdot(features(parameters, clip, names, texts), weighting)

    arguments = (parameters, clip, names, texts)
    return {
        "forward": (features, arguments),
        "gradient": (jax.grad(weighed), (*arguments, weighting)),
    }


def necessary(config: clip_lib.ClipConfig, form: str, classes: int, name: int) -> int:
    """Operations of the products that a form's forward pass needs; a gradient needs twice that.

    A token attends to itself and to those before it. See `measuring.tower_flops`.
    """
    before, own = 1 + CONTEXT, name + 2

    def tower(tokens: int, earlier: int = 0) -> int:
        pairs = tokens * earlier + tokens * (tokens + 1) // 2
        return measuring.tower_flops(config.text, tokens, pairs)

    projection = 2 * config.text.width * config.embed_width
    if form == "prefix":
        return TEMPLATES * (tower(before) + classes * (tower(own, before) + projection))
    length = config.context_length if form == "full" else before + own
    return TEMPLATES * classes * (tower(length) + projection)


def main() -> None:
    """Prints a table for each number of classes."""
    print(measuring.LEGEND)
    for classes, rounds, chosen in RUNS:
        print(f"\nK = {classes}, M = {TEMPLATES}, {rounds} rounds in turn\n{measuring.HEADER}")
        with contextlib.ExitStack() as stack:
            cases = {}
            for form, name, dtype in chosen:
                case = measuring.Case(build, form, classes, name, dtype)
                cases[form, name, dtype] = stack.enter_context(contextlib.closing(case))
            times = measuring.take_turns(cases, rounds)
            peaks = {key: case.peak() for key, case in cases.items()}
        for (form, name, dtype), program in times:
            key = (form, name, dtype)
            factor = 2 if program == "gradient" else 1
            print(
                measuring.row(
                    f"{program} {form} {name} {dtype}",
                    cases[key].programs[program],
                    times[key, program],
                    factor * necessary(measuring.VIT_B16, form, classes, name),
                    peaks[key],
                )
            )
        _print_ratios(classes, times)


def _print_ratios(classes: int, times: dict) -> None:
    """What the savings bring against the full form, and what they could."""
    base = ("full", 8, "float32")
    for key, program in times:
        if program != "gradient" or key == base or (base, program) not in times:
            continue
        form, name, dtype = key
        ratio = float(np.median(times[base, program].seconds / times[key, program].seconds))
        full, own = (necessary(measuring.VIT_B16, f, classes, name) for f in ("full", form))
        print(
            f"gradient {form} {name} {dtype}: {ratio:.2f} times as fast as full; necessary "
            f"operations {full / own:.2f} to 1; {ratio * own / full:.2f} of that"
        )
