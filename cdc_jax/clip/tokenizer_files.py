"""The files of a tokenizer, checked before transformers reads them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cdc_jax import schema
from cdc_jax.schema import either, integer, list_of, number, optional, record, table, text

_REMEDY = "copy the file again from where the model came"
_ID = integer(0, 2**24)
_VOCABULARY = table(_ID, least=1)
_TOKEN = either(text(), record(content=text()))
_SPECIAL = {
    f"{name}_token": optional(_TOKEN) for name in ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
}
_FILES = {
    "tokenizer.json": record(
        added_tokens=optional(list_of(record(id=_ID, content=text(empty=False))), []),
        model=record(
            type=optional(text(), "BPE"),
            # Tokenizers of other kinds have lists here.
            vocab=either(_VOCABULARY, list_of(schema.anything(), 1)),
            continuing_subword_prefix=optional(text(), ""),
            merges=optional(list_of(either(text(), list_of(text(), 2, 2))), []),
        ),
    ),
    "vocab.json": _VOCABULARY,
    "added_tokens.json": table(_ID),
    "special_tokens_map.json": record(
        **_SPECIAL, additional_special_tokens=optional(list_of(_TOKEN), [])
    ),
    "tokenizer_config.json": record(
        **_SPECIAL,
        tokenizer_class=optional(text()),
        model_max_length=optional(number(1)),
        added_tokens_decoder=optional(table(record(content=text())), {}),
    ),
}
"""File name -> content. All files but the vocabulary may be missing."""


def check(folder: Path) -> None:
    """Makes sure that the tokenizer files of a folder are whole.

    Raises:
      FileNotFoundError: there is no vocabulary.
      ValueError: a file is damaged, no regular one, or holds ids or merges that can't be; the
        message names it.
    """
    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
        raise FileNotFoundError(
            f"no tokenizer.json (or vocab.json and merges.txt) in {folder}: copy the tokenizer "
            "files of the model there"
        )
    for path in folder.iterdir():  # transformers looks into more files than these
        if path.suffix in (".json", ".txt", ".jinja"):
            schema.require_regular(path)
    contents = {
        name: schema.read_json(folder / name, kind, remedy=_REMEDY)
        for name, kind in _FILES.items()
        if (folder / name).exists()
    }
    if "tokenizer.json" in contents:
        model, path = contents["tokenizer.json"]["model"], folder / "tokenizer.json"
        if model["type"] == "BPE" and isinstance(model["vocab"], Mapping):
            prefix = model["continuing_subword_prefix"]
            _check_bpe(model["vocab"], model["merges"], prefix, f"{path}: model")
        added = [token["content"] for token in contents["tokenizer.json"]["added_tokens"]]
        if len(set(added)) < len(added):
            raise ValueError(f"{path}: added_tokens hold a token twice; {_REMEDY}")
    elif "vocab.json" in contents:
        path = folder / "merges.txt"
        lines = schema.read_text(path, _REMEDY).splitlines()
        lines = [line for line in lines if line.strip() and not line.startswith("#version")]
        _check_bpe(contents["vocab.json"], lines, "", str(path))


def _check_bpe(
    vocabulary: Mapping[str, int], merges: Iterable[str | Sequence[str]], prefix: str, where: str
) -> None:
    """Raises ValueError unless ids are distinct and merges join two tokens to a third."""
    if len(set(vocabulary.values())) < len(vocabulary):
        raise ValueError(f"{where}: vocab gives one id to several tokens; {_REMEDY}")
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else list(merge)
        if len(parts) != 2:
            raise ValueError(
                f"{where}: a merge must be of two tokens, got {schema.shown(merge)}; {_REMEDY}"
            )
        merged = parts[0] + parts[1].removeprefix(prefix)
        if unknown := [token for token in (*parts, merged) if token not in vocabulary]:
            raise ValueError(
                f"{where}: the merge {schema.shown(merge)} needs the token "
                f"{schema.shown(unknown[0])}, which the vocabulary lacks; {_REMEDY}"
            )
