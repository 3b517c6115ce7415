"""Images that occur more than once in a dataset, by the contents of their files."""

import hashlib
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cdc_jax.tasks.decode import open_regular
from cdc_jax.tasks.splits import PARTS, Item, Split

MOST = 100_000
"""A dataset of at most so many images is compared as a whole. Of a larger dataset the images of a
run are compared with its shots."""
_PROBE = 4096  # bytes from the middle of a file, where photographs of equal size differ
_BLOCK = 2**20
_CHUNK = 64  # files a task of a thread
_THREADS = 8  # more than cores, as most of the time is spent waiting for disks


def find(files: Sequence[Path], anchors: Collection[int] | None = None) -> list[list[int]]:
    """Groups of files with equal contents.

    Files are compared by size, then by a block of 4 kB. Files that are still equal are read whole.
    An unreadable file is in no group.

    Args:
      files: paths.
      anchors: numbers of the files whose copies are searched; None is all.

    Returns:
      The numbers of equal files, each group in the order of `files`.
    """
    numbers = range(len(files)) if anchors is None else anchors
    with ThreadPoolExecutor(_THREADS) as pool:

        def divided(groups: Iterable[list[int]], by: Callable[[Path], Hashable]) -> list[list[int]]:
            """The groups split up by a property; only those that can still hold copies."""
            parts: dict[Hashable, list[int]] = defaultdict(list)
            numbered = [(k, number) for k, group in enumerate(groups) for number in group]
            chunks = (numbered[k : k + _CHUNK] for k in range(0, len(numbered), _CHUNK))
            lists = pool.map(lambda chunk: [by(files[number]) for _, number in chunk], chunks)
            values = itertools.chain.from_iterable(lists)
            for (k, number), value in zip(numbered, values, strict=True):
                if value is not None:
                    parts[k, value].append(number)
            return [p for p in parts.values() if len(p) > 1 and not searched.isdisjoint(p)]

        searched = set(numbers)
        groups = divided([list(range(len(files)))], _size)
        groups = divided(groups, _middle)
        return divided(groups, _digest)


def examine(split: Split, used: Split, contents: Callable[[str], Path], allow: bool) -> list[str]:
    """Looks for images that occur more than once.

    Args:
      split: all images of a dataset.
      used: the images of a run.
      contents: an item's path -> its file.
      allow: whether an image may be in several splits.

    Returns:
      A sentence for each kind of copy that is accepted.

    Raises:
      ValueError: an image is in two classes; or in two splits, unless `allow`.
    """
    total = sum(len(getattr(split, part)) for part in PARTS)
    scope = split if total <= MOST else used
    entries = [(part, item) for part in PARTS for item in getattr(scope, part)]
    anchors = None if scope is split else range(len(used.train))
    groups = find([contents(item.path) for _, item in entries], anchors)
    copies = [[entries[number] for number in group] for group in groups]
    several = [group for group in copies if len({item.label for _, item in group}) > 1]
    if several:
        (_, first), (_, second) = _differing(several[0], lambda entry: entry[1].label)
        names = split.class_names
        raise ValueError(
            f"{contents(first.path)} and {contents(second.path)} hold the same image, once as "
            f"{names[first.label]!r} and once as {names[second.label]!r}"
            f"{_so_many(several)}. Photos with several labels can't be used: keep each in one class"
        )
    across = [group for group in copies if len({part for part, _ in group}) > 1]
    if across and not allow:
        (part, first), (other, second) = _differing(across[0], lambda entry: entry[0])
        raise ValueError(
            f"{contents(first.path)} of {part} and {contents(second.path)} of {other} hold the "
            f"same image{_so_many(across)}, which makes tests look better than they are: remove "
            "one of them, or add data.allow_copies=True"
        )
    remarks = []
    if across:
        remarks.append(f"{len(across)} images are in several splits (data.allow_copies)")
    if within := len(copies) - len(across):
        remarks.append(f"{within} images occur more than once in their class and split")
    if scope is not split:
        remarks.append("copies were looked for among the shots and the test images only")
    return remarks


def _differing(
    group: Sequence[tuple[str, Item]], by: Callable[[tuple[str, Item]], Hashable]
) -> tuple[tuple[str, Item], tuple[str, Item]]:
    first = group[0]
    return first, next(entry for entry in group if by(entry) != by(first))


def _so_many(groups: Sequence[object]) -> str:
    return f" ({len(groups)} such images)" if len(groups) > 1 else ""


def _size(file: Path) -> int | None:
    try:
        return os.stat(file).st_size or None
    except OSError:
        return None  # `decode` says what is wrong with it, if it is used


def _middle(file: Path) -> bytes | None:
    try:
        with open_regular(file) as opened:
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - _PROBE) // 2)
            return hashlib.blake2b(opened.read(_PROBE), digest_size=16).digest()
    except OSError:
        return None


def _digest(file: Path) -> bytes | None:
    try:
        with open_regular(file) as opened:
            hashed = hashlib.blake2b()
            while block := opened.read(_BLOCK):
                hashed.update(block)
            return hashed.digest()
    except OSError:
        return None
