"""Splits against published few-shot sets and counts; files that are refused.

Where CDC_JAX_SPLITS names a folder with CoOp's split files, they are read, too.
"""

import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_jax.tasks import splits
from cdc_jax.tasks.splits import Item, Split, base_new, few_shot, read_split

PUBLISHED = json.loads((Path(__file__).parent / "references" / "fewshot.json").read_text())
# Classes, images to train on, validate on and test (CoOp, table 6), test images of the base half
# and of the new half.
COUNTS = {
    "Caltech101": (100, 4128, 1649, 2465, 1549, 916),
    "DescribableTextures": (47, 2820, 1128, 1692, 864, 828),
    "EuroSAT": (10, 13500, 5400, 8100, 4200, 3900),
    "OxfordFlowers": (102, 4093, 1633, 2463, 1053, 1410),
    "OxfordPets": (37, 2944, 736, 3669, 1881, 1788),
    "StanfordCars": (196, 6509, 1635, 8041, 4002, 4039),
    "UCF101": (101, 7639, 1898, 3783, 1934, 1849),
}


def synthetic(sizes, order):
    """A split with as many images as a published one, classes appearing in its order."""

    def part(name):
        labels = order.get(name, range(len(sizes[name])))
        return tuple(
            Item(f"{name}/{label}/{i}", label)
            for label in labels
            for i in range(sizes[name][label])
        )

    names = tuple(f"class {label}" for label in range(len(sizes["test"])))
    return Split(part("train"), part("val"), part("test"), names)


def real(name):
    folder = os.environ.get("CDC_JAX_SPLITS")
    if not folder:
        pytest.skip("set CDC_JAX_SPLITS to a folder with CoOp's split files")
    return read_split(Path(folder) / f"split_zhou_{name}.json")


@pytest.fixture(params=["integers", "files"])
def published_split(request):
    """Name -> its split: rebuilt of the sizes of its classes, or read."""
    if request.param == "files":
        return real
    return lambda name: synthetic(PUBLISHED[name]["sizes"], PUBLISHED[name]["order"])


@pytest.mark.parametrize("shots", ["1", "16"])
@pytest.mark.parametrize("name", COUNTS)
def test_published_few_shot_sets(published_split, name, shots):
    split = published_split(name)
    sampled = few_shot(split, int(shots), seed=1)
    for part, drawn in PUBLISHED[name]["drawn"][shots].items():
        order = PUBLISHED[name]["order"][part]
        members = splits.by_label(getattr(split, part))
        assert list(members) == order
        expected = [
            members[label][place]
            for label, places in zip(order, drawn, strict=True)
            for place in places
        ]
        assert list(getattr(sampled, part)) == expected
    assert sampled.test == split.test


@pytest.mark.parametrize("name", COUNTS)
def test_published_counts(published_split, name):
    split = published_split(name)
    classes, train, val, test, base_test, new_test = COUNTS[name]
    assert len(split.class_names) == classes
    assert (len(split.train), len(split.val), len(split.test)) == (train, val, test)
    base, new = base_new(split)
    assert len(base.class_names) == (classes + 1) // 2 and len(new.class_names) == classes // 2
    assert (len(base.test), len(new.test)) == (base_test, new_test)
    for half in (base, new):
        assert {item.label for item in half.train} == set(range(len(half.class_names)))


def test_few_shot_by_hand():
    rng = random.Random(3)
    train = [Item(p, label) for p, label in [("b0", 1), ("a0", 0), ("b1", 1), ("b2", 1), ("c0", 2)]]
    # Class b appears first; a class with fewer images than shots gives all, without a draw.
    drawn_b = rng.sample(["b0", "b1", "b2"], 2)
    drawn_val = rng.sample(["v0", "v1", "v2"], 2)
    val = tuple(Item(f"v{i}", 1) for i in range(3))
    split = Split(tuple(train), val, (Item("t", 0),), ("a", "b", "c"))
    sampled = few_shot(split, 2, seed=3)
    assert [item.path for item in sampled.train] == [*drawn_b, "a0", "c0"]
    assert [item.path for item in sampled.val] == drawn_val


def test_val_shots_are_four_at_most():
    split = synthetic({"train": [20, 20], "val": [9, 3], "test": [1, 1]}, {})
    sampled = few_shot(split, 16, seed=2)
    assert [len(g) for g in splits.by_label(sampled.val).values()] == [4, 3]
    assert [len(g) for g in splits.by_label(sampled.train).values()] == [16, 16]


def test_val_shots_as_asked():
    split = synthetic({"train": [20, 20], "val": [9, 3], "test": [1, 1]}, {})
    sampled = few_shot(split, 16, seed=2, validation=6)
    assert [len(g) for g in splits.by_label(sampled.val).values()] == [6, 3]
    assert sampled.train == few_shot(split, 16, seed=2).train
    unusable = {item.path for item in sampled.val[:2]}
    refilled = splits.refill(split, sampled, unusable, 16, 2, validation=6)
    assert [len(g) for g in splits.by_label(refilled.val).values()] == [6, 3]
    assert unusable.isdisjoint(item.path for item in refilled.val)


def test_base_and_new_of_an_odd_number_of_classes():
    split = synthetic({"train": [2] * 5, "val": [1] * 5, "test": [1] * 5}, {})
    base, new = base_new(split)
    assert base.class_names == ("class 0", "class 1", "class 2")
    assert new.class_names == ("class 3", "class 4")
    assert new.test == (Item("test/3/0", 0), Item("test/4/0", 1))
    with pytest.raises(ValueError, match="at least 4 classes, got 3: set classes=all"):
        base_new(synthetic({"train": [2] * 3, "val": [1] * 3, "test": [1] * 3}, {}))


@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    val=st.floats(0, 0.45),
    test=st.floats(0.01, 0.45),
    seed=st.integers(0, 5),
)
@settings(deadline=None)
def test_partition(sizes, val, test, seed):
    items = [Item(f"{k}/{i}", k) for k, n in enumerate(sizes) for i in range(n)]
    names = [str(k) for k in range(len(sizes))]
    split = splits.partition(items, names, val, test, seed)
    assert sorted([*split.train, *split.val, *split.test]) == sorted(items)
    for label, size in enumerate(sizes):
        counts = {p: sum(i.label == label for i in getattr(split, p)) for p in splits.PARTS}
        assert counts["train"] >= 1 and counts["test"] >= 1
        if 1 <= round(test * size) and round(test * size) + round(val * size) < size:
            assert counts["test"] == round(test * size) and counts["val"] == round(val * size)
    assert splits.partition(items[::-1], names, val, test, seed) == split


def test_partition_is_the_same_on_every_machine():
    split = splits.partition([Item(f"{i}", 0) for i in range(5)], ["a"], 0.2, 0.4, seed=0)
    assert [len(getattr(split, part)) for part in splits.PARTS] == [2, 1, 2]
    assert "".join(i.path for i in (*split.test, *split.val, *split.train)) == "10342"


GOOD = {
    "train": [["a/1.jpg", 0, "a"], ["./b/1.jpg", 1, "b"]],
    "val": [],
    "test": [["a/2.jpg", 0, "a"], ["b/2.jpg", 1, "b"]],
}


def test_read_split(tmp_path):
    file = tmp_path / "split.json"
    file.write_text(json.dumps(GOOD))
    split = read_split(file)
    assert split.train == (Item("a/1.jpg", 0), Item("b/1.jpg", 1)) and split.val == ()
    assert split.class_names == ("a", "b")


def test_two_classes_may_have_one_name(tmp_path):
    changed = json.loads(json.dumps(GOOD).replace('"b"]', '"a"]'))
    assert splits.from_lists(changed, "s").class_names == ("a", "a")


@pytest.mark.parametrize(
    ("part", "entry", "message"),
    [
        ("train", ["a/3.jpg", 3, "d"], r"no image has label 2"),
        ("train", ["a/3.jpg", "0", "a"], r"s, train\[2\] must be \[path, label, class name\], got"),
        ("train", ["a/3.jpg", True, "b"], r"must be \[path, label, class name\]"),
        ("train", ["a/3.jpg", 0.0, "a"], r"must be \[path, label, class name\]"),
        ("train", ["a/3.jpg", 0], r"must be \[path, label, class name\]"),
        ("train", ["a/3.jpg", -1, "z"], r"no image has label 2"),
        ("train", ["a/3.jpg", 2, " "], r"the name of class 2 is empty"),
        ("test", ["a/3.jpg", 1, "c"], r"class 1 is called 'c' here and 'b' before"),
        ("test", ["a/3.jpg", 2, "c"], r"class 'c' \(label 2\) of s has no training image"),
        ("val", ["a/1.jpg", 0, "a"], r"s lists a/1.jpg twice"),
        ("val", ["a/./1.jpg", 0, "a"], r"s lists a/1.jpg twice"),
        ("val", ["../a/9.jpg", 0, "a"], r"'../a/9.jpg' must be a path under the image root"),
        ("val", ["/etc/passwd", 0, "a"], r"'/etc/passwd' must be a path under the image root"),
        ("val", ["a\\9.jpg", 0, "a"], r"must be a path under the image root"),
        ("val", ["", 0, "a"], r"must be a path under the image root"),
    ],
)
def test_bad_entries(part, entry, message):
    lists = {**GOOD, part: [*GOOD[part], entry]}
    with pytest.raises(ValueError, match=message) as error:
        splits.from_lists(lists, "s")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "half-written or not JSON"),
        ("[]", "must hold the lists train, val and test, found list"),
        ('{"train": [], "test": []}', r"found \['test', 'train'\]"),
        ('{"train": {}, "val": [], "test": []}', "train in .* must be a list"),
        ('{"train": [], "val": [], "test": []}', "has no test image"),
        (b"\xff\xfe\x00", "is in UTF-16: save it as UTF-8"),
    ],
)
def test_bad_files(tmp_path, text, message):
    file = tmp_path / "split.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_split(file)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*split.json"):
        read_split(tmp_path / "split.json")


def test_bad_requests():
    split = splits.from_lists(GOOD, "s")
    with pytest.raises(ValueError, match="shots must be at least 1, got 0"):
        few_shot(split, 0, 1)
    tested = splits.from_lists({**GOOD, "train": []}, "s")
    with pytest.raises(ValueError, match="no training images to draw shots from"):
        few_shot(tested, 1, 1)
    with pytest.raises(ValueError, match=r"test > 0 with val \+ test < 1, got val=0.5, test=0.5"):
        splits.partition(split.train, split.class_names, 0.5, 0.5, 0)
    with pytest.raises(ValueError, match="class 'a' has 1 image: it needs one to train on"):
        splits.partition(split.train, split.class_names, 0.2, 0.3, 0)
