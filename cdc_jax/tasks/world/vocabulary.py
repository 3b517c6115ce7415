"""The bundled CLIP's byte-level vocabulary, in the files that Hugging Face's tokenizers read.

Each word of the captions is one token. Any other text falls into smaller pieces, at worst single
bytes, so that every class name can be encoded.
"""

import collections
import json
from collections.abc import Sequence
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"


def merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, in order, after which each of the words is one token.

    Plain byte-pair encoding (Sennrich et al. 2016) in which every word counts once. The most
    frequent pair is merged, of equal pairs the alphabetically first, until every word is one piece.
    """
    pieces = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merged_pairs: list[tuple[str, str]] = []
    while True:
        counts = collections.Counter(
            pair for word in pieces for pair in zip(word, word[1:], strict=False)
        )
        if not counts:
            return merged_pairs
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merged_pairs.append(best)
        pieces = [_merge(word, best) for word in pieces]


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def write_tokenizer(words: Sequence[str], context_length: int, folder: Path) -> int:
    """Writes vocab.json, merges.txt and tokenizer_config.json.

    Args:
      words: texts in ASCII that become single tokens.
      context_length: the longest text in tokens.
      folder: where the files go.

    Returns:
      The size of the vocabulary: bytes, bytes that end a word, merges, start and end of text.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode  # takes seconds

    symbols = list(bytes_to_unicode().values())
    pairs = merges(words)
    tokens = [*symbols, *(s + "</w>" for s in symbols), *("".join(p) for p in pairs), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": context_length,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return len(tokens)
