"""Class names by their tokens: CLIP's byte-level vocabulary, and the bundled one."""

import warnings

import numpy as np
import pytest
from PIL import Image
from transformers.convert_slow_tokenizer import bytes_to_unicode

from cdc_jax import backbone as backbone_lib
from cdc_jax import class_names, train


@pytest.fixture(scope="module")
def backbone():
    return backbone_lib.load("world")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Cat", "cat"), ("hot_dog", "hot dog"), ("café", "cafe\u0301"), ("cat", "cat "),
        (" cat", "cat"), ("hot  dog", "hot dog"), ("CAT", "cAt"), ("hot\tdog", "hot_dog"),
        ("T-Shirt", "t-shirt"), ("hot\u00a0dog", "hot dog"), ("Ångström", "A\u030angstro\u0308m"),
    ],
)  # fmt: skip
def test_names_of_equal_tokens_are_refused(backbone, one, other):
    names = ["dog", one, "bird", other]
    with pytest.raises(ValueError, match="are the same tokens to this model") as error:
        class_names.require_distinct(names, backbone)
    assert repr(one) in str(error.value) and repr(other) in str(error.value)
    assert np.array_equal(*backbone.name_ids([one, other]))


@pytest.mark.parametrize(
    "names",
    [
        ["cat", "cats"], ["hot dog", "hotdog"], ["café", "cafe"], ["t-shirt", "t shirt"],
        ["crane 1", "crane 2"], ["猫", "犬"], ["a", "b", "c"],
    ],
)  # fmt: skip
def test_names_that_differ_are_taken(backbone, names):
    class_names.require_distinct(names, backbone)


@pytest.mark.parametrize(
    ("names", "unsaid"),
    [
        (["cat", "猫"], ["猫"]), (["0", "1", "2.0"], ["0", "1", "2.0"]), (["кот", "dog"], ["кот"]),
        (["n01440764", "T-shirt", "café", "Ü-boot"], []), (["🐶", "---"], ["🐶", "---"]),
    ],
)  # fmt: skip
def test_names_that_say_nothing_are_told_once(backbone, names, unsaid):
    if not unsaid:
        class_names.warn_of_wordless(names, backbone)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        class_names.warn_of_wordless(names * 2, backbone)
    (warning,) = caught
    assert str(warning.message).startswith(f"{len(unsaid)} class names hold no word")
    assert all(ascii(name) in str(warning.message) for name in unsaid)


def test_characters_of_bytes_are_those_of_transformers():
    assert {byte: c for c, byte in class_names.characters_of_bytes().items()} == bytes_to_unicode()


def test_letters_that_a_vocabulary_has_whole_are_words():
    """OpenAI's vocabulary has merged bytes to some letters beyond ASCII."""
    alphabet = bytes_to_unicode()
    a, b, c = (alphabet[byte] for byte in "猫".encode())
    assert class_names._is_word("猫", [f"{a}{b}{c}</w>"])
    assert not class_names._is_word("猫", [a + b, f"{c}</w>"])


def test_a_run_is_refused_before_it_leaves_a_trace(get_config, tmp_path, capsys):
    for number, name in enumerate(("hot_dog", "hot dog", "cat")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            image = Image.new("RGB", (20 + number, 20 + i))
            image.save(tmp_path / "photos" / name / f"{i}.png")
    argument = f"dataset=folder,shots=1,methods=zero_shot,data.root={tmp_path / 'photos'}"
    with pytest.raises(ValueError, match="'hot dog' and 'hot_dog' are the same tokens"):
        train.train_and_evaluate(get_config("fewshot", argument), tmp_path / "run")
    assert "folder: 3 classes (cat, hot dog, hot_dog), a folder a class" in capsys.readouterr().out
    assert not list((tmp_path / "run").rglob("config.json"))
