"""Splits: the images for training, validation and test, and the draw of shots.

Files are CoOp's, {"train" | "val" | "test": [[path under the image root, label, class name], …]}.
Sampling and halving follow CoOp, Dassl and MaPLe to the bit, so that results are comparable.
"""

import dataclasses
import random
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from cdc_jax.tasks import text_file

PARTS = ("train", "val", "test")

MULTI_LABEL = (
    "data with several labels an image (multi-label) is not supported: give every image one label"
)
"""The message for an image with several labels."""

# As Hugging Face's `datasets` names the splits of folders (data_files.SPLIT_KEYWORDS).
_PARTS_BY_NAME = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
# Paths that `safe_path` would not change: no empty part, . or .., and no character it refuses.
_PLAIN_PATH = re.compile(r"(?:(?!\.{1,2}(?:/|\Z))[^/\\\0]+(?:/(?!\Z)|\Z))+")


class Item(NamedTuple):
    """A labelled image: its path under the image root, and an index into the class names."""

    path: str
    label: int


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of a dataset by part.

    Attributes:
      train: training images.
      val: validation images, for choices.
      test: test images.
      class_names: by label. A name may occur twice, as in ImageNet.
    """

    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    class_names: tuple[str, ...]


def part_of(name: str) -> str:
    """The part, one of `PARTS`, for the name of a split in any case of letters; "" if unknown.

    >>> part_of("Valid"), part_of("cat")
    ('val', '')
    """
    return _PARTS_BY_NAME.get(name.strip().lower(), "")


def read_split(path: str | Path) -> Split:
    """Reads a split file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no split file; see `from_lists`.
    """
    file = Path(path).expanduser()
    return from_lists(text_file.read_json(file), str(path))


def from_lists(lists: Any, where: str) -> Split:
    """The split in the content of a split file.

    Args:
      lists: the file's content.
      where: the file's name, for errors.

    Raises:
      ValueError: the content has another form. A path leaves the image root or occurs twice. Labels
        are not 0, 1, 2, …. A class has no name, two names, or no training image.
    """
    if not isinstance(lists, Mapping) or set(lists) != set(PARTS):
        content = sorted(lists) if isinstance(lists, Mapping) else type(lists).__name__
        raise ValueError(f"{where} must hold the lists train, val and test, found {content}")
    names: dict[int, str] = {}
    parts: dict[str, tuple[Item, ...]] = {}
    for part in PARTS:
        if not isinstance(lists[part], list):
            raise ValueError(f"{part} in {where} must be a list, got {lists[part]!r:.80}")
        items = []
        for number, entry in enumerate(lists[part]):
            at = f"{where}, {part}[{number}]"
            match entry:
                case [str(path), int(label), str(name)] if type(label) is int:
                    pass
                case _:
                    raise ValueError(f"{at} must be [path, label, class name], got {entry!r:.120}")
            if not name.strip():
                raise ValueError(f"{at}: the name of class {label} is empty")
            if names.setdefault(label, name) != name:
                raise ValueError(
                    f"{at}: class {label} is called {name!r} here and {names[label]!r} before"
                )
            items.append(Item(safe_path(path, at), label))
        parts[part] = tuple(items)
    if sorted(names) != list(range(len(names))):
        missing = next(k for k in range(len(names)) if k not in names)
        raise ValueError(
            f"labels in {where} must be 0, 1, 2, …: there are {len(names)} classes, and no image "
            f"has label {missing}"
        )
    split = Split(**parts, class_names=tuple(names[k] for k in range(len(names))))
    check(split, where)
    return split


def check(split: Split, where: str) -> None:
    """Checks a split from any source.

    Raises:
      ValueError: there is no test image, a path occurs twice, or a class has no training image. A
        set without any training image is for testing only, and is valid.
    """
    if not split.test:
        raise ValueError(f"{where} has no test image")
    labels_by_path: dict[str, int] = {}
    for part in PARTS:
        for item in getattr(split, part):
            if item.path in labels_by_path:
                _refuse_again(item, labels_by_path[item.path], split.class_names, where)
            labels_by_path[item.path] = item.label
    trained = {item.label for item in split.train}
    if trained:
        for label, name in enumerate(split.class_names):
            if label not in trained:
                raise ValueError(f"class {name!r} (label {label}) of {where} has no training image")


def _refuse_again(item: Item, before: int, class_names: Sequence[str], where: str) -> None:
    """Raises ValueError for an image that is listed twice."""
    if item.label == before:
        raise ValueError(f"{where} lists {item.path} twice")
    raise ValueError(
        f"{where} lists {item.path} as {class_names[before]!r} and as {class_names[item.label]!r}: "
        + MULTI_LABEL
    )


def safe_path(path: str, where: str) -> str:
    """A path under the image root, in its plain form.

    Raises:
      ValueError: the path is absolute, or has a part `..`.
    """
    if _PLAIN_PATH.fullmatch(path):
        return path
    plain = PurePosixPath(path)
    if plain.is_absolute() or ".." in plain.parts or "\\" in path or "\0" in path or not plain.name:
        raise ValueError(
            f"{where}: {path!r:.300} must be a path under the image root, with / between its parts "
            "and without .."
        )
    return str(plain)


def require_shots(shots: int) -> None:
    """Raises ValueError unless a class has at least one shot."""
    if shots < 1:
        raise ValueError(f"shots must be at least 1, got {shots}")


def validation_shots(shots: int, asked: int = 0) -> int:
    """Number of validation images a class: the number asked, or min(shots, 4) for 0 (CoOp)."""
    return asked or min(shots, 4)


def few_shot(split: Split, shots: int, seed: int, validation: int = 0) -> Split:
    """Draws a few-shot set: `shots` training images a class, or all images of a smaller class.

    One random.Random(seed) draws from the classes in the order in which they first appear. It draws
    training images first, then the `validation_shots` of each class. The test images stay. Without
    `validation` the sets equal the sets of CoOp's code, image for image.

    Raises:
      ValueError: shots is below 1, or there are no training images.
    """
    require_shots(shots)
    if not split.train:
        raise ValueError("there are no training images to draw shots from: the set is a test set")
    rng = random.Random(seed)
    train = _sample(split.train, shots, rng)
    return dataclasses.replace(
        split, train=train, val=_sample(split.val, validation_shots(shots, validation), rng)
    )


def refill(
    split: Split,
    subset: Split,
    unusable: Container[str],
    shots: int,
    seed: int,
    validation: int = 0,
) -> Split:
    """Replaces unusable images of a few-shot set by other images of their class, if there are any.

    The usable images stay.

    Args:
      split: the whole split.
      subset: result of `few_shot` or `refill`.
      unusable: paths of unusable images.
      shots: see `few_shot`.
      seed: see `few_shot`.
      validation: see `few_shot`.
    """

    def refilled(items: Sequence[Item], few: Sequence[Item], count: int) -> tuple[Item, ...]:
        groups, result = by_label(items), []
        for label, group in by_label(few).items():
            usable = [item for item in group if item.path not in unusable]
            if len(usable) < len(group):
                current = set(group)
                candidates = [
                    i for i in groups[label] if i not in current and i.path not in unusable
                ]
                random.Random(f"{seed} {label}").shuffle(candidates)
                usable += candidates[: count - len(usable)]
            result += usable
        return tuple(result)

    train = refilled(split.train, subset.train, shots)
    val = refilled(split.val, subset.val, validation_shots(shots, validation))
    return dataclasses.replace(subset, train=train, val=val)


def _sample(items: Sequence[Item], count: int, rng: random.Random) -> tuple[Item, ...]:
    groups = by_label(items).values()
    samples = (rng.sample(g, count) if len(g) >= count else g for g in groups)
    return tuple(item for group in samples for item in group)


def by_label(items: Iterable[Item]) -> dict[int, list[Item]]:
    """Groups items, labels in the order in which they first appear."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    return groups


def base_new(split: Split) -> tuple[Split, Split]:
    """Halves the classes: the first ceil(K / 2) labels are base, the others new.

    The labels of each half start at 0, and each half has its own class names only.

    Raises:
      ValueError: there are fewer than four classes; each half needs two.
    """
    classes = len(split.class_names)
    if classes < 4:
        raise ValueError(
            f"base and new classes need at least 4 classes, got {classes}: set classes=all"
        )
    half = -(-classes // 2)
    return _classes(split, range(half)), _classes(split, range(half, classes))


def _classes(split: Split, labels: range) -> Split:
    parts = {
        part: tuple(
            Item(item.path, item.label - labels.start)
            for item in getattr(split, part)
            if item.label in labels
        )
        for part in PARTS
    }
    return Split(**parts, class_names=split.class_names[labels.start : labels.stop])


def partition(
    items: Sequence[Item], class_names: Sequence[str], val: float, test: float, seed: int
) -> Split:
    """Splits the images of a dataset without splits, class by class.

    The images of a class are sorted by path and shuffled. round(test · n) of them, at least one,
    are for test. round(val · n) are for validation. The remaining images, at least one, are for
    training. The same images, shares and seed give the same split on every machine.

    Args:
      items: the images.
      class_names: by label.
      val: share of validation images, from 0.
      test: share of test images; val + test < 1.
      seed: of the shuffles.

    Raises:
      ValueError: the shares leave no training or test images, or a class has one image.
    """
    if not (0 <= val and 0 < test and val + test < 1):
        raise ValueError(
            f"shares must be val >= 0 and test > 0 with val + test < 1, got val={val}, test={test}"
        )
    parts: dict[str, list[Item]] = {part: [] for part in PARTS}
    for label, members in sorted(by_label(items).items()):
        if len(members) < 2:
            raise ValueError(
                f"class {class_names[label]!r} has {len(members)} image: it needs one to train on "
                "and one to test"
            )
        members = sorted(members)
        random.Random(f"{seed} {label}").shuffle(members)
        tested = min(max(1, round(test * len(members))), len(members) - 1)
        validated = min(round(val * len(members)), len(members) - tested - 1)
        parts["test"] += members[:tested]
        parts["val"] += members[tested : tested + validated]
        parts["train"] += members[tested + validated :]
    return Split(**{k: tuple(v) for k, v in parts.items()}, class_names=tuple(class_names))
