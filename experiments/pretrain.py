"""Pretrains a small CLIP: `python experiments/pretrain.py --config=pretrain.py`.

A run that was stopped goes on where it was when it is started again with the same workdir.
"""

import json

from absl import flags

from cdc_jax import config_file, pretrain, programs
from cdc_jax.escaping import visible

_CONFIG = config_file.define(__file__, default="pretrain.py")
_WORKDIR = flags.DEFINE_string("workdir", "runs/pretrain", "Where checkpoints and the CLIP go.")


def main(_):
    """Runs the recipe and prints what the CLIP knows."""
    programs.keep()
    print(json.dumps(pretrain.pretrain(_CONFIG.value, _WORKDIR.value)))
    print(visible(f"CLIP in Hugging Face's format: {_WORKDIR.value}/clip"))


if __name__ == "__main__":
    config_file.run(main, __file__)
