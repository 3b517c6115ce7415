"""Pretrains a small CLIP: `%s --config=pretrain.py`.

A run that was stopped goes on where it was when it is started again with the same workdir.
"""

import json
from collections.abc import Sequence

from absl import flags

from cdc_jax import config_file
from cdc_jax.escaping import visible


def define() -> None:
    """Defines the flags."""
    config_file.define(default="pretrain.py")
    flags.DEFINE_string("workdir", "runs/pretrain", "Where checkpoints and the CLIP go.")


def main(argv: Sequence[str]) -> None:
    """Runs the recipe and prints what the CLIP knows."""
    from cdc_jax import pretrain, programs  # these import JAX, which takes seconds

    workdir = flags.FLAGS.workdir
    programs.keep()
    print(json.dumps(pretrain.pretrain(flags.FLAGS.config, workdir)))
    print(visible(f"CLIP in Hugging Face's format: {workdir}/clip"))
