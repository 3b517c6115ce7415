"""Images that occur twice, found by content."""

import itertools

import numpy as np
import pytest

from cdc_jax.tasks import copies
from cdc_jax.tasks.splits import Item, Split

BIG = np.random.default_rng(0).integers(0, 256, 30_000, np.uint8).tobytes()


def changed(at):
    """The same bytes but one."""
    content = bytearray(BIG)
    content[at] ^= 1
    return bytes(content)


def written(folder, contents):
    files = [folder / f"{number}.jpg" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    return files


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ([b"a", b"b", b"a"], [[0, 2]]),
        ([b"a", b"ab", b"abc"], []),
        ([BIG, changed(0), changed(29_999), changed(15_000), BIG], [[0, 4]]),
        ([BIG, BIG[:-1], BIG, BIG], [[0, 2, 3]]),
        ([b"x", b"y", b"x", b"y"], [[0, 2], [1, 3]]),
        ([b"", b""], []),  # no images
        ([], []),
    ],
)
def test_equal_files(tmp_path, contents, expected):
    assert copies.find(written(tmp_path, contents)) == expected


def test_against_comparing_every_pair(tmp_path):
    rng = np.random.default_rng(1)
    contents = [rng.integers(0, 3, rng.integers(1, 6), np.uint8).tobytes() for _ in range(300)]
    files = written(tmp_path, contents)
    pairs = {(a, b) for a, b in itertools.combinations(range(300), 2) if contents[a] == contents[b]}
    groups = copies.find(files)
    assert {pair for group in groups for pair in itertools.combinations(group, 2)} == pairs
    anchors = {3, 50}
    near = [group for group in groups if anchors & set(group)]
    assert copies.find(files, anchors) == near


def test_files_that_cannot_be_read_are_in_no_group(tmp_path):
    files = written(tmp_path, [b"a", b"a"])
    (tmp_path / "folder").mkdir()
    assert copies.find([*files, tmp_path / "none", tmp_path / "folder"]) == [[0, 1]]


NAMES = ("cat", "dog")


def split(train=(), val=(), test=()):
    parts = [tuple(Item(f"{n}.jpg", label) for n, label in part) for part in (train, val, test)]
    return Split(*parts, class_names=NAMES)


@pytest.fixture
def examine(tmp_path):
    # 0 and 2 are equal, 1 and 3 too
    written(tmp_path, [b"x", b"y", b"x", b"y", b"z", b"w"])

    def examined(whole, allow=False, used=None):
        return copies.examine(whole, used or whole, tmp_path.joinpath, allow)

    return examined


def test_under_two_classes(examine):
    message = "0.jpg and .*2.jpg hold the same image, once as 'cat' and once as 'dog'. Photos with"
    for allow in (False, True):
        with pytest.raises(ValueError, match=message):
            examine(split(train=[(0, 0), (2, 1)], test=[(4, 0)]), allow)
    with pytest.raises(ValueError, match=r"once as 'dog' \(2 such images\). Photos"):
        examine(split(train=[(0, 0), (1, 0)], test=[(2, 1), (3, 1)]))


@pytest.mark.parametrize(("a", "b"), [("train", "test"), ("train", "val"), ("val", "test")])
def test_in_two_splits(examine, a, b):
    whole = split(**{a: [(0, 0), (4, 1)], b: [(2, 0), (5, 1)]})
    message = f"0.jpg of {a} and .*2.jpg of {b} hold the same image, .* data.allow_copies=True"
    with pytest.raises(ValueError, match=message):
        examine(whole)
    assert examine(whole, allow=True) == ["1 images are in several splits (data.allow_copies)"]


def test_within_a_class_and_split(examine):
    whole = split(train=[(0, 0), (2, 0), (4, 1)], test=[(1, 0), (3, 0), (5, 1)])
    assert examine(whole) == ["2 images occur more than once in their class and split"]
    assert examine(split(train=[(0, 0)], test=[(1, 1)])) == []


def test_of_many_images_only_those_used_are_compared(examine, monkeypatch):
    monkeypatch.setattr(copies, "MOST", 3)
    whole = split(train=[(0, 0), (1, 0), (4, 1)], test=[(2, 0), (5, 1)])
    used = split(train=[(1, 0), (4, 1)], test=[(2, 0), (5, 1)])
    told = "copies were looked for among the shots and the test images only"
    assert examine(whole, used=used) == [told]
    with pytest.raises(ValueError, match="0.jpg of train and .*2.jpg of test"):
        examine(whole, used=split(train=[(0, 0)], test=[(2, 0), (5, 1)]))
