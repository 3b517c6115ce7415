"""A cache of tokenizers, so that later processes need not import transformers.

Importing transformers takes as long as importing JAX. From a model's files it makes a tokenizer of
the library `tokenizers`. The user's folder of caches keeps this tokenizer under the digest of the
files and of the libraries' versions.
"""

import hashlib
import json
import tempfile
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
    """A tokenizer with the part of `PreTrainedTokenizerBase` that `Tokenizer` uses.

    Args:
      fields: the fields that `write` wrote.
      files: name -> content of the model's files that transformers reads.
    """

    def __init__(self, fields: dict[str, Any], files: dict[str, bytes]):
        self.bos_token: str = fields["bos_token"]
        self.eos_token: str = fields["eos_token"]
        self.bos_token_id: int = fields["bos_token_id"]
        self.eos_token_id: int = fields["eos_token_id"]
        self.model_max_length: int | float = fields["model_max_length"]
        self._files = files  # the folder may be a temporary one
        self._tokenizer = tokenizers.Tokenizer.from_str(fields["tokenizer"])
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
        with tempfile.TemporaryDirectory() as copy:
            for name, content in self._files.items():
                Path(copy, name).write_bytes(content)
            whole = load(Path(copy))
        whole.model_max_length = self.model_max_length
        whole.save_pretrained(folder)


def load(folder: Path) -> Any:
    """Loads a model's tokenizer by transformers, and raises its errors."""
    import transformers  # takes seconds

    return transformers.AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )


def read(folder: Path) -> KeptTokenizer | None:
    """The tokenizer in the cache for a model's files; None if there is none.

    Args:
      folder: of the model.
    """
    files = _files(folder)
    path = _path(files)
    if path is None or not path.is_file():
        return None
    content = path.read_bytes()
    digest, text = content[:_DIGEST], content[_DIGEST:]
    if hashlib.sha256(text).digest() != digest:  # the disk lost some of it
        return None
    return KeptTokenizer(json.loads(text), files)


def write(folder: Path, tokenizer: Any) -> None:
    """Keeps a tokenizer, if `KeptTokenizer` can replace it and the caches can be written to.

    Args:
      folder: of the model.
      tokenizer: of `load`.
    """
    path = _path(_files(folder))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if (
        path is None
        or not isinstance(backend, tokenizers.Tokenizer)
        or tokenizer.split_special_tokens
    ):
        return
    fields = {name: getattr(tokenizer, name) for name in _KEPT} | {"tokenizer": backend.to_str()}
    text = json.dumps(fields).encode()
    try:
        with writing.writing(path) as file:
            file.write(hashlib.sha256(text).digest() + text)
    except OSError:  # a full disk: the next process asks transformers again
        return


def _files(folder: Path) -> dict[str, bytes]:
    """Name -> content of the files of a model that transformers reads."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in _SUFFIXES}


def _path(files: dict[str, bytes]) -> Path | None:
    """Where the tokenizer of a model's files is kept."""
    folder = user_caches.folder("tokenizers")
    if folder is None:
        return None
    digest = hashlib.sha256()
    for name in ("transformers", "tokenizers"):
        digest.update(metadata.version(name).encode() + b"\0")
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode(errors="surrogateescape"))
        digest.update(content)
    return folder / digest.hexdigest()
