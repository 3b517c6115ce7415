"""What a table is: values in rows and columns, and the texts that every renderer shows of them."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias, TypeVar


@dataclasses.dataclass(frozen=True)
class Value:
    """Mean, sample standard deviation and 95 % t-interval of n values; NaN where there is none."""

    mean: float
    sd: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0

    @property
    def sign(self) -> int | None:
        """1 or -1 for an interval above or below 0, 0 for one with both; None without interval."""
        return None if math.isnan(self.low) else (self.low > 0) - (self.high < 0)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row.

    `mark` is "reference", "published", "room" or nothing, `source` where published, `method_group`
    the heading of the rows of its method and the methods beside it.
    """

    title: str
    cells: tuple[Value | str | None, ...]
    mark: str = ""
    source: str = ""
    method_group: str = ""

    @property
    def n(self) -> int:
        """The number of seeds or pairs."""
        return max((cell.n for cell in self.cells if isinstance(cell, Value)), default=0)

    @property
    def label(self) -> str:
        """The title with the source."""
        return f"{self.title} ({self.source})" if self.source else self.title

    def at(self, columns: Sequence[int]) -> "Row":
        """The row with these cells alone; those beyond its last are empty."""
        cells = dict(enumerate(self.cells))
        return dataclasses.replace(self, cells=tuple(map(cells.get, columns)))


@dataclasses.dataclass(frozen=True)
class Column:
    """A column's title, digits after the point, and whether less is better, None for no order.

    `text` is set for columns of words, `about` is the column's explanation in captions.
    """

    title: str
    digits: int = 1
    falling: bool | None = False
    text: bool = False
    about: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; a renderer needs nothing else.

    Its groups are (title, rows); a single one has no title. `where` is the protocol and the task,
    `head` the title of the rows' column, `group_head` that of the groups'. `shots` is None for runs
    of several. The values of a `signed` table are differences.
    """

    name: str
    shots: int | None
    title: str
    where: str
    caption: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    head: str = "method"
    group_head: str = "dataset"
    notes: tuple[str, ...] = ()
    signed: bool = False

    @property
    def sources(self) -> list[str]:
        """Where published rows are from."""
        rows = [row for _, rows in self.groups for row in rows if row.source]
        return sorted({f"{row.title}: {row.source}." for row in rows})

    def column(self, *titles: str) -> int | None:
        """Index of the first of some columns that the table has."""
        own = [column.title for column in self.columns]
        return next((own.index(title) for title in titles if title in own), None)

    def values(self, title: str) -> dict[str, Value]:
        """Row -> value in the column of that title, in the first group."""
        if (c := self.column(title)) is None:
            return {}
        cells = {row.title: row.cells[c] for row in self.groups[0][1]}
        return {row: cell for row, cell in cells.items() if isinstance(cell, Value)}


T = TypeVar("T")
Line: TypeAlias = "tuple[Row, list[Shown]]"
_MANY = 10  # rows; fewer are read without headings


@dataclasses.dataclass(frozen=True)
class Shown:
    """A cell as texts: a value's parts, or words, or a dash for nothing.

    `count` is the value's number where that is not its row's.
    """

    kind: Literal["value", "text", "none"]
    main: str
    spread: str = ""
    interval: str = ""
    count: str = ""
    best: bool = False

    @property
    def detail(self) -> str:
        """The interval and the number."""
        return joined(self.interval, self.count)


def shown(table: Table) -> Iterator[tuple[str, list[Line]]]:
    """Group, and its rows with their cells as texts."""
    for group, rows in table.groups:
        best = [_best(table, rows, c) for c in range(len(table.columns))]
        lines = [
            (row, [_shown(table, row, c, r in best[c]) for c in range(len(row.cells))])
            for r, row in enumerate(rows)
        ]
        yield group, lines


def by_methods(lines: Iterable[tuple[Row, T]]) -> list[tuple[str, list[tuple[Row, T]]]]:
    """Heading and lines of each group of methods; all under none if they are few or alike."""
    lines = list(lines)
    groups = itertools.groupby(lines, lambda line: line[0].method_group)
    parts = [(title, list(own)) for title, own in groups]
    return parts if len(lines) >= _MANY and len(parts) > 1 else [("", lines)]


def _shown(table: Table, row: Row, c: int, best: bool) -> Shown:
    cell, digits = row.cells[c], table.columns[c].digits
    if not isinstance(cell, Value):
        return Shown("text", cell) if cell else Shown("none", "–")
    low, high = (number(end, digits, table.signed) for end in (cell.low, cell.high))
    return Shown(
        "value",
        number(cell.mean, digits, table.signed),
        "" if math.isnan(cell.sd) else f"± {number(cell.sd, digits)}",
        "" if math.isnan(cell.low) else f"[{low}, {high}]",
        f"(n = {cell.n})" if cell.n != row.n else "",
        best,
    )


def joined(*parts: str, by: str = " ") -> str:
    """The parts that are not empty, in one line."""
    return by.join(filter(None, parts))


def number(value: float, digits: int, signed: bool = False) -> str:
    """A figure; differences carry their sign, with a true minus.

    >>> number(-1.26, 1, signed=True), number(93.0, 1), number(-0.01, 1, signed=True)
    ('−1.3', '93.0', '0.0')
    """
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return (text if float(text) else text.lstrip("+-")).replace("-", "−")


def _best(table: Table, rows: tuple[Row, ...], c: int) -> set[int]:
    """Positions of the best means of a column, among the measured rows of the most seeds.

    In a table of differences, they are those of intervals that leave 0 out.
    """
    column, unmeasured = table.columns[c], ("published", "room")
    cells = {r: row.cells[c] for r, row in enumerate(rows) if row.mark not in unmeasured}
    values = {r: cell for r, cell in cells.items() if isinstance(cell, Value)}
    if table.signed:
        return {r for r, value in values.items() if value.sign}
    if len(values) < 2 or column.falling is None:
        return set()
    most = max(value.n for value in values.values())
    means = {r: round(v.mean, column.digits) for r, v in values.items() if v.n == most}
    top = (min if column.falling else max)(means.values())
    return {r for r, mean in means.items() if mean == top}
