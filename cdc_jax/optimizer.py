"""The published methods' optimisers and schedules."""

import jax.numpy as jnp
import optax

from cdc_jax.config_type import ConfigDict

_UNITS = ("epoch", "step")


def steps(config: ConfigDict, steps_per_epoch: int) -> int:
    """Number of steps of a training: the setting `steps`, or if it is 0, of `epochs` epochs."""
    return config.steps or config.epochs * steps_per_epoch


def make(config: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    """A rate for each epoch or step: a cosine after a warm-up.

    Unit 0 of the warm-up runs at `warmup_rate`, unit k < `warmup` at learning_rate · k / warmup.
    Unit k >= `warmup` runs at learning_rate / 2 · (1 + cos(pi (k − warmup) / T)), with T units in
    total, the warm-up included (CoOp, MaPLe: one epoch of warm-up). With a `final_rate`, the cosine
    falls to this rate in place of 0.

    `sgd` has momentum 0.9. `sgd` and `adam` add weight decay to the gradient, before the momentum,
    as in PyTorch. `adamw` decays the weights by rate · weight_decay.

    Args:
      config: `name`, `learning_rate`, `warmup_rate`, `final_rate`, `weight_decay`, `epochs`,
        `steps`, `unit` of the schedule, `warmup` in units, `epsilon` of Adam.
      steps_per_epoch: steps of an epoch.

    Raises:
      ValueError: an unknown optimiser or unit, or a number below zero.
    """
    numbers = (
        "learning_rate", "warmup_rate", "final_rate", "weight_decay", "epochs", "steps", "warmup",
        "epsilon",
    )  # fmt: skip
    for key in numbers:
        if config[key] < 0:
            raise ValueError(f"optimizer.{key} must not be negative, got {config[key]}")
    decay, epsilon = config.weight_decay, config.epsilon
    rules = {
        "sgd": lambda rate: optax.chain(
            optax.add_decayed_weights(decay), optax.sgd(rate, momentum=0.9)
        ),
        "adam": lambda rate: optax.chain(
            optax.add_decayed_weights(decay), optax.adam(rate, eps=epsilon)
        ),
        "adamw": lambda rate: optax.adamw(rate, eps=epsilon, weight_decay=decay),
    }
    for key, choices in (("name", tuple(rules)), ("unit", _UNITS)):
        if config[key] not in choices:
            raise ValueError(
                f"unknown optimizer.{key} {config[key]!r}: choose one of {', '.join(choices)}"
            )
    total = steps(config, steps_per_epoch)
    unit = steps_per_epoch if config.unit == "epoch" else 1
    units, warmup = max(total / unit, 1), config.warmup
    final, fall = config.final_rate, config.learning_rate - config.final_rate

    def rate(step):
        k = step // unit
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * (k - warmup) / units))
        rising = jnp.where(k == 0, config.warmup_rate, config.learning_rate * k / max(warmup, 1))
        return jnp.where(k < warmup, rising, final + fall * cosine)

    return rules[config.name](rate)
