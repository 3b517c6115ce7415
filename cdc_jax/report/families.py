"""Cells in order: families of comparable cells, and the rows of their tables."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from cdc_jax.methods import rows
from cdc_jax.records import INTERVENTION
from cdc_jax.report.cells import Cell

PROTOCOLS = {
    "base_new": "Base to new",
    "few_shot": "Few-shot classification",
    "transfer": "Transfer to other tasks",
}
"""Protocols in their order in a report, and their headings."""

DATASETS = (
    "ImageNet", "Caltech101", "OxfordPets", "StanfordCars", "OxfordFlowers", "Food101",
    "FGVCAircraft", "SUN397", "DescribableTextures", "EuroSAT", "UCF101", "ImageNetV2",
    "ImageNet-Sketch", "ImageNet-A", "ImageNet-R", "world aligned", "world task_misaligned",
    "world domain_gap",
)  # fmt: skip
"""The order of rows and columns: the papers'. Others follow, by name."""


@dataclasses.dataclass(frozen=True)
class Family:
    """Cells that share every setting but dataset, shots, seed and method.

    Those of a transfer share the dataset as well, the one that was learned on.

    Attributes:
      protocol: of `PROTOCOLS`.
      title: what distinguishes it from the other families of a report.
      datasets: in order.
      shots: ascending.
      rows: title -> its cells, in order: a method, or a method with the settings in which it
        differs from the published row; where that isn't there, in which its cells on the same task
        differ.
    """

    protocol: str
    title: str
    datasets: tuple[str, ...]
    shots: tuple[int, ...]
    rows: Mapping[str, Sequence[Cell]]

    @property
    def heading(self) -> str:
        """What is done, for people."""
        return self.cells()[0].heading or PROTOCOLS[self.protocol]

    @property
    def conditions(self) -> list[str]:
        """The conditions under which base classes were tested, in order; [""] for only one."""
        return list(dict.fromkeys(c for cell in self.cells() for c in cell.conditions))

    @property
    def intervenes(self) -> bool:
        """Whether base and new classes were also tested under do()."""
        return self.protocol == "base_new" and INTERVENTION in self.conditions

    def cells(self) -> list[Cell]:
        """All of its cells."""
        return [cell for cells in self.rows.values() for cell in cells]

    def main(self, reference: str | None) -> tuple["Family", str | None]:
        """The family without the rows that only ablations show, and what `reference` is called.

        Of a method's variants, the published one remains, and the reference; all of them where
        none is the published one. One that remains alone is called by the method's name.
        """
        kept = {}
        for title, cells in self.rows.items():
            published = published_row(self, cells[0].method)
            if title == reference or published in (title, None):
                kept[title] = cells
        count = Counter(cells[0].method for cells in kept.values())
        names = {
            title: _title(cells[0].method) if count[cells[0].method] == 1 else title
            for title, cells in kept.items()
        }
        shown = dataclasses.replace(self, rows={names[title]: kept[title] for title in kept})
        return shown, names[reference] if reference else None


def arrange(cells: Sequence[Cell]) -> list[Family]:
    """Sorts cells into families.

    Raises:
      ValueError: two cells of the same settings with different results; both are named.
    """
    groups: dict[Any, list[Cell]] = defaultdict(list)
    for cell in cells:
        # A linear probe of the source's classes can be tested in other domains, on no new classes.
        tested = tuple(sorted(cell.where("all", "base", "target")))
        targets = (cell.dataset, *tested) if cell.protocol == "transfer" else ()
        groups[cell.protocol, cell.heading, cell.others, targets].append(cell)

    def order(key: tuple[Any, ...]) -> tuple[int, bool, str]:
        return list(PROTOCOLS).index(key[0]), not key[1], repr(key[2:])

    ordered = sorted(groups, key=order)
    families = []
    for protocol, heading, others, targets in ordered:
        members = groups[protocol, heading, others, targets]
        siblings = [dict(key[2]) for key in ordered if key[:2] == (protocol, heading)]
        families.append(
            Family(
                protocol=protocol,
                title=_family_title(dict(others), siblings, members),
                datasets=tuple(sorted({cell.dataset for cell in members}, key=dataset_order)),
                shots=tuple(sorted({cell.shots for cell in members})),
                rows=_rows(members),
            )
        )
    return families


def dataset_order(name: str) -> tuple[int, str]:
    """Sorting key of a dataset's name."""
    return (DATASETS.index(name) if name in DATASETS else len(DATASETS), name)


def _family_title(
    others: dict[str, Any], siblings: list[dict[str, Any]], members: Sequence[Cell]
) -> str:
    parts = []
    if "world.rho" in others:
        parts.append(f"correlation {others['world.rho']}")
    if others["model"] != "world":
        parts.append(others["model"].rstrip("/").rpartition("/")[2])
    for key in sorted({key for other in siblings for key in other} - {"world.rho"}):
        if any(other.get(key) != others.get(key) for other in siblings) and key != "model":
            parts.append(f"{key} {others.get(key, 'unset')}")
    return ", ".join(parts)


def _rows(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for method in sorted({cell.method for cell in cells}, key=_method_order):
        own = [cell for cell in cells if cell.method == method]
        keys = varying(own)
        variants: dict[Any, list[Cell]] = defaultdict(list)
        for cell in own:
            variants[tuple((key, cell.choices.get(key)) for key in keys)].append(cell)
        # Changes that all variants share set none of them apart.
        published = [
            variant
            for variant, group in variants.items()
            if not any(key in cell.changes for cell in group for key in keys)
        ]
        known = set(published[0]) if len(published) == 1 else set()
        for variant in sorted(variants, key=lambda v: [_value_order(value) for _, value in v]):
            changed = [(key, value) for key, value in variant if (key, value) not in known]
            said = ", ".join(f"{_short(key, keys)} {value}" for key, value in changed)
            title = f"{_title(method)} ({said})" if said else _title(method)
            found[title] = _once(variants[variant])
    return found


def _title(method: str) -> str:
    return rows.ROWS[method].title if method in rows.ROWS else method


def varying(cells: Sequence[Cell]) -> list[str]:
    """The settings of a method that differ among its cells on the same dataset and shots."""
    groups: dict[Any, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.dataset, cell.shots].append(cell)
    return sorted(
        key
        for key in {key for cell in cells for key in cell.choices}
        if any(
            len({repr(cell.choices.get(key)) for cell in group}) > 1 for group in groups.values()
        )
    )


def _once(cells: Sequence[Cell]) -> list[Cell]:
    """Cells without repeated runs of the same seed."""
    kept: dict[Any, Cell] = {}
    for cell in cells:
        other = kept.setdefault((dataset_order(cell.dataset), cell.shots, cell.seed), cell)
        if repr(other.splits) != repr(cell.splits):
            raise ValueError(
                f"{other.folder} and {cell.folder} hold the same settings and seed with different "
                "results: give one of them only"
            )
    return [kept[key] for key in sorted(kept)]


def _method_order(method: str) -> tuple[int, str]:
    known = list(rows.ROWS)
    return (known.index(method) if method in known else len(known), method)


def _value_order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return (not number, float(value) if number else 0.0, str(value))


def _short(key: str, keys: Sequence[str]) -> str:
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def published_row(family: Family, method: str) -> str | None:
    """The title of a method's row with its published settings: of its variants, or its only one."""
    found = [title for title, cells in family.rows.items() if cells[0].method == method]
    if len(found) < 2:
        return next(iter(found), None)
    return _title(method) if _title(method) in found else None


def reference_row(family: Family, reference: str) -> str | None:
    """The row that a method's name, or a row's title, means; None where there is none.

    Raises:
      ValueError: several variants of the method, none of which is the published one.
    """
    if reference in family.rows:
        return reference
    variants = [title for title, cells in family.rows.items() if cells[0].method == reference]
    found = published_row(family, reference)
    if variants and found is None:
        raise ValueError(f"reference {reference!r} could be each of {'; '.join(variants)}")
    return found
