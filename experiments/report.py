"""`python -m cdc_jax report` in a clone of the repository, see cdc_jax/commands/report.py."""

from cdc_jax import commands

if __name__ == "__main__":
    commands.script("report")
