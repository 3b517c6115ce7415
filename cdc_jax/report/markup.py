"""HTML as element trees, so that whatever a class is called is only ever text."""

import xml.etree.ElementTree as ET

from cdc_jax.report.formats import best, count, interval, number, odd_count, spread
from cdc_jax.report.table import Column, Row, Table, Value

Child = ET.Element | str | None


def element(tag: str, *children: Child, **attributes: str) -> ET.Element:
    """An element with text and elements in it.

    Args:
      tag: its name.
      *children: in order; nothing is left out.
      **attributes: `class_` is class, `aria_label` is aria-label.

    >>> html(element("p", "a < b ", element("em", "c"), class_="x"))
    '<p class="x">a &lt; b <em>c</em></p>'
    """
    node = ET.Element(tag, {k.rstrip("_").replace("_", "-"): v for k, v in attributes.items()})
    for child in children:
        if isinstance(child, ET.Element):
            node.append(child)
        elif child and len(node):
            node[-1].tail = (node[-1].tail or "") + child
        elif child:
            node.text = (node.text or "") + child
    return node


def html(node: ET.Element) -> str:
    """The element as HTML."""
    return ET.tostring(node, encoding="unicode", method="html")


def table_figure(table: Table) -> ET.Element:
    """A table that scrolls within itself, with title, caption, notes and sources.

    Many groups of few columns stand side by side as tables of their own, as the papers have them.
    """
    bodies = [_body(table, g) for g in range(len(table.groups))]
    if len(bodies) > 4 and len(table.columns) <= 3:
        grids = [_scrolling(_head(table), [body], table.title) for body in bodies]
        content = element("div", *grids, class_="split")
    else:
        content = _scrolling(_head(table), bodies, table.title)
    sources = sorted(
        {f"{row.title}: {row.source}." for _, rows in table.groups for row in rows if row.source}
    )
    return element(
        "figure",
        element("h3", table.title),
        content,
        element(
            "figcaption",
            table.caption,
            *(element("span", f"Note: {note}", class_="note") for note in table.notes),
            element("span", " ".join(sources), class_="source") if sources else None,
        ),
        class_="table",
    )


def _scrolling(head: ET.Element, bodies: list[ET.Element], label: str) -> ET.Element:
    grid = element("table", head, *bodies)
    return element("div", grid, class_="scroll", tabindex="0", role="region", aria_label=label)


def _head(table: Table) -> ET.Element:
    titles = [element("th", table.head, scope="col")]
    for column in table.columns:
        kind = {"class_": "text"} if column.text else {}
        titles.append(element("th", column.title, scope="col", **kind))
    titles.append(element("th", "n", scope="col"))
    return element("thead", element("tr", *titles))


def _body(table: Table, g: int) -> ET.Element:
    group, rows = table.groups[g]
    bold = best(table)
    lines = []
    if group:
        span = str(len(table.columns) + 2)
        inner = element("th", element("span", group), scope="rowgroup", colspan=span)
        lines.append(element("tr", inner, class_="group"))
    for r, row in enumerate(rows):
        cells = [
            _cell(cell, column, row, table.signed, (g, r, c) in bold)
            for c, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True))
        ]
        title = element("th", row.title, scope="row")
        seeds = element("td", str(count(row) or "–"), class_="n")
        lines.append(element("tr", title, *cells, seeds, class_=row.mark or "measured"))
    return element("tbody", *lines)


def _cell(
    cell: Value | str | None, column: Column, row: Row, signed: bool, bold: bool
) -> ET.Element:
    if not isinstance(cell, Value):
        return element("td", "–" if cell is None else cell, class_="text" if cell else "none")
    mean = number(cell.mean, column.digits, signed)
    said = " ".join(
        part for part in (interval(cell, column.digits, signed), odd_count(cell, row)) if part
    )
    return element(
        "td",
        element("b" if bold else "span", mean),
        element("small", f" {spread(cell, column.digits)}") if spread(cell, 1) else None,
        element("span", said, class_="interval") if said else None,
    )
