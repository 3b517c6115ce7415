"""The commands: `python -m cdc_jax run`, `cdc-jax run` and `python experiments/run.py` are one.

Each module has `define`, which defines the flags, and `main`. Its docstring begins the text of
`--help`, where absl writes the command as the user typed it in place of `%s`.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from cdc_jax import config_file, spelling

COMMANDS = {
    "run": "adapts CLIP to a task by several methods, and tests them",
    "report": "makes tables, plots and a page from runs",
    "predict": "classifies photographs by an adapted model",
    "export": "writes an adapted CLIP for other programs",
    "pretrain": "pretrains a small CLIP",
}
"""Command -> its purpose."""


def main() -> None:
    """Runs the command that the first argument names.

    Raises:
      SystemExit: with code 2 unless the first argument names a command or asks for help.
    """
    program = Path(sys.argv[0]).name
    program = "python -m cdc_jax" if program == "__main__.py" else program
    name = next(iter(sys.argv[1:]), "")
    if name in COMMANDS:
        _start(name, f"{program} {name}", sys.argv[2:])
    elif name in ("--help", "-h", ""):
        lines = [f"  {command:9} {purpose}" for command, purpose in COMMANDS.items()]
        last = f"{program} COMMAND --help lists the flags of a command."
        output = sys.stdout if name else sys.stderr
        print(f"usage: {program} COMMAND …", "", *lines, "", last, sep="\n", file=output)
        raise SystemExit(0 if name else 2)
    else:
        fault = f"unknown command {name!r}: did you mean {spelling.nearest(name, COMMANDS)!r}?"
        print(f"{program}: {fault} There are {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)


def script(name: str) -> None:
    """Runs one of `COMMANDS` as a script, with the script's arguments."""
    _start(name, f"python {sys.argv[0]}", sys.argv[1:])


def _start(name: str, typed: str, arguments: Sequence[str]) -> None:
    sys.argv = [typed, *arguments]
    command = importlib.import_module(f"{__name__}.{name}")
    # Flags are global to a process: only those of this command are defined.
    before = set(flags.FLAGS)
    command.define()
    for flag in set(flags.FLAGS) - before:
        flags.FLAGS.register_key_flag_for_module(typed, flags.FLAGS[flag])  # --help lists these
    sys.modules["__main__"].__doc__ = command.__doc__  # --help begins with it
    config_file.run(command.main)
