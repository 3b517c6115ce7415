"""`python -m cdc_jax pretrain` in a clone of the repository, see cdc_jax/commands/pretrain.py."""

from cdc_jax import commands

if __name__ == "__main__":
    commands.script("pretrain")
