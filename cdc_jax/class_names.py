"""Class names as tokens: names that a model can't tell apart, and names without a known word."""

import functools
import warnings
from collections.abc import Sequence

import numpy as np
from tokenizers import pre_tokenizers

from cdc_jax.backbone import Backbone

_END_OF_WORD = "</w>"


def require_distinct(names: Sequence[str], backbone: Backbone) -> None:
    """Requires that all names have different tokens.

    Args:
      names: of the classes to tell apart.
      backbone: tokenises the names.

    Raises:
      ValueError: two names have the same tokens, such as "Cat" and "cat" in CLIP's vocabulary. Or a
        name has no tokens, see `Backbone.name_ids`.
    """
    first: dict[bytes, str] = {}
    for name, ids in zip(names, backbone.name_ids(names), strict=True):
        other = first.setdefault(np.asarray(ids).tobytes(), name)
        if other is not name:
            raise ValueError(
                f"the class names {other!r} and {name!r} are the same tokens to this model, which "
                "could not tell them apart: make one class of them, or rename one, in task.toml "
                "under [class_names] if they are folders"
            )


def warn_of_wordless(names: Sequence[str], backbone: Backbone) -> None:
    """Warns once of names that hold no word of the vocabulary.

    Such a name has no letters, as a number, or its script is in the vocabulary as single bytes
    only.

    Args:
      names: of classes.
      backbone: has the vocabulary.
    """
    vocabulary = backbone.vocabulary()
    tokens = {
        name: [vocabulary[token] for token in backbone.word_ids(name.replace("_", " "))]
        for name in names
    }
    wordless = [name for name, parts in tokens.items() if not _is_word(name, parts)]
    if wordless:
        listed = ", ".join(map(ascii, wordless[:5])) + (", …" if len(wordless) > 5 else "")
        warnings.warn(
            f"{len(wordless)} class names hold no word that this model's vocabulary has "
            f"({listed}), so its text features say nothing of them: give names, in task.toml under "
            "[class_names] if they are folders",
            stacklevel=2,
        )


def _is_word(name: str, tokens: Sequence[str]) -> bool:
    """Whether a name has letters, and a token of it has a whole letter."""
    return any(map(str.isalpha, name)) and any(map(str.isalpha, "".join(map(_text, tokens))))


@functools.cache
def characters_of_bytes() -> dict[str, int]:
    """Character of a byte-level vocabulary -> its byte.

    Bytes that are visible characters stand for themselves; the others have, in order, the
    characters of the alphabet from 256 on. `transformers` has this table as well, and takes as
    long to import as JAX.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    others = sorted(set(map(chr, range(256))) - set(alphabet))
    return {char: ord(char) for char in alphabet if ord(char) < 256} | {
        char: ord(byte) for char, byte in zip(alphabet[-len(others) :], others, strict=True)
    }


def _text(token: str) -> str:
    """The text of a token; "" for a part of a letter."""
    token = token.removesuffix(_END_OF_WORD)
    try:
        return bytes(characters_of_bytes()[char] for char in token).decode()
    except (KeyError, UnicodeDecodeError):
        return token if token.isascii() else ""
