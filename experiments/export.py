"""`python -m cdc_jax export` in a clone of the repository, see cdc_jax/commands/export.py."""

from cdc_jax import commands

if __name__ == "__main__":
    commands.script("export")
