"""Tables that compare: paired differences, calibration, templates, ablations, the oracle's room."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from cdc_jax.methods import rows as known_rows
from cdc_jax.report.cells import Cell
from cdc_jax.report.families import Family, published_row, varying
from cdc_jax.report.measures import calibration, headline, measures, primary
from cdc_jax.report.table import (
    Column,
    Row,
    Table,
    Value,
    assemble,
    columns_of,
    entry,
    measured,
    over_seeds,
    scopes,
    with_shots,
)

_LEAST_ROOM = 3.0  # points; shares of less are noise


def difference_table(family: Family, shots: int, reference: str | None) -> Table | None:
    """The reference minus every other row, paired by cell: the same dataset, shots and seed."""
    if reference is None:
        return None
    columns = measures(family) + [m for m in calibration(family) if m.key in ("ece", "auroc")]
    groups = []
    for title, datasets in scopes(family, shots, "All cells"):
        ours = _by_pair(family.rows[reference], datasets, shots)
        rows = []
        for row, cells in family.rows.items():
            theirs = _by_pair(cells, datasets, shots)
            pairs = [(ours[pair], theirs[pair]) for pair in ours if pair in theirs]
            if row != reference and pairs:
                values = tuple(
                    over_seeds([m.of(a.splits) - m.of(b.splits) for a, b in pairs]) for m in columns
                )
                rows.append(Row(f"− {row}", values))
        groups.append((title, rows))
    if not any(rows for _, rows in groups):
        return None
    caption = (
        f"{reference} minus each other method in percentage points, paired by dataset and seed. "
        "Bold: the 95 % interval leaves 0 out. Intervals over several datasets' cells take these "
        "as independent."
    )
    title = f"{reference} minus the others"
    table = assemble(family, shots, "differences", title, caption, columns_of(columns), groups)
    return dataclasses.replace(table, head=reference, signed=True)


def _by_pair(
    cells: Sequence[Cell], datasets: Sequence[str], shots: int
) -> dict[tuple[str, int], Cell]:
    return {(c.dataset, c.seed): c for c in cells if c.shots == shots and c.dataset in datasets}


def calibration_table(family: Family, shots: int, reference: str | None) -> Table:
    """How far the predictions' probabilities and uncertainties can be trusted."""
    columns = calibration(family)
    groups = [
        (title, measured(family, datasets, shots, columns, reference))
        for title, datasets in scopes(family, shots)
    ]
    splits = ", ".join(headline(family.cells()[:1]))
    caption = f"Means over {splits}."
    title = "calibration and uncertainty"
    return assemble(family, shots, "calibration", title, caption, columns_of(columns), groups)


def template_table(family: Family, shots: int) -> Table | None:
    """Each template's accuracy alone beside the fused one's, of the methods with several."""
    groups: list[tuple[str, list[tuple[str, str, list[Value | None]]]]] = []
    for dataset in family.datasets:
        rows = []
        for title, cells in with_shots(family, shots).items():
            own = [cell for cell in cells if cell.dataset == dataset]
            for split in headline(own[:1]):
                alone = [cell.splits[split]["template_accuracy"] for cell in own]
                if min(map(len, alone)) > 1:
                    fused = [cell.splits[split]["accuracy"] for cell in own]
                    values = map(over_seeds, [fused, *zip(*alone, strict=True)])
                    rows.append((title, split, list(values)))
        groups.append((dataset if len(family.datasets) > 1 else "", rows))
    most = max((len(values) for _, rows in groups for *_, values in rows), default=0)
    if not most:
        return None
    columns = [Column("split", text=True), Column("fused", falling=None)]
    columns += [Column(f"t{m}", falling=None) for m in range(1, most)]
    caption = "Accuracy in percent of every template alone, and of the fused prediction."
    padded = [
        (
            group,
            [
                Row(title, (split, *values, *[None] * (most - len(values))))
                for title, split, values in rows
            ],
        )
        for group, rows in groups
    ]
    title = "templates alone and fused"
    return assemble(family, shots, "templates", title, caption, columns, padded)


def room_tables(family: Family, shots: int) -> list[Table]:
    """The share of the way from zero-shot to an upper bound that each method goes.

    An upper bound with visual prompts is one for the methods with visual prompts, another for the
    others.
    """
    rows = with_shots(family, shots)
    roles = {title: cells[0].role for title, cells in rows.items()}
    start = next((title for title, role in roles.items() if role == "zero-shot"), None)
    if not family.intervenes or start is None:
        return []
    under_do = {split for cell in family.cells() for split in cell.headline}
    columns = [m for m in measures(family) if m.key in under_do | {primary(family).key}]
    tables = []
    oracles = {  # of several variants the last
        rows[title][0].changes_images: title
        for title, role in roles.items()
        if role == "upper bound"
    }
    for visual, oracle in oracles.items():
        name, said = ("room-visual", " with visual prompts") if visual else ("room", "")
        own = [title for title, cells in rows.items() if cells[0].changes_images == visual]
        groups = []
        for group, datasets in scopes(family, shots):

            def values(
                titles: Sequence[str], of: Callable, datasets: Sequence[str] = datasets
            ) -> tuple:
                cells = _common([rows[title] for title in titles], datasets)
                return tuple(of(*(entry(own, datasets, m) for own in cells)) for m in columns)

            room = Row("room, in points", values([start, oracle], _room), "room")
            others = [title for title in own if title not in (start, oracle)]
            shares = [Row(title, values([start, oracle, title], _share)) for title in others]
            if any(room.cells):
                groups.append((group, [room, *(row for row in shares if any(row.cells))]))
        caption = (
            f"The gain over zero-shot of the oracle{said} in points, and the share of it in "
            f"percent that each method{said} reaches: (method − zero-shot) / (oracle − zero-shot), "
            "of the means over the seeds that all three have; none of a room under "
            f"{_LEAST_ROOM:g} points. Over 100: the oracle's prompt does not reach all that there "
            "is."
        )
        title = f"share of the oracle's gain{said}"
        tables.append(assemble(family, shots, name, title, caption, columns_of(columns), groups))
    return tables


def _common(rows: Sequence[Sequence[Cell]], datasets: Sequence[str]) -> list[list[Cell]]:
    """Of each row the cells of datasets and seeds that all of them have."""
    found = [{(c.dataset, c.seed): c for c in row if c.dataset in datasets} for row in rows]
    shared = set.intersection(*(set(cells) for cells in found))
    return [[cell for key, cell in cells.items() if key in shared] for cells in found]


def _room(start: Value | None, end: Value | None) -> Value | None:
    return start and end and _alone(end.mean - start.mean, end.n)


def _share(start: Value | None, end: Value | None, value: Value | None) -> Value | None:
    room = _room(start, end)
    if not start or not value or not room or room.mean < _LEAST_ROOM:
        return None
    return _alone(100 * (value.mean - start.mean) / room.mean, value.n)


def _alone(mean: float, n: int) -> Value:
    """A figure of means, which has no interval."""
    return Value(mean, np.nan, np.nan, np.nan, n)


def ablation_tables(family: Family, shots: int, reference: str | None) -> list[Table]:
    """For each method with several variants, the settings that differ and what they give.

    Beside that of the reference, its paired differences to its variants.
    """
    by_method: dict[str, dict[str, list[Cell]]] = defaultdict(dict)
    for title, cells in with_shots(family, shots).items():
        by_method[cells[0].method][title] = cells
    tables = []
    for method, variants in by_method.items():
        count = Counter(
            dataset for own in variants.values() for dataset in {c.dataset for c in own}
        )
        ablated = {dataset for dataset, n in count.items() if n > 1}
        if not ablated:
            continue
        variants = {
            title: [cell for cell in own if cell.dataset in ablated]
            for title, own in variants.items()
        }
        keys = varying([cell for cells in variants.values() for cell in cells])
        columns = measures(family) + [m for m in calibration(family) if m.key in ("ece", "auroc")]
        groups = []
        for group, datasets in scopes(dataclasses.replace(family, rows=variants), shots):
            rows = []
            for title, cells in variants.items():
                values = tuple(entry(cells, datasets, measure) for measure in columns)
                if any(values):
                    said = [str(cells[0].choices.get(key)) for key in keys]
                    mark = "reference" if title == reference else ""
                    rows.append(Row(said[0], (*said[1:], *values), mark))
            groups.append((group, rows))
        name = known_rows.ROWS[method].title if method in known_rows.ROWS else method
        settings = [Column(key, text=True) for key in keys[1:]]
        caption = f"What {', '.join(keys)} of {name} give{'s' * (len(keys) == 1)}."
        table = assemble(
            family, shots, f"ablation-{method}", f"ablation of {name}", caption,
            [*settings, *columns_of(columns)], groups,
        )  # fmt: skip
        tables.append(dataclasses.replace(table, head=keys[0]))
        # Without a published variant, the main tables show and compare all of them.
        if reference in variants and published_row(family, method):
            own_family = dataclasses.replace(family, rows=variants)
            if paired := difference_table(own_family, shots, reference):
                renamed = dataclasses.replace(
                    paired,
                    name=f"ablation-{method}-differences",
                    title=paired.title.replace("the others", "its variants"),
                    caption=paired.caption.replace("each other method", "each of its variants"),
                )
                tables.append(renamed)
    return tables
