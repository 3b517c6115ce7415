"""Tables that compare: paired differences, ablations, shares of the oracle's gain."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from cdc_jax.report import tables
from cdc_jax.report.families import Family, title_of, varying
from cdc_jax.report.figures import Cells, Measure, Runs, calibration, measures, primary
from cdc_jax.report.table import Column, Row, Table, Value
from cdc_jax.report.words import words

_LEAST_ROOM = 3.0  # points; shares of less are noise


def family_tables(family: Family, reference: str | None) -> list[Table]:
    """All tables of a family; those without data are left out.

    Args:
      family: its cells.
      reference: title of the row that the others are compared with, or None.
    """
    main, main_reference = family.main(reference)
    by_shots = tables.by_shots(main, main_reference)
    chosen = [by_shots]
    for shots in family.shots:
        runs = Runs(main, shots, main_reference)
        chosen += [
            None if family.protocol == "few_shot" and by_shots else tables.accuracy(runs),
            tables.by_dataset(runs),
            _differences(runs),
            *_rooms(runs),
            tables.calibrated(runs),
            tables.templates(runs),
            *_ablations(Runs(family, shots, reference)),
        ]
    return [table for table in chosen if table is not None]


def _differences(
    runs: Runs, name: str = "differences", others: str = "the others", other: str = "other method"
) -> Table | None:
    """The reference minus every other row, paired by cell: the same dataset, shots and seed."""
    family, shots, reference = runs.family, runs.shots, runs.reference
    columns = measures(family) + calibration(family, "ece", "auroc")
    groups = []
    for title, datasets in family.scopes(shots, "All cells"):
        gains = runs.differences(datasets, columns)
        groups.append((title, [Row(f"− {row}", cells) for row, cells in gains.items()]))
    if not any(rows for _, rows in groups):
        return None
    caption = words("tables", "differences", reference=reference, other=other)
    return tables.assemble(
        family, shots, name, f"{reference} minus {others}", caption, columns, groups,
        head=reference, signed=True,
    )  # fmt: skip


def _rooms(runs: Runs) -> list[Table]:
    """The share of the way from zero-shot to an upper bound that each method goes.

    An upper bound with visual prompts is one for the methods with visual prompts, another for the
    others.
    """
    rows = {row: cells[0] for row, cells in runs.family.at(runs.shots).items()}
    start = next((row for row, cell in rows.items() if cell.row.role == "zero-shot"), None)
    if not runs.family.intervenes or start is None:
        return []
    oracles = {  # of several variants the last
        cell.row.changes_images: row for row, cell in rows.items() if cell.row.role == "upper bound"
    }
    own = {
        visual: [
            r for r, c in rows.items() if c.row.changes_images == visual and r not in (start, end)
        ]
        for visual, end in oracles.items()
    }
    return [_room(runs, visual, start, oracles[visual], own[visual]) for visual in oracles]


def _room(runs: Runs, visual: bool, start: str, end: str, others: Sequence[str]) -> Table:
    under_do = {split for cell in runs.family.cells() for split in cell.headline}
    columns = [m for m in measures(runs.family) if m.key in under_do | {primary(runs.family).key}]
    groups = []
    for group, datasets in runs.family.scopes(runs.shots):
        rows = [Row("room, in points", _shares(runs, datasets, columns, start, end), "room")]
        rows += [Row(r, _shares(runs, datasets, columns, start, end, r)) for r in others]
        if any(rows[0].cells):
            groups.append((group, [row for row in rows if any(row.cells)]))
    which = " with visual prompts" if visual else ""
    caption = words("tables", "room", which=which, least=_LEAST_ROOM)
    return tables.assemble(
        runs.family, runs.shots, "room-visual" if visual else "room",
        f"share of the oracle's gain{which}", caption, columns, groups,
    )  # fmt: skip


def _shares(runs: Runs, datasets: Sequence[str], columns: Sequence[Measure], *rows: str) -> Cells:
    """Of zero-shot, an oracle and a method the share, of the first two alone the room in points.

    They are figures of means, which have no interval.
    """
    cells = runs.values(datasets, columns, shared=rows)
    missing = (None,) * len(columns)
    shares: list[Value | None] = []
    for values in zip(*(cells.get(row, missing) for row in rows), strict=True):
        start, end, *method = (Value(np.nan) if value is None else value for value in values)
        room = end.mean - start.mean
        share = Value(room, n=end.n)
        for value in method:
            gain = value.mean - start.mean
            share = Value(100 * gain / room if room >= _LEAST_ROOM else np.nan, n=value.n)
        shares.append(None if np.isnan(share.mean) else share)
    return tuple(shares)


def _ablations(runs: Runs) -> list[Table]:
    """For each method with several variants, the settings that differ and what they give.

    Beside that of the reference, its paired differences to its variants.
    """
    family, shots, reference = runs.family, runs.shots, runs.reference
    columns = measures(family) + calibration(family, "ece", "auroc")
    ablations: list[Table | None] = []
    at_shots = family.at(shots)
    for method in dict.fromkeys(cells[0].row.row for cells in at_shots.values()):
        rows = {row: at_shots[row] for row in family.variants(method) if row in at_shots}
        count = Counter(d for cells in rows.values() for d in {c.task.dataset for c in cells})
        variants = {r: [c for c in own if count[c.task.dataset] > 1] for r, own in rows.items()}
        variants = {row: own for row, own in variants.items() if own}
        if not variants:
            continue
        keys = varying([cell for cells in variants.values() for cell in cells])
        ablated = Runs(dataclasses.replace(family, rows=variants), shots, reference)
        groups = []
        for group, datasets in ablated.family.scopes(shots):
            lines = []
            for row, cells in ablated.values(datasets, columns).items():
                first, *others = (str(variants[row][0].choices.get(key)) for key in keys)
                lines.append(Row(first, (*others, *cells), "reference" * (row == reference)))
            groups.append((group, lines))
        title = title_of(method)
        settings = [Column(key, text=True) for key in keys[1:]]
        names = {"keys": ", ".join(keys), "give": "give" if len(keys) > 1 else "gives"}
        caption = words("tables", "ablation", method=title, **names)
        name = f"ablation-{method}"
        ablations.append(
            tables.assemble(
                family, shots, name, f"ablation of {title}", caption,
                [*settings, *columns], groups, head=keys[0],
            )
        )  # fmt: skip
        # Without a published variant, the main tables show and compare all of them.
        if reference in variants and family.published(method):
            named = f"{name}-differences"
            ablations.append(_differences(ablated, named, "its variants", "of its variants"))
    return [table for table in ablations if table is not None]
