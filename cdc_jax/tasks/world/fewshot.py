"""Few-shot tasks of the bundled world, whose spurious correlations are known and can be cut.

A class fixes two factors, G_r. Other factors, G_i, are tied to the class: with probability rho an
image shows the class's value g = pi(y) of all of them, else each is drawn uniformly. pi is a seeded
map over base and new classes together. `kinds` lists the factors.
Test splits, of base and new classes alike:

  iid    the training correlation
  int    do(G_i): the correlation is cut, every G_i uniform
  rev    the correlation is permuted: class y shows pi(sigma(y)), sigma without fixed points
  style  do(G_i), in the styles that no training image of the task has

Two training sets that no real task offers measure the cost of the correlation, see
`Task.training_set`. `oracle` has many images under do(G_i). `redrawn` has several drawings of each
training scene under do(G_i).

(This project's choice.)
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from cdc_jax.config_type import ConfigDict
from cdc_jax.records import INTERVENTION, SplitRecord
from cdc_jax.tasks import splits
from cdc_jax.tasks.describe import describe
from cdc_jax.tasks.task import Examples, Task
from cdc_jax.tasks.world import factors, kinds
from cdc_jax.tasks.world.captions import TEMPLATE
from cdc_jax.tasks.world.kinds import Kind, WorldClass

SPLITS = ("iid", "int", "rev", "style")
PLENTY = 200
"""Images a class in the training set `oracle`."""
REDRAWN = 8
"""Drawings of each training scene in the training set `redrawn`."""

_TRAIN, _VAL, *_TEST, _ORACLE, _TARGET = range(4 + len(SPLITS))  # streams of scenes


def check(config: ConfigDict) -> None:
    """Checks the settings of a task of the world. For arguments and errors see `load`."""
    kinds.find(config.world.kind)
    if not 0 <= config.world.rho <= 1:
        raise ValueError(f"world.rho is a probability, got {config.world.rho}")
    bounds = {"shots": (config.shots, 1), "world.test_images": (config.world.test_images, 1)}
    for key, (value, least) in (bounds | {"seed": (config.seed, 0)}).items():
        if value < least:
            raise ValueError(f"{key} must be at least {least}, got {value}")


def load(config: ConfigDict) -> Task:
    """The few-shot task of `config.world`.

    Args:
      config: `seed`, `shots`, `validation_shots`, and `world` with `kind` (a key of `kinds.KINDS`),
        `rho` (strength of the spurious correlation, in [0, 1]) and `test_images` (a class and test
        split).

    Returns:
      The task. The first half of the classes is base and trained on, the second half is new. The
      test splits are `base_iid`, `new_iid` and so on. Each of `config.targets` adds a split under
      do(G_i), with another kind's classes or the base classes in another domain; see
      `kinds.targets`.

    Raises:
      ValueError: the kind is unknown, rho is outside [0, 1], shots or test images are below 1, the
        seed is negative, or no target can be used.
    """
    check(config)
    settings = config.world
    kind = kinds.find(settings.kind)
    count = math.prod(kind.relevant.values())
    base, new = range(count // 2), range(count // 2, count)
    examples = partial(_examples, kind, config.seed)
    correlations: dict[str, dict[str, Any]] = {
        "iid": {"rho": settings.rho},
        "int": {"rho": 0.0},
        "rev": {"rho": settings.rho, "permuted": True},
        "style": {"rho": 0.0, "styles": kind.unseen_styles},
    }
    targets = kinds.targets(config.targets, settings.kind)
    test = {}
    for half, members in (("base", base), ("new", new)):
        for split, stream in zip(SPLITS, _TEST, strict=True):
            split_examples = examples(members, settings.test_images, stream, **correlations[split])
            record = SplitRecord(half, split, headline=split == INTERVENTION and not targets)
            test[f"{half}_{split}"] = dataclasses.replace(split_examples, split=record)
    for name, target in targets.items():
        members = base if target.relevant == kind.relevant else range(len(base) + len(new))
        split_examples = _examples(
            target, config.seed, members, settings.test_images, _TARGET, rho=0.0
        )
        test[name] = dataclasses.replace(split_examples, split=SplitRecord("target"))
    domains = targets and all(name in kinds.DOMAINS for name in targets)
    train = examples(base, config.shots, _TRAIN, rho=settings.rho)
    return Task(
        train=train,
        val=examples(
            base,
            splits.validation_shots(config.shots, config.validation_shots),
            _VAL,
            rho=settings.rho,
        ),
        test=test,
        class_names=train.class_names,
        template=TEMPLATE,
        label_properties=tuple(kind.relevant),
        record=describe(
            config.to_dict(),
            "transfer" if targets else "base_new",
            "Domain generalisation" if domains else "" if targets else "The bundled world",
        ),
        others={
            "oracle": partial(examples, base, PLENTY, _ORACLE, rho=0.0),
            "redrawn": partial(
                examples, base, config.shots, _TRAIN, rho=settings.rho, redrawn=REDRAWN
            ),
        },
    )


def correlated_values(kind: Kind, seed: int) -> factors.Factors:
    """pi: the value of each irrelevant factor for every class, as balanced as possible."""
    classes = math.prod(kind.relevant.values())
    rng = np.random.default_rng([seed, classes, 1])
    class_values = {}
    for name in kind.irrelevant:
        values = kind.styles if name == "style" else factors.VALUES[name]
        indices = np.array([factors.index(name, v) for v in values])
        class_values[name] = indices[rng.permutation(classes) % len(indices)]
    return class_values


def permuted_classes(labels: np.ndarray, classes: int) -> np.ndarray:
    """sigma: a cyclic shift within base and within new, so that base values stay in base."""
    half = classes // 2
    return labels // half * half + (labels % half + half // 2) % half


def _examples(
    kind: Kind,
    seed: int,
    members: range,
    count: int,
    stream: int,
    *,
    redrawn: int = 0,
    **correlation: Any,
) -> Examples:
    """`count` images of each member of the classes, from its own stream of scenes."""
    classes = kinds.draw_classes(kind, seed)
    class_values = correlated_values(kind, seed)
    stream_seed = [seed, stream, members.start]
    labels = np.repeat(members, count)
    scenes = _scenes(kind, classes, labels, class_values, stream_seed, **correlation)
    if redrawn:
        labels = np.tile(labels, redrawn)
        scenes = {name: np.tile(values, redrawn) for name, values in scenes.items()}
        scenes = factors.do(scenes, [*stream_seed, 4], **_cut(kind, kind.styles))
    images = kind.render(scenes, [*stream_seed, 1])
    return Examples(images, labels - members.start, tuple(classes[m].name for m in members))


def _scenes(
    kind: Kind,
    classes: list[WorldClass],
    labels: np.ndarray,
    class_values: factors.Factors,
    seed: list[int],
    *,
    rho: float,
    permuted: bool = False,
    styles: tuple[str, ...] = (),
) -> factors.Factors:
    """Scenes of the labels' classes. Their irrelevant factors are correlated with the class."""
    count = len(labels)
    scenes = factors.sample(count, [*seed, 0])
    interventions = _cut(kind, styles or kind.styles)
    scenes = factors.do(scenes, [*seed, 2], **{**interventions, **kind.frequencies})
    giver = permuted_classes(labels, len(classes)) if permuted else labels
    correlated = np.random.default_rng([*seed, 3]).random(count) < rho
    tied = {
        name: np.where(correlated, class_values[name][giver], scenes[name])
        for name in kind.irrelevant
    }
    relevant = {f: np.array([c.factors[f] for c in classes])[labels] for f in kind.relevant}
    return scenes | tied | relevant


def _cut(kind: Kind, styles: tuple[str, ...]) -> dict[str, Mapping[str, float]]:
    """do(G_i): every irrelevant factor is uniform, and the style is uniform over `styles`."""
    uniform: dict[str, Mapping[str, float]] = {n: factors.uniform(n) for n in kind.irrelevant}
    return uniform | {"style": {name: 1 / len(styles) for name in styles}}
