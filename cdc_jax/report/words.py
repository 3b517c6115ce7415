"""The report's sentences; `words.toml` holds them, to be read and revised together."""

import functools
import tomllib
from importlib import resources
from typing import Any


def words(*keys: str, **names: Any) -> Any:
    """The text under some keys, with names in the place of its braces; or the table there."""
    value = functools.reduce(lambda tree, key: tree[key], keys, _texts())
    return value.format(**names) if isinstance(value, str) else value


def titled(*keys: str, **names: Any) -> tuple[str, str]:
    """The title and the caption under some keys, each with a capital."""
    texts = (words(*keys, key, **names) for key in ("title", "caption"))
    title, caption = (text[:1].upper() + text[1:] for text in texts)
    return title, caption


@functools.cache
def _texts() -> Any:
    text = resources.files("cdc_jax.report").joinpath("words.toml").read_text("utf-8")
    return tomllib.loads(text)
