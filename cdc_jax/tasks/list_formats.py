"""Reads a list of images in any format of `lists` as entries of path, label and split."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cdc_jax.escaping import reason
from cdc_jax.tasks import splits, text_file
from cdc_jax.tasks.files import SUFFIXES, is_image
from cdc_jax.tasks.list_columns import Columns, Entry
from cdc_jax.tasks.splits import PARTS, Split

_SPACED = re.compile(
    rf"(.+?\.(?:{'|'.join(suffix[1:] for suffix in sorted(SUFFIXES))}))\s+(\S.*)", re.IGNORECASE
)


def entries(
    file: Path, columns: Columns, remarks: list[str]
) -> tuple[Iterable[Entry] | Split, int]:
    """The entries of a list, or the split of a split file; and roughly the number of entries."""
    many = text_file.check(file)
    first = next((line for line in text_file.lines(file) if line.strip()), "").strip()
    if not first:
        raise ValueError(f"{file} is empty: it lists no image")
    if first[:1] not in ("{", "[") and file.suffix.lower() != ".json":
        return _delimited(file, first, columns, remarks), many
    try:
        content = text_file.read_json(file)
    except ValueError:
        if not _is_object(first):
            raise
        return _json_lines(file, columns), many
    if isinstance(content, Mapping) and not columns.fit(tuple(content)):
        return _parts(content, file, columns)
    if isinstance(content, Mapping) and any(
        isinstance(value, dict | list) for value in content.values()
    ):
        raise ValueError(
            f"{file} is a table by columns: write one object an image, in pandas by "
            'to_json(orient="records")'
        )
    entries = [content] if isinstance(content, Mapping) else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(
            f"{file} must be a list of objects with path and label, or a split file with train, "
            "val and test"
        )
    numbered = enumerate(entries, 1)
    return (columns.entry(f"{file}, entry {k}", entry) for k, entry in numbered), len(entries)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _json_lines(file: Path, columns: Columns) -> Iterator[Entry]:
    for number, line in enumerate(text_file.lines(file), 1):
        if not line.strip():
            continue
        at = f"{file}, line {number}"
        entry = text_file.parse_json(line, at)
        if not isinstance(entry, dict):
            raise ValueError(f"{at} must be an object with path and label, got {entry!r:.80}")
        yield columns.entry(at, entry)


def _parts(
    content: Mapping[str, Any], file: Path, columns: Columns
) -> tuple[Iterable[Entry] | Split, int]:
    """The lists of a split file. Their entries are CoOp's or objects."""
    if {"images", "annotations"} <= set(content):
        raise ValueError(
            f"{file} is an annotation file of COCO's form, whose images may have several labels: "
            f"{splits.MULTI_LABEL}, in a CSV of path and label"
        )
    lists: dict[str, Any] = {}
    for key, entries in content.items():
        part = splits.part_of(key)
        if not part:
            raise ValueError(
                f"{file} must be a list of objects with path and label, or a split file with "
                f"train, val and test; it is an object of {', '.join(map(repr, [*content][:9]))}"
            )
        if part in lists:
            raise ValueError(f"{file} holds the {part} images twice, the second as {key!r}")
        lists[part] = entries
    flat = [
        (part, number, entry)
        for part, entries in lists.items()
        if isinstance(entries, list)
        for number, entry in enumerate(entries)
    ]
    if not flat or not all(isinstance(entry, dict) for _, _, entry in flat):
        return splits.from_lists({part: lists.get(part, []) for part in PARTS}, str(file)), 0

    def entry(part: str, number: int, fields: dict[str, Any]) -> Entry:
        at, (path, label, _) = columns.entry(f"{file}, {part}[{number}]", fields)
        return at, (path, label, part)

    return (entry(*fields) for fields in flat), len(flat)


def _delimited(file: Path, first: str, columns: Columns, remarks: list[str]) -> Iterator[Entry]:
    """Entries of a CSV file, with or without a header."""
    skipped, separators = 1, ",;\t|"
    if (match := re.fullmatch(r"sep=(.)", first)) is not None:  # Excel's
        separators, skipped = match[1], 2
        nonblank = (line for line in text_file.lines(file) if line.strip())
        next(nonblank)
        first = next(nonblank, "").strip()
    headers = {separator: _cells(first, separator) for separator in separators}
    fitting = [s for s, header in headers.items() if columns.fit(header)]
    if len(fitting) == 1:
        separator = fitting[0]
        yield from _table(file, separator, headers[separator], columns, skipped)
        return
    words = first.split()
    if not fitting and columns.fit(words):
        yield from _spaced(file, 1) if len(words) == 2 else _table(file, " ", words, columns, 1)
        return
    if _SPACED.fullmatch(first) and not any(is_image(cells[0]) for cells in headers.values()):
        remarks.append(f"{file.name} has no header: its lines are read as a path and a label")
        yield from _spaced(file, 0)
        return
    for separator, cells in headers.items():
        if is_image(cells[0]) and len(cells) in (2, 3):
            names = ["path", "label", "split"][: len(cells)]
            remarks.append(f"{file.name} has no header: its columns are read as {', '.join(names)}")
            yield from _table(file, separator, names, columns, skipped - 1)
            return
    header = max(headers.values(), key=len)
    columns.choose(tuple(header))  # raises what is wrong with them
    raise ValueError(f"{file}: the header {first!r:.200} can be read in two ways: use commas only")


def _cells(line: str, separator: str) -> list[str]:
    try:
        parsed = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return [line]
    return [cell.strip() for cell in parsed] or [line]


def _table(
    file: Path, separator: str, header: Sequence[str], columns: Columns, skipped: int
) -> Iterator[Entry]:
    """Rows of a table. `skipped` lines with content, such as the header, are skipped."""
    names = columns.choose(tuple(header))
    places = [None if name is None else header.index(name) for name in names]
    lines = text_file.lines(file)
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            if not any(cells) or not any(map(str.strip, cells)):
                continue
            if skipped:
                skipped -= 1
                continue
            at = f"{file}, line {reader.line_num}"
            if len(cells) > len(header) and any(cells[len(header) :]):
                raise ValueError(
                    f"{at} has {len(cells)} values, the header names {len(header)} columns: put "
                    f"quotes around a value that contains {separator!r}; got {cells!r:.200}"
                )
            path, label, part = (
                None if place is None else cells[place].strip() if place < len(cells) else ""
                for place in places
            )
            yield at, (path, label, part)
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}, is not CSV: {reason(error)}") from None


def _spaced(file: Path, skipped: int) -> Iterator[Entry]:
    """Entries of `path label` lines. A path ends with the suffix of an image."""
    parts: set[str] = set()
    for number, line in enumerate(text_file.lines(file), 1):
        if not line.strip():
            continue
        if skipped:
            skipped -= 1
            continue
        at, match = f"{file}, line {number}", _SPACED.fullmatch(line.strip())
        if match is None:
            raise ValueError(
                f"{at} must be the path of an image and its label, got {line.strip()!r:.200}"
            )
        path, label = match[1], match[2].strip()
        words = label.rsplit(maxsplit=1)
        parts.add(splits.part_of(words[1]) if len(words) == 2 else "")
        yield at, (path, label, None)
    if parts and "" not in parts:
        raise ValueError(
            f"{file}: all labels end in the name of a split, as if a third column told it: write "
            "the list as CSV with the header path,label,split"
        )
