"""Token ids against transformers' CLIPTokenizer on a small byte-level vocabulary."""

import json

import numpy as np
import pytest
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from cdc_jax.clip import Tokenizer, tokenizer_cache

MERGES = ["d o", "do g</w>", "p h", "ph o", "pho t", "phot o</w>", "o f</w>", "c a", "ca t</w>"]
BYTES = list(bytes_to_unicode().values())
TOKENS = [*BYTES, *(f"{byte}</w>" for byte in BYTES)]
TOKENS += [merge.replace(" ", "") for merge in MERGES]
TOKENS += ["<|startoftext|>", "<|endoftext|>"]
IDS = {token: i for i, token in enumerate(TOKENS)}
START, END = len(TOKENS) - 2, len(TOKENS) - 1
TEXTS = [
    "a photo of a dog.",
    "A  Photo\nof a CAT",
    "",
    "two-year-old cat's 2nd dog!?",
    "Köchelverzeichnis № 525, 狗, 🐶",
    "n\u0303 and \u00f1 are one",
    "<b>bold</b>",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.json").write_text(json.dumps(IDS))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def hf(folder):
    return transformers.CLIPTokenizer.from_pretrained(folder)


def ids(*tokens):
    return [IDS[token] for token in tokens]


def test_a_text_by_hand(tokenizer):
    words = ids("a</w>", "photo</w>", "of</w>", "a</w>", "dog</w>", ".</w>")
    assert tokenizer.words("a photo of a dog.") == words
    assert tokenizer(["a photo of a dog."]).tolist() == [[START, *words, END]]
    assert tokenizer.words("dogs") == ids("do", "g", "s</w>")
    assert tokenizer.words("ñ") == ids("Ã", "±</w>")  # the two bytes of UTF-8
    assert (tokenizer.start_id, tokenizer.eot_id) == (START, END)
    assert (tokenizer.context_length, tokenizer.vocab_size) == (77, len(TOKENS))
    assert tokenizer.vocabulary() == TOKENS


def test_equals_transformers(tokenizer, hf):
    found = tokenizer(TEXTS)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, hf(TEXTS, padding=True)["input_ids"])
    full = hf(TEXTS, padding="max_length", max_length=77)["input_ids"]
    np.testing.assert_array_equal(tokenizer(TEXTS, length=77), full)
    for text in TEXTS:
        assert tokenizer.words(text) == hf(text, add_special_tokens=False)["input_ids"]


def test_a_kept_tokenizer_equals_transformers(tmp_path, monkeypatch, tokenizer, hf):
    monkeypatch.setenv("CDC_JAX_CACHE", str(tmp_path / "caches"))
    folder = tmp_path / "model"
    tokenizer.save(folder)
    Tokenizer.from_pretrained(folder)
    (kept,) = (tmp_path / "caches/tokenizers").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(tokenizer_cache, "load", None)  # transformers is not asked
        again = Tokenizer.from_pretrained(folder)
    np.testing.assert_array_equal(again(TEXTS), hf(TEXTS, padding=True)["input_ids"])
    assert again.vocabulary() == tokenizer.vocabulary()
    assert (again.start_id, again.eot_id, again.context_length) == (START, END, 77)
    folder = folder.rename(tmp_path / "moved")  # as a temporary folder is gone
    again.save(tmp_path / "saved")
    for path in folder.iterdir():
        assert (tmp_path / "saved" / path.name).read_bytes() == path.read_bytes()
    content = kept.read_bytes()
    for damaged in (b"", content[:-1], content[:40] + b"x" + content[41:]):
        kept.write_bytes(damaged)
        assert tokenizer_cache.read(folder) is None
        np.testing.assert_array_equal(Tokenizer.from_pretrained(folder)(TEXTS), again(TEXTS))
        assert kept.read_bytes() == content
    with (folder / "tokenizer_config.json").open("a") as changed:
        changed.write("\n")  # another file, another tokenizer
    assert tokenizer_cache.read(folder) is None


def test_without_a_folder_of_caches_transformers_makes_tokenizers(tmp_path, monkeypatch, tokenizer):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CDC_JAX_CACHE", str(tmp_path / "file"))
    tokenizer.save(tmp_path / "model")
    found = Tokenizer.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(found(TEXTS), tokenizer(TEXTS))


def test_names_continue_a_prompt(tokenizer, hf):
    names = ["dog", "hot_dog", "Köchelverzeichnis", "a very long name of a class", ""]
    for suffix in (".", ", a type of pet.", " texture.", ""):
        rows = tokenizer.names(names, suffix)
        assert rows.dtype == np.int32
        start = [START, *tokenizer.words("a photo of a")]
        for name, row in zip(names, rows, strict=True):
            whole = hf(f"a photo of a {name.replace('_', ' ')}{suffix}")["input_ids"]
            padding = [END] * (len(start) + len(row) - len(whole))
            assert [*start, *row] == whole + padding
        assert (rows[:, -1] == END).all()
        assert (rows[:, -2] != END).any()  # no longer than the longest


def test_padding_suits_both_ways_of_finding_the_end(tokenizer):
    rows = tokenizer(TEXTS, length=60)
    lengths = [len(tokenizer.words(text)) + 1 for text in TEXTS]
    assert np.argmax(rows, -1).tolist() == lengths  # legacy
    assert np.argmax(rows == END, -1).tolist() == lengths


def test_too_long_texts_are_refused_or_cut(tokenizer):
    longest = " ".join(["dog"] * 75)
    assert tokenizer([longest]).shape == (1, 77)
    too_long = longest + " cat"
    with pytest.raises(ValueError, match="dog cat' has 78 tokens, at most 77 fit"):
        tokenizer(["dog", too_long])
    with pytest.raises(ValueError, match="'a photo of a dog.' has 8 tokens, at most 7 fit"):
        tokenizer(TEXTS[:1], length=7)
    with pytest.raises(ValueError, match="length 78 exceeds the context length 77"):
        tokenizer(["dog"], length=78)
    assert tokenizer([too_long], truncate=True).tolist() == tokenizer([longest]).tolist()
    cut = [START, *ids("a</w>", "photo</w>"), END]
    assert tokenizer(TEXTS[:1], length=4, truncate=True).tolist() == [cut]
    names = tokenizer.names([longest], "")
    assert names.shape == (1, 76)
    with pytest.raises(ValueError, match=r"cat' with '' has 78 tokens, at most 77 fit"):
        tokenizer.names([too_long], "")


def test_special_tokens_in_a_text_are_refused(tokenizer):
    with pytest.raises(ValueError, match="'a <|endoftext|> dog' contains a special token"):
        tokenizer(["a <|endoftext|> dog"])
    with pytest.raises(ValueError, match="special token or a character that the vocabulary of"):
        tokenizer.names(["dog", "<|startoftext|>"])


def test_lists_are_expected(tokenizer):
    for wrong in ("a dog", [], ()):
        with pytest.raises(ValueError, match="expected a list of one or more texts"):
            tokenizer(wrong)
        with pytest.raises(ValueError, match="expected a list of one or more texts"):
            tokenizer.names(wrong)


def test_folders(folder, hf, tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer.json .* copy the tokenizer files"):
        Tokenizer.from_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(folder, context_length=20).context_length == 20
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.from_pretrained(tmp_path / "saved")
    assert again.context_length == 77
    np.testing.assert_array_equal(again(TEXTS), tokenizer(TEXTS))
    endless = transformers.CLIPTokenizer(vocab=IDS, merges=[tuple(m.split()) for m in MERGES])
    with pytest.raises(ValueError, match="no model_max_length: give context_length"):
        Tokenizer(endless)
    np.testing.assert_array_equal(Tokenizer(endless, 77)(TEXTS), tokenizer(TEXTS))
    with pytest.raises(ValueError, match="needs a start-of-text .* eos_token=None"):
        Tokenizer(transformers.PreTrainedTokenizerFast(
            tokenizer_object=endless.backend_tokenizer, bos_token="<|startoftext|>"))  # fmt: skip
