"""`python -m cdc_jax run` in a clone of the repository, see cdc_jax/commands/run.py."""

from cdc_jax import commands

if __name__ == "__main__":
    commands.script("run")
