"""Few-shot tasks of the embedded world, whose spurious correlations are known and can be cut."""

import dataclasses

import numpy as np

from cdc_jax.tasks.world import factors


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
