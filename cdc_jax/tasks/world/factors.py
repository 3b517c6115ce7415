"""The generative factors of the bundled world, their distributions, and interventions on them.

A scene is one value for each factor. `Factors` holds a batch of scenes: a dict from factor name to
an integer array of value indices, one entry a scene. Everything here is a pure function of its
arguments and a seed (this project's choice of world; the paper has none).
"""

from collections.abc import Mapping, Sequence

import numpy as np

Factors = dict[str, np.ndarray]
Seed = int | Sequence[int]

VALUES: dict[str, tuple[str, ...]] = {
    "shape": tuple(
        "circle square triangle star cross heart ring moon hexagon arrow house bolt tee ell fork "
        "saltire oval bar dome hourglass flower gear tree fish arch drop flag key".split()
    ),
    "colour": tuple("red orange yellow green cyan blue purple pink brown silver".split()),
    "fill": ("solid", "striped", "checkered", "dotted", "hollow", "shaded"),
    "background": ("white", "black", "navy", "olive", "teal", "maroon", "beige", "lilac"),
    "pattern": ("plain", "lined", "speckled", "tiled"),
    "size": ("small", "medium", "large"),
    "position": ("center", "left", "right", "top", "bottom"),
    "rotation": ("upright", "tilted", "turned"),
    "distractor": ("none", "dot", "box", "stick"),
    "distractor_colour": tuple(
        "red orange yellow green cyan blue purple pink brown silver".split()
    ),
    "marks": ("none", "white", "black"),
    "style": ("clean", "noisy", "blurry", "faded", "sketch"),
}
"""Factor name -> the names of its values; an index in `Factors` points into this tuple."""

# Most scenes are clean, uncluttered ones; every other factor is uniform.
_FREQUENCIES: dict[str, tuple[float, ...]] = {
    "style": (0.68, 0.10, 0.08, 0.08, 0.06),
    "distractor": (0.6625, 0.1125, 0.1125, 0.1125),
    "marks": (2 / 3, 1 / 6, 1 / 6),
}


def index(factor: str, value: str | int) -> int:
    """The index of a factor's value, given by name or already as an index.

    Raises:
      ValueError: the factor is unknown, or does not have the value.
    """
    if factor not in VALUES:
        raise ValueError(f"unknown factor {factor!r}: the world has {', '.join(VALUES)}")
    names = VALUES[factor]
    if isinstance(value, str) and value in names:
        return names.index(value)
    if not isinstance(value, str) and 0 <= value < len(names):
        return int(value)
    raise ValueError(f"factor {factor!r} has no value {value!r}: it has {', '.join(names)}")


def sample(count: int, seed: Seed, *, combinations: str = "all") -> Factors:
    """Draws scenes with independent factors.

    Args:
      count: number of scenes.
      seed: any seed of `numpy.random.default_rng`.
      combinations: `"all"`, or `"seen"` to leave out the combinations of `held_out`.

    Returns:
      A batch of `count` scenes.
    """
    if combinations not in ("all", "seen"):
        raise ValueError(f'combinations must be "all" or "seen", got {combinations!r}')
    rng = np.random.default_rng(seed)
    factors = {
        name: rng.choice(len(values), count, p=_FREQUENCIES.get(name))
        for name, values in VALUES.items()
    }
    if combinations == "seen":
        while (again := np.flatnonzero(held_out(factors))).size:
            for name in ("colour", "fill"):
                factors[name][again] = rng.choice(len(VALUES[name]), again.size)
    return factors


def held_out(factors: Mapping[str, np.ndarray]) -> np.ndarray:
    """The scenes with a combination that pretraining never saw.

    Every shape lacks one of the ten colours and every fill two of the 28 shapes: 28 of 280
    colour-shape pairs and 12 of 168 fill-shape pairs. Each word is seen, the pair is not.

    Args:
      factors: scenes. A pair counts only if both of its factors are given.

    Returns:
      One boolean a scene.
    """
    out = np.zeros(len(next(iter(factors.values()))), bool)
    if {"shape", "colour"} <= factors.keys():
        out |= (3 * factors["shape"] + factors["colour"]) % 10 == 0
    if {"fill", "shape"} <= factors.keys():
        out |= (5 * factors["fill"] + factors["shape"]) % 14 == 0
    return out


def do(
    factors: Mapping[str, np.ndarray],
    seed: Seed = 0,
    **interventions: str | int | np.ndarray | Mapping[str, float],
) -> Factors:
    """Sets factors from outside: Pearl's do(factor = ...).

    Args:
      factors: a batch of scenes, which stays unchanged.
      seed: for distributions only.
      **interventions: for a factor a value (name or index), one index a scene (an integer
        array), or a distribution (value name -> probability).

    Returns:
      The scenes after the intervention.

    Raises:
      ValueError: a factor or value is unknown, probabilities do not sum to one, or an array has a
        wrong shape.

    Example:
      >>> scenes = do(sample(3, seed=0), colour="red", marks={"none": 0.5, "white": 0.5})
      >>> [VALUES["colour"][i] for i in scenes["colour"]]
      ['red', 'red', 'red']
    """
    rng = np.random.default_rng(seed)
    count = len(next(iter(factors.values())))
    changed = {name: np.array(indices) for name, indices in factors.items()}
    for name, value in interventions.items():
        if isinstance(value, Mapping):
            choices = [index(name, v) for v in value]
            weights = list(value.values())
            if not np.isclose(sum(weights), 1) or min(weights) < 0:
                raise ValueError(f"probabilities of {name!r} must sum to 1, got {dict(value)}")
            changed[name] = rng.choice(choices, count, p=weights)
        elif isinstance(value, np.ndarray):
            if value.shape != (count,):
                raise ValueError(f"{name!r} needs {count} indices, got shape {value.shape}")
            if value.size:
                index(name, int(value.min())), index(name, int(value.max()))
            changed[name] = value.astype(int)
        else:
            changed[name] = np.full(count, index(name, value))
    return changed


def uniform(factor: str) -> dict[str, float]:
    """The uniform distribution over a factor's values, for `do`."""
    return {value: 1 / len(VALUES[factor]) for value in VALUES[factor]}
