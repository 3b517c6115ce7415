"""Names, paths and messages as a terminal, a page or a spreadsheet may show them: only as text."""

import unicodedata
from collections.abc import Mapping
from typing import Any

# Controls, halves of surrogate pairs, separators of lines, and what is no character at all.
_CATEGORIES = {"Cc", "Cs", "Zl", "Zp", "Cn"}
_DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# OWASP, "CSV Injection": a cell that begins so is run as a formula. The last four are the same
# signs in the form that East Asian input methods write. Tabs and line breaks are escaped anyway.
_FORMULAS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def visible(text: str, keep: str = "") -> str:
    r"""The text with an escape in place of every character that would steer a terminal.

    These are control characters, line separators, marks that change the direction of writing, and
    what no encoding can write. Letters of all scripts stay as they are.

    Args:
      text: such as a class name, a path or an error message.
      keep: control characters that stay.

    >>> print(visible("a\x1b[31m caf\u00e9\n"), visible("two\nlines", keep="\n"))
    a\x1b[31m café\n two
    lines
    """
    if text.isprintable():
        return text
    return "".join(char if char in keep or not _steers(char) else _escape(char) for char in text)


def reason(error: Exception) -> str:
    r"""What another library says of a failure: one visible line of at most 300 characters.

    >>> reason(ValueError("no such\n  version: \0")), reason(KeyError())
    ('no such version: \\x00', 'KeyError')
    """
    return visible(" ".join((str(error) or type(error).__name__).split()))[:300]


def visible_tree(tree: Any) -> Any:
    """All texts of a JSON value as `visible` makes them, keys as well."""
    if isinstance(tree, str):
        return visible(tree)
    if isinstance(tree, Mapping):
        return {visible_tree(key): visible_tree(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [visible_tree(item) for item in tree]
    return tree


def spreadsheet_cell(text: str) -> str:
    """A text for a cell of a CSV file, which no spreadsheet runs as a formula.

    A text that begins as formulas do gets an apostrophe in front, as OWASP advises ("CSV
    Injection"). Numbers are no texts: a file has them as they are.

    >>> spreadsheet_cell("=1+1"), spreadsheet_cell("hat")
    ("'=1+1", 'hat')
    """
    text = visible(text)
    return f"'{text}" if text.startswith(_FORMULAS) else text


def _steers(char: str) -> bool:
    return unicodedata.category(char) in _CATEGORIES or char in _DIRECTIONS


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
