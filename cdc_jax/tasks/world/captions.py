"""Captions of the bundled world: a random grammar that mentions a random subset of the factors.

A full caption reads "a clean photo of a small tilted red striped star at the left on a navy tiled
background with a pink dot and white marks ." A caption mentions no factor that the style hides: a
sketch has no colours and no background.
"""

from collections.abc import Iterator

import numpy as np

from cdc_jax.tasks.world.factors import VALUES, Factors, Seed

TEMPLATE = "a photo of a {}."
"""The generic template, which captions use most."""

_PICTURE = ("photo", "picture", "image", "view")
_THING = ("thing", "shape", "object")
_OPENING = ("this is", "there is")

# How often a caption mentions a factor; chosen so that captions have about ten words.
_MENTION = {
    "picture": 0.6, "style": 0.5, "clean": 0.125, "size": 0.25, "rotation": 0.2, "colour": 0.55,
    "fill": 0.42, "shape": 0.88, "position": 0.4, "background": 0.45, "pattern": 0.5,
    "distractor": 0.5, "marks": 0.3, "stop": 0.5,
}  # fmt: skip


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    words = {word for values in VALUES.values() for word in values}
    grammar = "a an the of on with and in at is this there that background corner it one good bad"
    return sorted(words | {*_PICTURE, *_THING, *grammar.split(), "type", "mark", "marks"})


def captions(factors: Factors, seed: Seed) -> list[str]:
    """One random caption a scene.

    Args:
      factors: a batch of scenes.
      seed: any seed of `numpy.random.default_rng`.

    Returns:
      Captions of words separated by spaces, some closed by a full stop.
    """
    rng = np.random.default_rng(seed)
    count = len(factors["shape"])
    mentions = {name: rng.random(count) < p for name, p in _MENTION.items()}
    variants = rng.integers(12, size=(count, 2))
    return [
        " ".join(
            _words(
                {name: values[factors[name][i]] for name, values in VALUES.items()},
                {name: bool(flags[i]) for name, flags in mentions.items()},
                variants[i],
            )
        )
        for i in range(count)
    ]


def _words(scene: dict[str, str], mention: dict[str, bool], variant: np.ndarray) -> Iterator[str]:
    in_colour = scene["style"] != "sketch"
    if mention["picture"]:
        yield "a"
        if mention["clean" if scene["style"] == "clean" else "style"]:
            yield scene["style"]
        yield from (_PICTURE[variant[0] % 4], "of")
    elif variant[0] % 4 == 0:
        yield _OPENING[variant[0] // 4 % 2]
    yield "a"
    for factor in ("size", "rotation", "colour", "fill"):
        if mention[factor] and (in_colour or factor in ("size", "rotation")):
            yield scene[factor]
    yield scene["shape"] if mention["shape"] else _THING[variant[1] % 3]
    if mention["position"]:
        yield from ("at", "the", scene["position"])
    if mention["background"] and in_colour:
        yield from ("on", "a", scene["background"])
        if mention["pattern"]:
            yield scene["pattern"]
        yield "background"
    if mention["distractor"] and scene["distractor"] != "none":
        yield from ("with", "a")
        if in_colour:
            yield scene["distractor_colour"]
        yield scene["distractor"]
    if mention["marks"] and scene["marks"] != "none" and in_colour:
        yield from ("and", scene["marks"], "marks")
    if mention["stop"]:
        yield "."
