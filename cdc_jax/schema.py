"""The one reader of JSON files and records: sizes are bounded first, then every value is checked.

A table of kinds describes the content of a file. A value of another kind raises an error of one
line, which names the file, the key, the value and the remedy.

Example:
  >>> sizes = record(hidden_size=integer(1, 4096), hidden_act=optional(text(), "quick_gelu"))
  >>> check({"hidden_size": 768}, sizes, "config.json", "mend it")
  {'hidden_size': 768, 'hidden_act': 'quick_gelu'}
  >>> check({"hidden_size": "768"}, sizes, "config.json", "mend it")
  Traceback (most recent call last):
  ValueError: config.json: hidden_size must be a whole number from 1 to 4096, got '768'; mend it
"""

import dataclasses
import json
import math
import os
import reprlib
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from etils import epath

LARGEST = 64 * 2**20
"""The default bound of a JSON file, in bytes."""
DEEPEST = 64
"""The deepest nesting of lists and objects."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 3


class Misfit(ValueError):
    """A value that is not of the expected kind.

    Attributes:
      key: of the value.
      problem: what is wrong, such as "must be a list, got 3".
    """

    def __init__(self, key: str, problem: str):
        super().__init__(key, problem)
        self.key, self.problem = key, problem

    def __str__(self) -> str:
        return f"{self.key} {self.problem}".strip()


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of values.

    Attributes:
      what: name of the kind in messages, such as "a whole number".
      read: (value, key) -> the value as the program uses it; raises `Misfit`.
      default: for a key that is missing or null; `REQUIRED` for a key that must be there.
    """

    what: str
    read: Callable[[Any, str], Any]
    default: Any = ...


REQUIRED = ...


def shown(value: Any) -> str:
    """A value for a message: short, in one line, without control characters."""
    return _SHORT.repr(value)


# ---- Files


def require_regular(path: Path | epath.Path) -> None:
    """Requires a regular file: the others may have no end.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the path is a folder, a pipe, a device or a socket.
    """
    if "://" in os.fspath(path):  # an object store has regular files only
        if not path.exists():
            raise FileNotFoundError(f"{path.name} is missing from {path.parent}")
        return
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path.name} is missing from {path.parent}") from None
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise ValueError(f"{path} is {kind}, not a regular file: put the file itself there")


def read_bytes(path: Path | epath.Path, largest: int = LARGEST) -> bytes:
    """The contents of a regular file.

    Args:
      path: of the file.
      largest: bytes that it may hold.

    Raises:
      FileNotFoundError, ValueError: see `require_regular`; a larger file.
    """
    require_regular(path)
    size = path.stat().length if isinstance(path, epath.Path) else path.stat().st_size
    if size > largest:
        raise ValueError(
            f"{path} holds {size} bytes, more than the {largest} that such a file may hold: is it "
            "the right file?"
        )
    with path.open("rb") as file:
        return file.read(size)  # no more: a file that grows while it is read stays bounded


def read_text(path: Path | epath.Path, remedy: str, largest: int = LARGEST) -> str:
    """The text of a regular file in UTF-8, with or without a byte order mark.

    Raises:
      FileNotFoundError, ValueError: see `read_bytes`; another encoding.
    """
    return _text(read_bytes(path, largest), str(path), remedy)


def read_json(
    path: Path | epath.Path, kind: Kind | None = None, *, remedy: str, largest: int = LARGEST
) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
      path: of the file.
      kind: what the object must hold; None takes any object.
      remedy: the end of an error's message: what the user should do.
      largest: bytes that the file may hold.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is not regular, too large, damaged, or its object is of another kind.
    """
    return parse(read_bytes(path, largest), kind, where=str(path), remedy=remedy)


def parse(
    content: str | bytes, kind: Kind | None = None, *, where: str, remedy: str
) -> dict[str, Any]:
    """The object in a JSON text, such as a line of a file of one object a line.

    Args:
      content: the text.
      kind: see `read_json`.
      where: what messages call it.
      remedy: see `read_json`.

    Raises:
      ValueError: as `read_json`.
    """
    value = parse_value(content, where=where, remedy=remedy)
    if not isinstance(value, dict):
        name = type(value).__name__
        raise ValueError(f"{where}: expected a JSON object, got {name}; {remedy}")
    return value if kind is None else check(value, kind, where, remedy)


def parse_value(content: str | bytes, *, where: str, remedy: str) -> Any:
    """The value of a JSON text.

    Args:
      content: the text.
      where: what messages call it.
      remedy: see `read_json`.

    Raises:
      ValueError: the text is not JSON in UTF-8, has a key twice in an object, or is nested too
        deeply.
    """
    if isinstance(content, bytes):
        content = _text(content, where, remedy)
    try:
        value = json.loads(content, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply; {remedy}") from None
    except Misfit as error:
        raise ValueError(f"{where} {error.problem}; {remedy}") from None
    except ValueError as error:
        raise ValueError(f"{where}: half-written or not JSON ({error}); {remedy}") from None
    _require_shallow(value, where, remedy)
    return value


def check(value: Any, kind: Kind, where: str, remedy: str) -> Any:
    """Returns a value as its kind reads it.

    Raises:
      ValueError: the value is of another kind; the message names `where`, the key and the value.
    """
    try:
        return kind.read(value, "")
    except Misfit as error:
        place = f"{where}: {error.key}" if error.key else where
        raise ValueError(f"{place} {error.problem}; {remedy}") from None


def _text(content: bytes, where: str, remedy: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not text in UTF-8 ({error}); {remedy}") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise Misfit("", f"has the key {shown(twice)} twice")
    return values


def _require_shallow(value: Any, where: str, remedy: str) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(DEEPEST):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"{where} is nested more than {DEEPEST} deep; {remedy}")


# ---- Kinds


def integer(least: int | None = None, most: int | None = None) -> Kind:
    """A whole number within bounds; neither true, nor 3.0, nor "3"."""
    what = f"a whole number{_bounds(least, most)}"

    def fits(value: Any) -> bool:
        return type(value) is int and _within(value, least, most)

    return _simple(what, fits)


def number(
    least: float | None = None, most: float | None = None, above: float | None = None
) -> Kind:
    """A finite number within bounds; `above` is one that it must exceed. It becomes a float."""
    what = f"a finite number{_bounds(least, most, above)}"

    def fits(value: Any) -> bool:
        if type(value) not in (int, float) or abs(value) > 1e300 or not math.isfinite(value):
            return False
        return _within(value, least, most) and (above is None or value > above)

    return _simple(what, fits, float)


def boolean() -> Kind:
    """True or false."""
    return _simple("true or false", lambda value: type(value) is bool)


def text(empty: bool = True, longest: int = 2**20, unicode: bool = True) -> Kind:
    """A text.

    Args:
      empty: whether it may be empty.
      longest: the most characters.
      unicode: whether it must be encodable. File names need not be, as Python reads any bytes.
    """

    def fits(value: Any) -> bool:
        if not isinstance(value, str) or len(value) > longest or not (value.strip() or empty):
            return False
        return not unicode or not any("\ud800" <= char <= "\udfff" for char in value)

    return _simple("a text" if empty else "a text that is not empty", fits)


def one_of(*choices: Any) -> Kind:
    """One of some values of one type: texts, whole numbers or booleans."""
    noun = {str: "a text among ", int: "a number among "}.get(type(choices[0]), "")
    what = noun + ", ".join(json.dumps(choice) for choice in choices)
    return _simple(what, lambda value: any(type(value) is type(x) and value == x for x in choices))


def anything() -> Kind:
    """Any value."""
    return _simple("a value", lambda value: True)


def list_of(kind: Kind, least: int = 0, most: int | None = None) -> Kind:
    """A list whose items are all of one kind."""
    count = f"{least}" if least == most else _bounds(least, most).removeprefix(" of ").strip()
    what = f"a list of {count} items" if least or most is not None else "a list"

    def read(value: Any, key: str) -> list[Any]:
        if not isinstance(value, list) or not _within(len(value), least, most):
            raise misfit(value, key, what)
        return [kind.read(item, f"{key}[{i}]") for i, item in enumerate(value)]

    return Kind(what, read)


def items(*kinds: Kind) -> Kind:
    """A list with one item of each of these kinds, in their order."""
    what = f"a list of {len(kinds)} items"

    def read(value: Any, key: str) -> list[Any]:
        if not isinstance(value, list) or len(value) != len(kinds):
            raise misfit(value, key, what)
        return [kind.read(value[i], f"{key}[{i}]") for i, kind in enumerate(kinds)]

    return Kind(what, read)


def table(kind: Kind, least: int = 0) -> Kind:
    """An object with any keys, whose values are all of one kind."""
    what = f"an object of at least {least} entries" if least else "an object"

    def read(value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, Mapping) or len(value) < least:
            raise misfit(value, key, what)
        return {name: kind.read(item, _joined(key, name)) for name, item in value.items()}

    return Kind(what, read)


def record(**fields: Kind) -> Kind:
    """An object with these keys. Other keys stay as they are."""

    def read(value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise misfit(value, key, "an object")
        needed = [name for name, kind in fields.items() if kind.default is REQUIRED]
        if missing := [name for name in needed if name not in value]:
            raise Misfit(key, f"lacks {', '.join(missing)}")
        values = dict(value)
        for name, kind in fields.items():
            if value.get(name) is None and kind.default is not REQUIRED:
                values[name] = kind.default
            else:
                values[name] = kind.read(value[name], _joined(key, name))
        return values

    needed = ", ".join(name for name, kind in fields.items() if kind.default is REQUIRED)
    return Kind(f"an object with {needed}" if needed else "an object", read)


def optional(kind: Kind, default: Any = None) -> Kind:
    """A field that may be missing or null; it then has the value `default`."""
    return dataclasses.replace(kind, default=default)


def either(*kinds: Kind) -> Kind:
    """A value of one of several kinds. The first kind that fits reads it."""
    what = " or ".join(kind.what for kind in kinds)

    def read(value: Any, key: str) -> Any:
        for kind in kinds:
            try:
                return kind.read(value, key)
            except Misfit as error:
                if error.key != key:  # the value is of this kind, but an entry within it is wrong
                    raise
        raise misfit(value, key, what)

    return Kind(what, read)


def _simple(
    what: str, fits: Callable[[Any], bool], use: Callable[[Any], Any] | None = None
) -> Kind:
    def read(value: Any, key: str) -> Any:
        if not fits(value):
            raise misfit(value, key, what)
        return use(value) if use else value

    return Kind(what, read)


def misfit(value: Any, key: str, what: str) -> Misfit:
    """The error of a value of another kind."""
    return Misfit(key, f"must be {what}, got {shown(value)}")


def _joined(key: str, name: str) -> str:
    name = name if name.isprintable() and len(name) <= 80 else shown(name)
    return f"{key}.{name}" if key else name


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _bounds(least: float | None, most: float | None, above: float | None = None) -> str:
    low = f" above {above}" if above is not None else ""
    if least is not None and most is not None:
        return f"{low} from {least} to {most}"
    if least is not None:
        return f"{low} of at least {least}"
    return f"{low} of at most {most}" if most is not None else low
