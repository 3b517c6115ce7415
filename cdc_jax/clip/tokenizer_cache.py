"""Tokenizers as transformers made them, kept so that later processes need no transformers.

Importing transformers takes as long as importing JAX. What it makes of a model's files is a
tokenizer of the library `tokenizers`, which is kept in the user's folder of caches under the
digest of these files and of the libraries' versions.
"""

import hashlib
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import tokenizers

from cdc_jax import user_caches, writing

_SUFFIXES = (".json", ".txt", ".jinja", ".model")  # of the files that transformers reads
_KEPT = ("bos_token", "eos_token", "bos_token_id", "eos_token_id", "model_max_length")
_DIGEST = hashlib.sha256().digest_size


class KeptTokenizer:
    """A tokenizer with what `Tokenizer` uses of a `PreTrainedTokenizerBase`.

    Args:
      kept: what `write` kept.
      folder: of the model.
    """

    def __init__(self, kept: dict[str, Any], folder: Path):
        self.bos_token: str = kept["bos_token"]
        self.eos_token: str = kept["eos_token"]
        self.bos_token_id: int = kept["bos_token_id"]
        self.eos_token_id: int = kept["eos_token_id"]
        self.model_max_length: int | float = kept["model_max_length"]
        self._folder = folder
        self._tokenizer = tokenizers.Tokenizer.from_str(kept["tokenizer"])
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def __call__(
        self, texts: Sequence[str], add_special_tokens: bool, verbose: bool
    ) -> dict[str, list[list[int]]]:
        """Token ids of texts."""
        del verbose
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return {"input_ids": [encoding.ids for encoding in encodings]}

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the tokenizer files, as transformers does."""
        whole = load(self._folder)
        whole.model_max_length = self.model_max_length
        whole.save_pretrained(folder)


def load(folder: Path) -> Any:
    """The tokenizer that transformers makes of a model's files, or its error."""
    import transformers  # takes seconds

    return transformers.AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )


def read(folder: Path) -> KeptTokenizer | None:
    """The kept tokenizer of a model's files; None where none is kept.

    Args:
      folder: of the model.
    """
    path = _path(folder)
    if path is None or not path.is_file():
        return None
    content = path.read_bytes()
    digest, text = content[:_DIGEST], content[_DIGEST:]
    if hashlib.sha256(text).digest() != digest:  # the disk lost some of it
        return None
    return KeptTokenizer(json.loads(text), folder)


def write(folder: Path, made: Any) -> None:
    """Keeps a tokenizer, if `KeptTokenizer` can stand for it and the user's caches can be written.

    Args:
      folder: of the model.
      made: what `load` made of it.
    """
    path = _path(folder)
    backend = getattr(made, "backend_tokenizer", None)
    if path is None or not isinstance(backend, tokenizers.Tokenizer) or made.split_special_tokens:
        return
    kept = {name: getattr(made, name) for name in _KEPT} | {"tokenizer": backend.to_str()}
    text = json.dumps(kept).encode()
    try:
        with writing.writing(path) as file:
            file.write(hashlib.sha256(text).digest() + text)
    except OSError:  # a full disk: the next process asks transformers again
        return


def _path(folder: Path) -> Path | None:
    """Where the tokenizer of a model's files is kept."""
    kept = user_caches.folder("tokenizers")
    if kept is None:
        return None
    digest = hashlib.sha256()
    for name in ("transformers", "tokenizers"):
        digest.update(metadata.version(name).encode() + b"\0")
    for path in sorted(folder.iterdir()):
        if path.suffix in _SUFFIXES:
            content = path.read_bytes()
            digest.update(f"{path.name}\0{len(content)}\0".encode(errors="surrogateescape"))
            digest.update(content)
    return kept / digest.hexdigest()
