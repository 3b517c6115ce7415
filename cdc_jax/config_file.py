"""Configuration files on the command line, with checked overrides.

`--config=fewshot.py` names a file whose `get_config` returns an ml_collections ConfigDict.
`--config=fewshot.py:shots=4,seed=2` passes it the part after the colon. `--config.shots=4` changes
one key. `grammar` reads both forms. An unknown key or a value of a wrong type is refused before any
work.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from cdc_jax import grammar, spelling, streams
from cdc_jax.config_type import ConfigDict
from cdc_jax.escaping import visible
from cdc_jax.interruption import Interrupted

_CONFIGS = Path(__file__).parent / "configs"
_LISTED = 12  # keys that a message lists; more would hide the nearest one


def define(default: str) -> None:
    """Defines the flag `--config`, whose value is a locked configuration.

    Args:
      default: the file of `configs/` that is used where none is given.
    """
    from ml_collections import config_flags

    with _one_line(sys.argv[0]):  # already reads the command line
        config_flags.DEFINE_config_file(
            "config", str(_CONFIGS / default), "Configuration file[:key=value,…]."
        )


def run(main: Callable[[list[str]], None]) -> None:
    """`absl.app.run`, with configuration files looked up in the package's `configs/` as well.

    An error of the user ends the program with a message of one line and exit code 1. A run that was
    stopped from outside and saved ends with `interruption.EXIT_CODE`. Other errors show a
    traceback. A reader of the output that closes it, such as `| head`, does not end the program.
    """
    streams.endure()

    def guarded(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        configured = "config" in flags.FLAGS
        if configured and argv[1:]:
            raise SystemExit(
                f"{argv[0]}: unexpected {argv[1]!r}: settings are given as "
                "--config=FILE.py:KEY=VALUE,… or --config.KEY=VALUE"
            )
        try:
            main(argv)
        except KeyboardInterrupt:
            then = ": the same command goes on at the newest checkpoint" if configured else ""
            print(f"stopped{then}", file=sys.stderr, flush=True)
            raise SystemExit(130) from None
        except Interrupted as stopped:
            print(visible(str(stopped), keep="\n"), file=sys.stderr, flush=True)
            raise
        except (ValueError, AttributeError, OSError, FloatingPointError) as error:
            message = visible(str(error), keep="\n")
            raise SystemExit(f"{type(error).__name__}: {message}") from None

    argv = [resolved(argument, _CONFIGS) for argument in sys.argv]
    app.run(guarded, argv=argv, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    with _one_line(argv[0]):
        return flags.FLAGS(argv)


@contextlib.contextmanager
def _one_line(command: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:  # a key of a part: its name and a hint, on two lines
        key, *hint = str(error.args[0]).split("\n")
        named = [flag for flag in sys.argv if key.strip("'\"") in flag.partition("=")[0].split(".")]
        message = " ".join([key, *(f"in {flag}:" for flag in named[:1]), *hint])
        raise SystemExit(visible(f"{command}: unknown key {message.rstrip(':')}")) from None
    except (flags.Error, AttributeError) as error:
        # ml_collections hands on the text of a whole traceback; its last line is the message.
        message = str(error).replace("\\n", "\n").strip().splitlines()[-1]
        if "before a value for --config" in message:
            message = f"{message}: write --config=FILE.py first, and --config.KEY=VALUE after it"
        raise SystemExit(visible(f"{command}: {message}")) from None


def resolved(argument: str, folder: Path) -> str:
    """An argument in the form of absl and ml_collections: with the file's path, without quotes.

    Args:
      argument: of the command line.
      folder: a further folder of configuration files.
    """
    flag, equals, value = argument.partition("=")
    if flag.lstrip("-").startswith("config.") and equals:
        return f"{flag}={grammar.unquoted(value)}"
    if flag not in ("--config", "-config") or not equals:
        return argument
    name, colon, settings = value.partition(":")
    if Path(name).exists():
        return argument
    if not (folder / name).exists():
        names = ", ".join(sorted(p.name for p in folder.glob("[!_]*.py")))
        raise SystemExit(f"no configuration file {name!r} here or in {folder}: there are {names}")
    return f"{flag}={folder / name}{colon}{settings}"


def apply(config: ConfigDict, argument: str) -> ConfigDict:
    """Applies `key=value,key=value` to a configuration and locks it.

    Args:
      config: the defaults; keys of nested parts are written with dots.
      argument: the part after the colon of `--config=file.py:…`, see `grammar`.

    Raises:
      ValueError: unknown key (the message names the nearest one), or a value of another type.
    """
    before, settings = grammar.settings(grammar.split(argument, ",") if argument else [], ",")
    if before:
        raise ValueError(f"expected key=value, got {before[0]!r}")
    return assign(config, settings).lock()


def flat(settings: Mapping[str, Any], parents: str = "") -> dict[str, Any]:
    """Nested settings by name, nested keys joined by dots.

    `flax.traverse_util.flatten_dict` does the same, but imports JAX, which takes seconds.

    >>> flat({"seed": 1, "world": {"rho": 0.9, "kind": {}}})
    {'seed': 1, 'world.rho': 0.9}
    """
    named: dict[str, Any] = {}
    for key, value in settings.items():
        named |= (
            flat(value, f"{parents}{key}.")
            if isinstance(value, Mapping)
            else {f"{parents}{key}": value}
        )
    return named


def assign(config: ConfigDict, settings: Iterable[tuple[str, str]]) -> ConfigDict:
    """Sets keys to the values of texts. For errors see `apply`."""
    for key, text in settings:
        owner, names = config, key.split(".")
        for depth, name in enumerate(names):
            if name not in _keys(owner):
                raise ValueError(_unknown(name, _keys(owner)) + _at_the_top(config, names[depth:]))
            if names[depth + 1 :]:
                owner = owner[name]
        owner[name] = grammar.value(key, text, owner.get_type(name))
    return config


def _keys(part: Any) -> list[str]:
    """The keys of a part of a configuration; none of a value."""
    from ml_collections import ConfigDict

    return list(part.keys()) if isinstance(part, ConfigDict) else []


def _unknown(key: str, keys: Sequence[str]) -> str:
    if not keys:
        return f"unknown key {key!r}, nothing is below"
    listed = f" There are {', '.join(keys)}" if len(keys) <= _LISTED else ""
    return f"unknown key {key!r}: did you mean {spelling.nearest(key, keys)!r}?{listed}"


def _at_the_top(config: ConfigDict, names: Sequence[str]) -> str:
    """The hint that names of an unknown key are a key of the whole configuration."""
    part: Any = config
    for name in names:
        if name not in _keys(part):
            return ""
        part = part[name]
    return f". The configuration itself has {'.'.join(names)}: write that alone"
