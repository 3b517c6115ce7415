"""Pretrains the bundled CLIP from nothing on scenes of the causal world.

    python experiments/pretrain.py --config=pretrain.py
    python experiments/pretrain.py --config=pretrain.py:short

The first command takes 80 minutes on one core of a 2-core x86 machine with AVX-512 bfloat16. The
second trains on a ninth of the images. The same command continues a stopped run.
"""

from ml_collections import ConfigDict


def get_config(recipe: str = "full") -> ConfigDict:
    """The recipe: `full`, or `short` for a few minutes."""
    if recipe not in ("full", "short"):
        raise ValueError(f"unknown recipe {recipe!r}: full or short")
    config = ConfigDict()
    config.seed = 0  # of the weights' initialisation and of all scenes
    config.model = ConfigDict(
        dict(
            vision=dict(width=192, depth=6, heads=6),
            text=dict(width=128, depth=4, heads=4),
            embed_width=128,
            patch_size=8,
            context_length=77,
        )
    )
    config.steps = 13_000 if recipe == "full" else 1_500
    config.batch_size = 64
    config.learning_rate = 2e-3
    config.warmup_steps = 200
    config.decay_fraction = 0.35  # of the steps, at the end, with a linearly falling rate
    config.weight_decay = 0.01
    config.gradient_norm = 1.0
    # Auxiliary heads on the image tower, dropped after pretraining: each factor from the class
    # token, the object's mask from the patches.
    config.factor_weight = 0.5
    config.mask_weight = 8.0
    # Fraction of the steps during which scenes go from easy (plain, large, upright) to the full
    # distribution.
    config.curriculum_fraction = 0.15
    config.evaluate_every = 1_000
    config.evaluation_scenes = 1_000
    config.checkpoint_every = 500
    return config
