"""`python -m cdc_jax`."""

from cdc_jax import commands

if __name__ == "__main__":
    commands.main()
