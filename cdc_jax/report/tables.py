"""The tables of a family. Each kind is a function from a family to tables, listed in `_KINDS`.

`words.toml` has the title and the caption of each kind. The functions get the runs of one number
of shots, except `by_shots`. A table without values is left out.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from cdc_jax.calibration import DELTA, LEVEL, RISK
from cdc_jax.report import figures
from cdc_jax.report.families import Family, plural, title_of
from cdc_jax.report.figures import Measure, calibration, measures, over_seeds, primary
from cdc_jax.report.published import published_rows
from cdc_jax.report.table import Column, Row, Table, Value, joined
from cdc_jax.report.words import titled

Groups: TypeAlias = Sequence[tuple[str, Sequence[Row]]]

_LEAST_ROOM = 3.0  # points; shares of less are noise


def family_tables(family: Family) -> list[Table]:
    """All tables of a family."""
    main, several = family.main(), len(family.shots) > 1
    tables = by_shots(main) if several else []
    kinds = _KINDS[1:] if tables and family.protocol == "few_shot" else _KINDS
    for shots in family.shots:
        part, every = main.at(shots=shots), family.at(shots=shots)
        own = [
            table
            for kind in kinds
            if part.rows
            for table in kind(every if kind in _WITH_VARIANTS else part)
        ]
        own += ablations(every)
        suffix = f", {plural(shots)}" * several
        tables += [dataclasses.replace(table, title=table.title + suffix) for table in own]
    return tables


def accuracy(family: Family) -> list[Table]:
    """Methods by measures, for the average of the datasets and for each of them."""
    columns = measures(family)
    if family.intervenes:
        columns += calibration(family, "ece", "auroc", "novelty")
    groups = _means(family, columns)
    for (_, rows), (_, datasets) in zip(groups, family.scopes(), strict=True):
        rows += published_rows(family, datasets, len(columns))
    kind = "interventions" if family.intervenes else family.protocol
    return _table(family, kind, columns, groups, name="accuracy")


def by_dataset(family: Family) -> list[Table]:
    """Methods by datasets and their average, of the primary measure: H_int, H or accuracy."""
    if family.protocol == "transfer" or len(family.datasets) == 1:
        return []
    runs = figures.runs(family)
    scopes = {dataset: (dataset,) for dataset in family.datasets} | {"average": family.datasets}
    return _across(family, "datasets", scopes, {"": [(runs, own) for own in scopes.values()]})


def by_shots(family: Family) -> list[Table]:
    """Methods by numbers of shots, for the average of the datasets and for each of them."""
    if family.protocol == "transfer":
        return []
    runs = [figures.runs(family.at(shots=shots)) for shots in family.shots]
    groups = {title: [(own, datasets) for own in runs] for title, datasets in family.scopes()}
    return _across(family, "shots", map(plural, family.shots), groups)


def differences(family: Family, kind: str = "differences", name: str = "") -> list[Table]:
    """The reference minus every other row, paired by cell: the same dataset, shots and seed."""
    reference = family.reference
    if reference is None or reference not in family.rows:
        return []
    columns, runs = measures(family) + calibration(family, "ece", "auroc"), figures.runs(family)
    groups = []
    for title, datasets in family.scopes("All cells"):
        gains = figures.differences(runs, datasets, columns, reference)
        rows = [
            Row(f"− {row}", tuple(cells), method_group=family.method_group(row))
            for row, cells in gains.items()
        ]
        groups.append((title, rows))
    return _table(
        family, kind, columns, groups, name=name, head=reference, signed=True, reference=reference
    )


def shares(family: Family) -> list[Table]:
    """The share of the way from zero-shot to an upper bound that each method goes.

    Methods with visual prompts are compared with an upper bound that has them, too.
    """
    rows = {row: cells[0].row for row, cells in family.rows.items()}
    start = next((row for row, record in rows.items() if record.role == "zero-shot"), None)
    if not family.intervenes or start is None:
        return []
    oracles = {  # of several variants the last
        record.changes_images: row for row, record in rows.items() if record.role == "upper bound"
    }
    columns = [m for m in measures(family) if set(m.splits) <= set(family.headline)]
    runs, tables = figures.runs(family), list[Table]()
    for visual, oracle in oracles.items():
        alike = [row for row, record in rows.items() if record.changes_images == visual]
        groups = []
        for title, datasets in family.scopes():
            ends = (runs, datasets, columns, start, oracle)
            cells = {row: _shares(*ends, row) for row in alike if row not in (start, oracle)}
            room = Row("room, in points", _shares(*ends), "room")
            groups.append((title, [room, *_rows(family, cells)]))
        which, name = (" with visual prompts", "room-visual") if visual else ("", "room")
        tables += _table(family, "room", columns, groups, name=name, which=which, least=_LEAST_ROOM)
    return tables


def trust(family: Family) -> list[Table]:
    """How far the predictions' probabilities and uncertainties can be trusted."""
    columns, splits = calibration(family), ", ".join(family.headline)
    return _table(family, "calibration", columns, _means(family, columns), splits=splits)


def guarantees(family: Family) -> list[Table]:
    """How far sets, decided predictions and uncertainties can be trusted on each test split."""
    if not any(own["classes"] for cell in family.cells for own in cell.splits.values()):
        return []  # older releases wrote only one of the columns
    several = len(family.records) > 1
    groups = [
        (joined(title, record.title(split) * several, by=", "), rows)
        for split, record in family.records.items()
        for title, rows in _means(family, figures.guarantees(split))
    ]
    return _table(
        family, "guarantees", figures.guarantees(""), groups, level=100 * LEVEL, risk=100 * RISK,
        sure=100 * (1 - DELTA), group_head="split" if several else "dataset",
    )  # fmt: skip


def templates(family: Family) -> list[Table]:
    """Each template's accuracy alone beside the fused one's, of the methods with several."""
    groups = []
    for dataset in family.datasets:
        rows = []
        for row, cells in family.at(dataset=dataset).rows.items():
            for split in filter(cells[0].splits.__contains__, family.headline):
                alone = [cell.splits[split]["template_accuracy"] for cell in cells]
                if min(map(len, alone)) > 1:
                    fused = [cell.splits[split]["accuracy"] for cell in cells]
                    means = map(over_seeds, [fused, *zip(*alone, strict=True)])
                    group = family.method_group(row)
                    rows.append(Row(row, (split, *means), method_group=group))
        groups.append((dataset * (len(family.datasets) > 1), rows))
    count = max((len(row.cells) - 2 for _, rows in groups for row in rows), default=0)
    titles = ["fused", *(f"t{m + 1}" for m in range(count))]
    columns = [Column("split", text=True), *(Column(title, falling=None) for title in titles)]
    return _table(family, "templates", columns, groups)


def ablations(family: Family) -> list[Table]:
    """For each method with several variants, what they give, and paired differences to them."""
    tables = []
    for method, variants, keys in family.ablations():
        measured = measures(variants) + calibration(variants, "ece", "auroc")
        groups = _means(variants, measured)
        for _, rows in groups:
            for i, row in enumerate(rows):
                choices = variants.rows[row.title][0].choices
                first, *others = (str(choices.get(key)) for key in keys)
                rows[i] = dataclasses.replace(row, title=first, cells=(*others, *row.cells))
        tables += _table(
            variants, "ablation", [*(Column(key, text=True) for key in keys[1:]), *measured],
            groups, name=f"ablation-{method}", head=keys[0], keys=", ".join(keys),
            method=title_of(method), give="give" if len(keys) > 1 else "gives",
        )  # fmt: skip
        # Without a published variant, the main tables show and compare all of them.
        if family.published(method):
            name = f"ablation-{method}-differences"
            tables += differences(variants, "ablation_differences", name)
    return tables


_KINDS: Sequence[Callable[[Family], list[Table]]] = (
    accuracy, by_dataset, differences, shares, trust, guarantees, templates,
)  # fmt: skip
_WITH_VARIANTS = (trust, guarantees)


def _table(
    family: Family, kind: str, columns: Sequence[Column], groups: Groups, *, name: str = "",
    head: str = "method", group_head: str = "dataset", signed: bool = False, **names: Any,
) -> list[Table]:  # fmt: skip
    """A table without its empty columns, rows and groups; none without values.

    It is called by its kind if no name is given. The other names are for the kind's words.
    """
    groups = [(group, [row for row in rows if any(row.cells)]) for group, rows in groups]
    filled = {c for _, rows in groups for row in rows for c, cell in enumerate(row.cells) if cell}
    if not filled:
        return []
    kept = sorted(filled)
    shown = tuple(columns[c] for c in kept)
    title, caption = titled("tables", kind, **names)
    abouts = "; ".join(f"{column.title}: {column.about}" for column in shown if column.about)
    dataset = family.datasets[0] if len(family.datasets) == 1 else ""
    shots = family.shots[0] if len(family.shots) == 1 else None
    where = (family.heading, dataset, family.title, plural(shots) if shots else "")
    notes = sorted({f"{c.task.dataset}: {c.note}" for c in family.cells if c.note})
    narrow = ((group, tuple(row.at(kept) for row in rows)) for group, rows in groups if rows)
    caption = joined(caption, abouts and f"{abouts}.")
    table = Table(
        name or kind, shots, title, joined(*where, by=", "), caption, shown, tuple(narrow), head,
        group_head, (*notes, *_without_average(family, groups)), signed,
    )  # fmt: skip
    return [table]


def _without_average(family: Family, groups: Groups) -> list[str]:
    """A note a row that stands beside single datasets and not beside their average."""
    (together, averaged), *alone = groups
    if together in family.datasets:
        return []
    notes = []
    measured = [r.title for _, rows in alone for r in rows if r.mark != "published"]
    for row in dict.fromkeys(measured):
        if row not in {r.title for r in averaged}:
            lacking = [name for name, rows in alone if row not in {r.title for r in rows}]
            reason = f"no run on {', '.join(lacking)}" if lacking else "no seed on all of them"
            notes.append(f"{row} is not in {together!r}: it has {reason}")
    return notes


def _means(family: Family, columns: Sequence[Measure]) -> list[tuple[str, list[Row]]]:
    """The rows' values for the average of the datasets and for each of them."""
    runs = figures.runs(family)
    return [
        (title, _rows(family, figures.averages(runs, datasets, columns)))
        for title, datasets in family.scopes()
    ]


def _across(
    family: Family, kind: str, titles: Iterable[str],
    groups: Mapping[str, Sequence[tuple[pd.DataFrame, Sequence[str]]]],
) -> list[Table]:  # fmt: skip
    """The primary measure of every row, each column of a group over some runs and datasets."""
    measure = primary(family)
    tabulated = []
    for title, scopes in groups.items():
        values = [figures.averages(runs, datasets, [measure]) for runs, datasets in scopes]
        cells = {row: [own.get(row, [None])[0] for own in values] for row in family.rows}
        tabulated.append((title, _rows(family, cells)))
    columns = [Column(title, measure.digits) for title in titles]
    return _table(family, kind, columns, tabulated, measure=measure.title)


def _rows(family: Family, cells: Mapping[str, Sequence[Value | None]]) -> list[Row]:
    marks = {family.reference: "reference"}
    return [
        Row(row, tuple(own), marks.get(row, ""), method_group=family.method_group(row))
        for row, own in cells.items()
    ]


def _shares(
    runs: pd.DataFrame, datasets: Sequence[str], columns: Sequence[Measure], *rows: str
) -> tuple[Value | None, ...]:
    """Of zero-shot, an oracle and a method the share, of the first two alone the room in points."""
    cells = figures.averages(figures.shared(runs, rows), datasets, columns)
    values = [cells.get(row, [None] * len(columns)) for row in rows]
    start, end, *method = np.array([[v.mean if v else np.nan for v in own] for own in values])
    room = end - start
    shares = [100 * (x - start) / np.where(room < _LEAST_ROOM, np.nan, room) for x in method]
    return tuple(
        Value(float(x), n=value.n) if value and not np.isnan(x) else None
        for x, value in zip([room, *shares][-1], values[-1], strict=True)
    )
