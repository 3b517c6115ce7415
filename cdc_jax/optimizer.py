"""The published methods' optimiser and schedule."""

import jax.numpy as jnp
import optax

from cdc_jax.config_type import ConfigDict


def make(config: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    """A rate an epoch, by a cosine after one warm-up epoch (CoOp, MaPLe).

    Epoch 0 runs at `warmup_rate`, epoch k >= 1 at learning_rate / 2 · (1 + cos(pi (k − 1) / T)),
    with T epochs in total. `sgd` has momentum 0.9. Weight decay is added to the gradient before the
    momentum, as in PyTorch. `adam` has its usual constants.

    Args:
      config: `name`, `learning_rate`, `warmup_rate`, `weight_decay`, `epochs`.
      steps_per_epoch: steps of one rate.

    Raises:
      ValueError: an unknown optimiser, or a rate, decay or number of epochs below zero.
    """
    for key in ("learning_rate", "warmup_rate", "weight_decay", "epochs"):
        if config[key] < 0:
            raise ValueError(f"optimizer.{key} must not be negative, got {config[key]}")
    rules = {"sgd": lambda rate: optax.sgd(rate, momentum=0.9), "adam": optax.adam}
    if config.name not in rules:
        raise ValueError(
            f"unknown optimizer.name {config.name!r}: choose one of {', '.join(rules)}"
        )

    def rate(step):
        epoch = step // steps_per_epoch
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * (epoch - 1) / max(config.epochs, 1)))
        return jnp.where(epoch == 0, config.warmup_rate, config.learning_rate * cosine)

    return optax.chain(optax.add_decayed_weights(config.weight_decay), rules[config.name](rate))
