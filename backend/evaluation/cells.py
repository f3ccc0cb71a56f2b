"""Tables of an evaluation, in the two forms that people read: at a terminal, and on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

Cells = Sequence[Sequence[str]]
"""Rows of as many cells each; the headings first."""


def as_table(title: str, cells: Cells) -> Table:
    """For a terminal: names to the left, numbers to the right."""
    headings, *rows = cells
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def page(tables: Mapping[str, Cells]) -> str:
    """Tables under each other, without their titles."""
    return "\n".join(map(as_markdown, tables.values()))


def as_markdown(cells: Cells) -> str:
    """For a page."""
    headings, *rows = ("| " + " | ".join(row) + " |" for row in cells)
    return "\n".join([headings, "|---" * len(cells[0]) + "|", *rows, ""])
