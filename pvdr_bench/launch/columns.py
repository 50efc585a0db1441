"""Tables that fit the terminal: what names a row is always whole, folded if need be; other columns give way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pvdr_bench.plain_text import one_line

if TYPE_CHECKING:
    from rich.table import Table

LEAST = 16  # width of a folded column; a blank stands on either side of every column
RIGHT = ("env_steps", "steps/s", "success", "left", "time left", "starts", "silent")


def fitting(rows: Sequence[Mapping[str, str]], width: int, first: Sequence[str], folded: Sequence[str]) -> list[str]:
    """The columns for a terminal of ``width``, in the rows' order; one in which nothing stands is left out.

    Args:
        first: the most important columns, in that order; the first of all stays whatever the width.
        folded: columns that may take several lines.
    """
    names = list(rows[0]) if rows else []
    filled = [name for name in names if name == first[0] or any(row[name] not in ("", "-") for row in rows)]
    chosen, left = [], width
    for name in sorted(filled, key=lambda name: first.index(name) if name in first else len(first)):
        longest = max(len(name), *(len(row[name]) for row in rows))
        cost = 2 + (min(longest, LEAST) if name in folded else longest)
        if cost <= left or name == first[0]:
            chosen.append(name)
            left -= cost
    return [name for name in filled if name in chosen]


def table_of(rows: Sequence[Mapping[str, str]], styles: Sequence[str], width: int, first: Sequence[str],
             folded: Sequence[str]) -> Table:
    """A line per row, in the columns that :func:`fitting` chooses; the texts are plain."""
    from rich.markup import escape
    from rich.table import Table

    plain = [{name: one_line(text) for name, text in row.items()} for row in rows]
    table, shown = Table(box=None, header_style="bold"), fitting(plain, width, first, folded)
    for name in shown:
        longest = max(len(name), *(len(row[name]) for row in plain))
        table.add_column(name, justify="right" if name in RIGHT else "left", overflow="fold",
                         no_wrap=name not in folded, min_width=min(longest, LEAST) if name in folded else None)
    for row, style in zip(plain, styles, strict=True):
        table.add_row(*(escape(row[name]) for name in shown), style=style)
    return table
