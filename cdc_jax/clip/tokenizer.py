"""Text to token ids, by the tokenizer of a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from cdc_jax.clip import tokenizer_cache, tokenizer_files
from cdc_jax.escaping import reason


class Tokenizer:
    """A Hugging Face tokenizer with CLIP's layout: start-of-text, words, end-of-text.

    Sequences are padded with end-of-text to the longest of the batch only. That changes no
    feature, because the text tower is causal and pooled at the first end-of-text.

    Attributes:
      context_length: the most tokens of a text, start and end included.
      start_id: id of the start-of-text token.
      eot_id: id of the end-of-text token.
    """

    def __init__(self, hf: Any, context_length: int | None = None):
        """Wraps a tokenizer of transformers.

        Args:
          hf: the tokenizer, a `PreTrainedTokenizerBase`.
          context_length: the most tokens of a text; None takes the tokenizer's model_max_length.

        Raises:
          ValueError: the tokenizer lacks a start-of-text token, an end-of-text token or a context
            length.
        """
        if hf.bos_token_id is None or hf.eos_token_id is None:
            raise ValueError(
                "CLIP's tokenizer needs a start-of-text and an end-of-text token, got "
                f"bos_token={hf.bos_token!r}, eos_token={hf.eos_token!r}"
            )
        # transformers writes a number like 1e30 where no length is known.
        if context_length is None and hf.model_max_length > 1e9:
            raise ValueError("tokenizer_config.json has no model_max_length: give context_length")
        if hf.bos_token_id == hf.eos_token_id:
            raise ValueError(
                f"the tokenizer starts and ends texts with the same token, {hf.eos_token!r}: "
                "CLIP's has one for each"
            )
        self._hf = hf
        self._size = 1 + max(hf.get_vocab().values())
        self.context_length = context_length or int(hf.model_max_length)
        self.start_id: int = hf.bos_token_id
        self.eot_id: int = hf.eos_token_id

    @classmethod
    def from_pretrained(cls, folder: str | Path, context_length: int | None = None) -> "Tokenizer":
        """Reads the tokenizer files of a model's folder.

        Raises:
          FileNotFoundError: the folder has no tokenizer.
          ValueError: a file is damaged, or the files do not fit each other; the message names it.
        """
        folder = Path(folder)
        tokenizer_files.check(folder)
        if cached := tokenizer_cache.read(folder):
            return cls(cached, context_length)
        try:
            hf = tokenizer_cache.load(folder)
            tokenizer = cls(hf, context_length)
        # Settings that make no tokenizer end in many ways, by no common class of errors.
        except Exception as error:
            raise ValueError(
                f"the tokenizer files in {folder} make no tokenizer ({reason(error)}): copy them "
                "again from where the model came"
            ) from error
        tokenizer_cache.write(folder, hf)
        return tokenizer

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer files, as transformers does."""
        self._hf.model_max_length = self.context_length
        self._hf.save_pretrained(folder)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, which is one more than the largest id."""
        return self._size

    def __call__(
        self, texts: Sequence[str], length: int | None = None, truncate: bool = False
    ) -> Int[np.ndarray, "texts tokens"]:
        """Start-of-text, words, end-of-text; padded with end-of-text.

        Args:
          texts: one or more.
          length: number of columns; None takes the longest text's.
          truncate: whether to drop the last words of a text that is too long.

        Raises:
          ValueError: a text is longer than `length` or the context length, without `truncate`.
        """
        limit = self.context_length if length is None else length
        if limit > self.context_length:
            raise ValueError(f"length {limit} exceeds the context length {self.context_length}")
        rows = []
        for text, words in zip(texts, self._words(texts), strict=True):
            if truncate:
                words = words[: limit - 2]
            if len(words) + 2 > limit:
                raise ValueError(
                    f"{text!r} has {len(words) + 2} tokens, at most {limit} fit: shorten it"
                )
            rows.append([self.start_id, *words, self.eot_id])
        return self._padded(rows, length)

    def names(
        self, class_names: Sequence[str], suffix: str = "."
    ) -> Int[np.ndarray, "classes tokens"]:
        """The part of a prompt that differs by class: name, suffix, end-of-text, padding.

        Args:
          class_names: one or more; `_` is read as a space.
          suffix: what follows the name in the template.

        Raises:
          ValueError: a name leaves no room for start-of-text.
        """
        _check_list(class_names)
        texts = [f"{name.replace('_', ' ')}{suffix}" for name in class_names]
        rows = [[*words, self.eot_id] for words in self._words(texts)]
        for name, row in zip(class_names, rows, strict=True):
            if len(row) + 1 > self.context_length:
                raise ValueError(
                    f"class name {name!r} with {suffix!r} has {len(row) + 1} tokens, at most "
                    f"{self.context_length} fit: shorten it"
                )
        return self._padded(rows)

    def words(self, text: str) -> list[int]:
        """Ids of a text without start and end."""
        return self._words([text])[0]

    def vocabulary(self) -> list[str]:
        """All tokens, by id; "" for an id without a token."""
        tokens = {token_id: token for token, token_id in self._hf.get_vocab().items()}
        return [tokens.get(token_id, "") for token_id in range(self.vocab_size)]

    def _words(self, texts: Sequence[str]) -> list[list[int]]:
        _check_list(texts)
        # verbose=False: our own error says what transformers would warn of.
        rows = self._hf(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        for text, row in zip(texts, rows, strict=True):
            # CLIP's unknown token is end-of-text: the feature would be read off there.
            if self.eot_id in row or self.start_id in row:
                raise ValueError(
                    f"{text!r} contains a special token or a character that the vocabulary of "
                    f"{self.vocab_size} tokens lacks: reword it"
                )
        return rows

    def _padded(self, rows: list[list[int]], length: int | None = None) -> np.ndarray:
        longest = max(map(len, rows)) if length is None else length
        ids = np.full((len(rows), longest), self.eot_id, np.int32)
        for padded, row in zip(ids, rows, strict=True):
            padded[: len(row)] = row
        return ids


def _check_list(texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"expected a list of one or more texts, got {texts!r}")
