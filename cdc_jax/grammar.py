"""The grammar of settings, the same after a colon, in a flag, in a row's name and in a sweep.

A setting is `key=value`, and dots in a key reach into parts. Commas separate the settings after
`FILE.py:`, the methods of `methods` and the values of a sweep. Semicolons separate the settings of
`row@key=value;key=value`. A part without `=` belongs to the value before it, so that
`methods=coop,cdc,shots=4` sets two keys. A separator within (), [], {} or double quotes belongs to
a value. A value in double quotes is a JSON string: `template="a photo, {}"`.
"""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_PLAIN = re.compile(r"[^\s,;=@\"()\[\]{}]([^,;=@\"()\[\]{}]*[^\s,;=@\"()\[\]{}])?")


def split(text: str, separator: str) -> list[str]:
    """The parts of a list.

    Brackets or quotes that do not match count as letters.

    >>> split("cdc@views=crop(scale=(0.4,1))|flip,coop", ",")
    ['cdc@views=crop(scale=(0.4,1))|flip', 'coop']
    >>> split('template="a photo, {}",shots=4', ",")
    ['template="a photo, {}"', 'shots=4']
    """
    parts, begin = [], 0
    for position, letter in _outside(text):
        if letter == separator:
            parts.append(text[begin:position])
            begin = position + 1
    return [*parts, text[begin:]]


def setting(text: str) -> tuple[str, str] | None:
    """Key and value of `key=value`; None without an `=` outside brackets and quotes.

    >>> setting("views=crop(scale=(0.4,1))"), setting("jitter(hue=0.1)")
    (('views', 'crop(scale=(0.4,1))'), None)
    """
    for position, letter in _outside(text):
        if letter == "=":
            return text[:position], text[position + 1 :]
    return None


def settings(parts: Sequence[str], separator: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The settings of a list, and the parts before the first setting.

    Args:
      parts: of `split`.
      separator: argument of `split`.

    Returns:
      The parts before the first setting, and key and value of each setting.
    """
    before: list[str] = []
    pairs: list[tuple[str, str]] = []
    for part in parts:
        pair = setting(part)
        if pair and "@" not in pair[0]:  # `cdc@views=flip` is a method
            pairs.append(pair)
        elif pairs:
            pairs[-1] = pairs[-1][0], f"{pairs[-1][1]}{separator}{part}"
        else:
            before.append(part)
    return before, pairs


def value(key: str, text: str, kind: type) -> Any:
    """The value of a text.

    Args:
      key: for the message.
      text: the user's text.
      kind: type of the setting.

    Raises:
      ValueError: the text is no value of that kind.
    """
    if kind is str:
        return unquoted(text)
    try:
        literal = ast.literal_eval(text.capitalize() if kind is bool else text)
    except (ValueError, SyntaxError):
        literal = text
    if kind is float and type(literal) is int:
        literal = float(literal)
    if type(literal) is not kind:
        raise ValueError(f"{key} must be of type {kind.__name__}, got {text!r}")
    return literal


def quoted(value: Any) -> str:
    """The text of a value, in quotes if need be. `value` reads it.

    >>> quoted(0.5), quoted("a photo of a"), quoted("a, {}")
    ('0.5', 'a photo of a', '"a, {}"')
    """
    if not isinstance(value, str) or not value or _PLAIN.fullmatch(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def unquoted(text: str) -> str:
    """A text without the quotes around it."""
    if text[:1] == text[-1:] == '"':
        try:
            decoded = json.loads(text, strict=False)
        except ValueError:
            return text
        if isinstance(decoded, str):
            return decoded
    return text


def _outside(text: str) -> Iterator[tuple[int, str]]:
    """The letters outside brackets and quotes, by position. All letters if these do not match."""
    outside: list[tuple[int, str]] = []
    open_brackets: list[str] = []
    quoted = escaped = False
    for position, letter in enumerate(text):
        if quoted:
            quoted, escaped = escaped or letter != '"', letter == "\\" and not escaped
        elif letter == '"':
            quoted = True
        elif letter in _CLOSING:
            open_brackets.append(_CLOSING[letter])
        elif letter in _CLOSING.values():
            if not open_brackets or open_brackets.pop() != letter:
                return iter(enumerate(text))
        elif not open_brackets:
            outside.append((position, letter))
    return iter(enumerate(text) if quoted or open_brackets else outside)
