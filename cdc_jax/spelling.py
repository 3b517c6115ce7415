"""The nearest name to an unknown one."""

import difflib
from collections.abc import Iterable

_COMPARED = 1000  # names; more would take long


def nearest(name: str, names: Iterable[str]) -> str:
    """The most similar of the names, for a message; "" for no names.

    >>> nearest("cop", ["cdc", "coop"])
    'coop'
    """
    candidates = sorted(names)[:_COMPARED]
    return next(iter(difflib.get_close_matches(name, candidates, 1, 0)), "")
