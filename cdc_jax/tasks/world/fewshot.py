"""Few-shot tasks of the embedded world, whose spurious correlations are known and can be cut.

A class fixes two factors, G_r. Of the others, G_i = (background, pattern, colour, marks, style) are
tied to the class: with probability rho an image shows the class's own value g = pi(y) of all of
them, otherwise each is drawn uniformly. pi is a seeded map over base and new classes together.
Test splits, of base and new classes alike:

  iid    the training correlation
  int    do(G_i): the correlation is cut, every G_i uniform
  rev    the correlation is permuted: class y shows pi(sigma(y)), sigma without fixed points
  style  do(G_i), in the styles that no training image of the task has

(This project's choice.)
"""

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cdc_jax.tasks.task import Examples, Task
from cdc_jax.tasks.world import factors, render
from cdc_jax.tasks.world.captions import TEMPLATE

IRRELEVANT = ("background", "pattern", "colour", "marks", "style")
"""G_i of the aligned task."""

SPLITS = ("iid", "int", "rev", "style")
_TRAIN, _VAL, *_TEST = range(2 + len(SPLITS))  # streams of scenes
_SEEN_STYLES, _UNSEEN_STYLES = ("noisy", "blurry", "faded"), ("clean", "sketch")
# Small objects in poor pictures: in good ones the embedded CLIP makes too few errors to tell
# methods apart.
_SIZES = {"small": 0.8, "medium": 0.2}


@dataclasses.dataclass(frozen=True)
class WorldClass:
    """A class: its name, and the factor values that make an image belong to it."""

    name: str
    factors: dict[str, int]


def aligned_classes(seed: int) -> list[WorldClass]:
    """24 classes named as in pretraining: four fills x six shapes, drawn and ordered by the seed.

    No class is a combination that pretraining left out.
    """
    rng = np.random.default_rng([seed, 24])
    fills, shapes = factors.VALUES["fill"], factors.VALUES["shape"]
    while True:
        f, s = rng.permutation(len(fills))[:4], rng.permutation(len(shapes))[:6]
        pairs = np.stack(np.meshgrid(f, s, indexing="ij"), -1).reshape(-1, 2)
        if not ((5 * pairs[:, 0] + pairs[:, 1]) % 14 == 0).any():
            break
    return [
        WorldClass(f"{fills[f]} {shapes[s]}", {"fill": int(f), "shape": int(s)})
        for f, s in rng.permutation(pairs)
    ]


def load(config: ConfigDict) -> Task:
    """The few-shot task of `config.world`.

    Args:
      config: `seed`, `shots`, and `world` with `kind` ("aligned"), `rho` (strength of the spurious
        correlation, in [0, 1]) and `test_images` (a class and test split).

    Returns:
      The first half of the classes as base (trained on), the second as new; test splits
      `base_iid`, `new_iid` and so on.

    Raises:
      ValueError: an unknown kind, rho outside [0, 1], no shots, or a seed that is not one.
    """
    world = config.world
    if world.kind != "aligned":
        raise ValueError(f'unknown kind of world task {world.kind!r}: there is "aligned"')
    if not 0 <= world.rho <= 1:
        raise ValueError(f"world.rho is a probability, got {world.rho}")
    if config.shots < 1 or world.test_images < 1 or config.seed < 0:
        raise ValueError(
            "shots and world.test_images must be at least 1, seed at least 0; got "
            f"{config.shots}, {world.test_images}, {config.seed}"
        )
    classes = aligned_classes(config.seed)
    half = len(classes) // 2
    base, new = range(half), range(half, len(classes))
    own = correlated_values(len(classes), config.seed)

    def examples(members: range, count: int, stream: int, **kind: Any) -> Examples:
        seed = [config.seed, stream, members.start]
        chosen = np.repeat(members, count)
        scenes = _scenes(classes, chosen, own, seed, **kind)
        images = render.render(scenes, [*seed, 1])
        names = tuple(classes[m].name for m in members)
        return Examples(images, chosen - members.start, names)

    kinds: dict[str, dict[str, Any]] = {
        "iid": {"rho": world.rho},
        "int": {"rho": 0.0},
        "rev": {"rho": world.rho, "permuted": True},
        "style": {"rho": 0.0, "styles": _UNSEEN_STYLES},
    }
    test = {
        f"{half_name}_{split}": examples(members, world.test_images, stream, **kinds[split])
        for half_name, members in (("base", base), ("new", new))
        for split, stream in zip(SPLITS, _TEST, strict=True)
    }
    train = examples(base, config.shots, _TRAIN, rho=world.rho)
    # Four a class at most, as in the field's protocol.
    val = examples(base, min(config.shots, 4), _VAL, rho=world.rho)
    return Task(train, val, test, train.class_names, TEMPLATE, about=("shape", "fill"))


def correlated_values(classes: int, seed: int) -> factors.Factors:
    """pi: for every class its own value of each irrelevant factor, as balanced as can be."""
    rng = np.random.default_rng([seed, classes, 1])
    own = {}
    for name in IRRELEVANT:
        values = _SEEN_STYLES if name == "style" else factors.VALUES[name]
        indices = np.array([factors.index(name, v) for v in values])
        own[name] = indices[rng.permutation(classes) % len(indices)]
    return own


def permuted_classes(chosen: np.ndarray, classes: int) -> np.ndarray:
    """sigma: a cyclic shift within base and within new, so that base values stay in base."""
    half = classes // 2
    return chosen // half * half + (chosen % half + half // 2) % half


def _scenes(
    classes: list[WorldClass],
    chosen: np.ndarray,
    own: factors.Factors,
    seed: list[int],
    *,
    rho: float,
    permuted: bool = False,
    styles: tuple[str, ...] = _SEEN_STYLES,
) -> factors.Factors:
    """Scenes of the chosen classes, their irrelevant factors correlated with the class."""
    count = len(chosen)
    scenes = factors.sample(count, [*seed, 0])
    cut: dict[str, Any] = {name: factors.uniform(name) for name in IRRELEVANT}
    cut |= {"style": {name: 1 / len(styles) for name in styles}, "size": _SIZES}
    scenes = factors.do(scenes, [*seed, 2], **cut)
    giver = permuted_classes(chosen, len(classes)) if permuted else chosen
    correlated = np.random.default_rng([*seed, 3]).random(count) < rho
    tied = {name: np.where(correlated, own[name][giver], scenes[name]) for name in IRRELEVANT}
    relevant = {f: np.array([c.factors[f] for c in classes])[chosen] for f in classes[0].factors}
    return scenes | tied | relevant
