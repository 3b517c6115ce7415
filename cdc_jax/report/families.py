"""Cells in order: families of comparable cells, and the rows of their tables."""

import dataclasses
import functools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cdc_jax.methods.rows import ROWS
from cdc_jax.records import INTERVENTION, SplitRecord
from cdc_jax.report.cells import Cell
from cdc_jax.report.words import words

PROTOCOLS: Mapping[str, str] = words("protocols")
"""Protocols in their order in a report, and their headings."""

DATASETS: Sequence[str] = words("datasets")
"""The order of rows and columns: the papers'. Others follow, by name."""

_REFERENCE = next(name for name, row in ROWS.items() if row.role == "reference")


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Cells that share every setting but dataset, shots, seed and method.

    The cells of a transfer share the dataset as well, the one that was learned on.

    Attributes:
      protocol: of `PROTOCOLS`.
      title: what distinguishes it from the other families of a report.
      name: its protocol, numbered where there are several; begins the names of its files.
      datasets, shots: in order.
      rows: title -> its cells, in order: a method with the settings in which it differs from the
        published row; without a published row, in which its cells on the same task differ.
      reference: title of the row that the others are compared with, or None.
    """

    protocol: str
    title: str
    name: str
    datasets: tuple[str, ...]
    shots: tuple[int, ...]
    rows: Mapping[str, Sequence[Cell]]
    reference: str | None = None

    @functools.cached_property
    def cells(self) -> list[Cell]:
        """All of its cells."""
        return [cell for cells in self.rows.values() for cell in cells]

    @property
    def heading(self) -> str:
        """What is done, for people."""
        return self.cells[0].task.heading or PROTOCOLS[self.protocol]

    @functools.cached_property
    def records(self) -> dict[str, SplitRecord]:
        """Test split -> what it is."""
        return {name: record for c in self.cells for name, record in c.results.splits.items()}

    @functools.cached_property
    def splits(self) -> dict[tuple[str, str], str]:
        """Group of classes and condition -> the test split."""
        return {(record.group, record.condition): split for split, record in self.records.items()}

    @property
    def intervenes(self) -> bool:
        """Whether base and new classes were also tested under do()."""
        return self.protocol == "base_new" and ("base", INTERVENTION) in self.splits

    @functools.cached_property
    def headline(self) -> list[str]:
        """The splits that stand for all; targets in the papers' order."""
        splits = list(dict.fromkeys(split for cell in self.cells for split in cell.headline))
        targets = any(group == "target" for group, _ in self.splits)
        return sorted(splits, key=dataset_order) if targets else splits

    def at(self, **task: Any) -> "Family":
        """The cells whose task has these values, such as `shots=4`; without the other rows."""

        def fits(cell: Cell) -> bool:
            return all(getattr(cell.task, key) == value for key, value in task.items())

        return self.of({row: list(filter(fits, cells)) for row, cells in self.rows.items()})

    def of(self, rows: Mapping[str, Sequence[Cell]]) -> "Family":
        """The rows that have cells, and their datasets and shots."""
        rows = {row: cells for row, cells in rows.items() if cells}
        tasks = [cell.task for cells in rows.values() for cell in cells]
        datasets = tuple(sorted({task.dataset for task in tasks}, key=dataset_order))
        shots = tuple(sorted({task.shots for task in tasks}))
        return dataclasses.replace(self, rows=rows, datasets=datasets, shots=shots)

    def scopes(self, together: str = "Average") -> list[tuple[str, tuple[str, ...]]]:
        """The groups of a table: the average of all datasets if there are several, and each."""
        if len(self.datasets) == 1:
            return [("", self.datasets)]
        first = (f"{together} of {len(self.datasets)} datasets", self.datasets)
        return [first, *((dataset, (dataset,)) for dataset in self.datasets)]

    def variants(self, method: str) -> list[str]:
        """The rows of a method."""
        return [row for row, cells in self.rows.items() if cells[0].row.row == method]

    def published(self, method: str) -> str | None:
        """A method's row with its published settings: one of its variants, or its only row."""
        rows, title = self.variants(method), title_of(method)
        return rows[0] if len(rows) == 1 else title if title in rows else None

    def named(self, reference: str | None) -> str | None:
        """The row that a method's name, or a row's title, means; None where there is none.

        Without a name it is the row whose role that is.

        Raises:
          ValueError: several variants of the method, none of which is the published one.
        """
        if reference is None:
            return self.published(_REFERENCE)
        if reference in self.rows:
            return reference
        row = self.published(reference)
        if row is None and (variants := self.variants(reference)):
            raise ValueError(f"reference {reference!r} could be each of {'; '.join(variants)}")
        return row

    def method_group(self, row: str) -> str:
        """The heading of a row's method in tables."""
        return group_of(self.rows[row][0].row.row)

    def ablations(self) -> Iterator[tuple[str, "Family", list[str]]]:
        """Methods with several variants on a task, their cells there and what settings differ."""
        for method in dict.fromkeys(cell.row.row for cell in self.cells):
            rows = {row: self.rows[row] for row in self.variants(method)}
            count = Counter(d for cells in rows.values() for d in {c.task.dataset for c in cells})
            several = {r: [c for c in own if count[c.task.dataset] > 1] for r, own in rows.items()}
            if (variants := self.of(several)).rows:
                yield method, variants, varying(variants.cells)

    def main(self) -> "Family":
        """The family without the rows that only ablations show.

        Of a method's variants, the published one and the reference remain, or all of them. One
        that remains alone is called by the method's name.
        """
        methods = {row: cells[0].row.row for row, cells in self.rows.items()}
        kept = {
            row: method
            for row, method in methods.items()
            if row == self.reference or self.published(method) in (row, None)
        }
        alone = [method for method, count in Counter(kept.values()).items() if count == 1]
        titles = {row: title_of(m) if m in alone else row for row, m in kept.items()}
        rows = {title: self.rows[row] for row, title in titles.items()}
        return dataclasses.replace(self, rows=rows, reference=titles.get(self.reference or ""))


def arrange(cells: Sequence[Cell], reference: str | None = None) -> list[Family]:
    """Sorts cells into families.

    Args:
      cells: of runs.
      reference: see `Family.named`.

    Raises:
      ValueError: two cells of the same settings with different results (both are named), no run of
        the reference, or several variants of it.
    """
    groups: dict[Any, list[Cell]] = defaultdict(list)
    for cell in cells:
        task, records = cell.task, cell.results.splits
        # A linear probe of the source's classes can be tested in other domains, on no new classes.
        tested = sorted(split for split in records if records[split].group != "new")
        targets = (task.dataset, *tested) if task.protocol == "transfer" else ()
        settings = tuple(sorted(task.settings.items()))
        groups[task.protocol, task.heading, settings, targets].append(cell)

    def order(key: tuple[Any, ...]) -> tuple[int, bool, str]:
        return list(PROTOCOLS).index(key[0]), not key[1], repr(key[2:])

    families: list[Family] = []
    total, number = Counter(protocol for protocol, *_ in groups), Counter[str]()
    for protocol, heading, settings, targets in sorted(groups, key=order):
        siblings = [dict(other[2]) for other in groups if other[:2] == (protocol, heading)]
        title = _family_title(dict(settings), siblings)
        number[protocol] += 1
        name = protocol.replace("_", "-") + f"-{number[protocol]}" * (total[protocol] > 1)
        rows = _rows(groups[protocol, heading, settings, targets])
        family = Family(protocol, title, name, (), (), {}).of(rows)
        families.append(dataclasses.replace(family, reference=family.named(reference)))
    if reference is not None and not any(family.reference for family in families):
        methods = ", ".join(sorted({cell.row.row for cell in cells}))
        raise ValueError(f"no run of the reference {reference!r}: there are {methods}")
    return families


def dataset_order(name: str) -> tuple[int, str]:
    """Sorting key of a dataset's name."""
    return (DATASETS.index(name) if name in DATASETS else len(DATASETS), name)


def title_of(method: str) -> str:
    """How tables call a method."""
    return ROWS[method].title if method in ROWS else method


def group_of(method: str) -> str:
    """The heading of a method's rows in tables."""
    return ROWS[method].group if method in ROWS else words("method_groups", "other")


def plural(shots: int) -> str:
    """A number of shots for people."""
    return f"{shots} shot{'s' * (shots > 1)}"


def varying(cells: Sequence[Cell]) -> list[str]:
    """The settings of a method that differ among its cells on the same dataset and shots."""
    values: dict[Any, set[str]] = defaultdict(set)
    for key in {key for cell in cells for key in cell.choices}:
        for cell in cells:
            values[key, cell.task.dataset, cell.task.shots].add(repr(cell.choices.get(key)))
    return sorted({key for (key, *_), different in values.items() if len(different) > 1})


def _family_title(settings: Mapping[str, Any], siblings: Sequence[Mapping[str, Any]]) -> str:
    parts = [f"correlation {settings['world.rho']}"] if "world.rho" in settings else []
    if settings["model"] != "world":
        parts.append(settings["model"].rstrip("/").rpartition("/")[2])
    parts += [
        f"{key} {settings.get(key, 'unset')}"
        for key in sorted({key for other in siblings for key in other} - {"world.rho", "model"})
        if any(other.get(key) != settings.get(key) for other in siblings)
    ]
    return ", ".join(parts)


def _rows(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Title -> cells of equal settings; the published ones have the method's title alone."""
    rows = {}
    methods = {cell.row.row for cell in cells}
    for method in (*filter(methods.__contains__, ROWS), *sorted(methods - set(ROWS))):
        own = [cell for cell in cells if cell.row.row == method]
        keys = varying(own)
        variants: dict[Any, list[Cell]] = defaultdict(list)
        for cell in own:
            variants[tuple(cell.choices.get(key) for key in keys)].append(cell)
        # Changes that all variants share set none of them apart.
        published = [
            values
            for values, alike in variants.items()
            if not any(key in cell.row.changes for cell in alike for key in keys)
        ]
        unchanged = published[0] if len(published) == 1 else [...] * len(keys)
        for values in sorted(variants, key=lambda values: list(map(_value_order, values))):
            compared = zip(keys, values, unchanged, strict=True)
            changes = [f"{_short(key, keys)} {x}" for key, x, usual in compared if x != usual]
            title = title_of(method) + f" ({', '.join(changes)})" * bool(changes)
            rows[title] = _once(variants[values])
    return rows


def _once(cells: Sequence[Cell]) -> list[Cell]:
    """Cells without repeated runs of the same seed."""
    kept: dict[Any, Cell] = {}
    for cell in cells:
        task = cell.task
        other = kept.setdefault((dataset_order(task.dataset), task.shots, task.seed), cell)
        if repr(other.splits) != repr(cell.splits):
            raise ValueError(
                f"{other.folder} and {cell.folder} hold the same settings and seed with different "
                "results: give one of them only"
            )
    return [kept[key] for key in sorted(kept)]


def _value_order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return (not number, float(value) if number else 0.0, str(value))


def _short(key: str, keys: Sequence[str]) -> str:
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key
