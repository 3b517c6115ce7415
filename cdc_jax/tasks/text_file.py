"""Text files of users: regular, of bounded size, in UTF-8 with or without a byte order mark."""

import codecs
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdc_jax import schema

MAX_BYTES = 2**30
"""The largest text file that is read, 1 GiB: a list of 1.3 million images has about 0.1."""

_BLOCK = 2**20
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
_FORMATS = {
    b"\x1f\x8b": "compressed by gzip", b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook", b"PAR1": "a Parquet file", b"\x80": "a pickle",
    b"\x89HDF": "an HDF5 file", b"SQLite": "an SQLite database", b"\xff\xd8": "a JPEG image",
    b"\x89PNG": "a PNG image",
}  # fmt: skip


def check(file: Path) -> int:
    """Checks in bounded memory that a file is a readable text.

    Returns:
      The number of its lines.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not regular, too large, or not UTF-8; the message says where and why.
    """
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"there is no file {file}: give its path from here, {Path.cwd()}"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{file} is not a regular file: give a text file")
    if status.st_size > MAX_BYTES:
        raise ValueError(
            f"{file} has {status.st_size:,} bytes, at most {MAX_BYTES:,} are read: is it a text?"
        )
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines, last = 0, b""
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            if not lines and not last:
                _refuse_others(file, block)
            try:
                if "\0" in decoder.decode(block):
                    raise ValueError(f"{file} holds NUL characters: it is damaged, or not a text")
            except UnicodeDecodeError as error:
                raise _not_utf8(file, error, lines) from None
            lines += block.count(b"\n")
            last = block[-1:]
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error, lines) from None
    return lines + (last not in (b"", b"\n"))


def _refuse_others(file: Path, start: bytes) -> None:
    """Raises ValueError if a file starts like another encoding or format."""
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            raise ValueError(f"{file} is in {name}: save it as UTF-8")
    for mark, name in _FORMATS.items():
        if start.startswith(mark):
            raise ValueError(f"{file} is {name} and not a text: write its contents as CSV in UTF-8")
    shares = [half.count(0) / max(1, len(half)) for half in (start[:200:2], start[1:200:2])]
    if max(shares) > 1 / 3 > min(shares):
        raise ValueError(f"{file} is in UTF-16: save it as UTF-8")


def _not_utf8(file: Path, error: UnicodeDecodeError, before: int) -> ValueError:
    line = 1 + before + error.object.count(b"\n", 0, error.start)
    byte = error.object[error.start]
    return ValueError(
        f"{file}, line {line}, is not UTF-8 (byte 0x{byte:02x}): save it as UTF-8. From Windows it "
        f"may be in cp1252: iconv -f CP1252 -t UTF-8 {os.path.basename(file)}"
    )


def read(file: Path) -> str:
    """A whole text.

    Raises:
      FileNotFoundError, ValueError: as `check`.
    """
    check(file)
    return file.read_text(encoding="utf-8-sig")


def lines(file: Path) -> Iterator[str]:
    """The lines of a text after `check`, with their ends. One line at a time is in memory."""
    with file.open(encoding="utf-8-sig", newline="") as opened:
        yield from opened


def read_json(file: Path) -> Any:
    """Contents of a JSON file.

    Raises:
      FileNotFoundError, ValueError: as `check`; or the text is not JSON, or has a key twice.
    """
    return parse_json(read(file), str(file))


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text.

    Raises:
      ValueError: see `schema.parse_value`.
    """
    return schema.parse_value(text, where=where, remedy="mend it")
