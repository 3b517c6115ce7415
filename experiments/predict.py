"""`python -m cdc_jax predict` in a clone of the repository, see cdc_jax/commands/predict.py."""

from cdc_jax import commands

if __name__ == "__main__":
    commands.script("predict")
