"""What methods cost, beside what they came to: the tables of :mod:`pvdr_bench.results.cost_tables` as HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvdr_bench.results.cost_tables import build_cost_table, build_time_table
from pvdr_bench.results.report import parts
from pvdr_bench.results.report.parts import Td, text
from pvdr_bench.results.tables import Cell, Table, shown

if TYPE_CHECKING:
    from pvdr_bench.results.report.chapters import Chapter

_OPENING = "Methods are compared by env_steps, not by compute: what each took stands here beside what it came to."


def cost_part(chapter: Chapter) -> str:
    """Hours and FLOP beside success, and where the time went."""
    options, results = chapter.options, chapter.results
    cost = build_cost_table(results, options.metric, confidence=options.confidence, repetitions=options.repetitions,
                            allow_mixed=options.allow_mixed)
    time = build_time_table(results, confidence=options.confidence, allow_mixed=options.allow_mixed)
    return "\n".join([f'<p class="lead">{text(_OPENING)}</p>',
                      _table(cost, f"cost-table{chapter.suffix}", "Cost beside success", chapter.first),
                      "<h3>Where the time went</h3>",
                      _table(time, f"time-table{chapter.suffix}", "Shares of wall time", chapter.first)])


def _table(table: Table, name: str, title: str, first: int) -> str:
    rows = [[parts.named(row.label, first + index),
             *(_cell(table.cells[row, column], unit, table.none)
               for column, unit in zip(table.columns, table.units, strict=True))]
            for index, row in enumerate(table.rows)]
    return parts.sortable(title, ["method", *table.columns], rows, name=name,
                          note=f'<p class="note">{text(table.caption)}</p>')


def _cell(cell: Cell | None, unit: str, none: str) -> Td:
    value, span, n = shown(cell, unit, none)
    if cell is None:
        return Td(f'<span class="none">{text(none)}</span>')
    return Td(f'<span class="value">{text(value)}</span> <span class="span">{text(span)}</span> '
              f'<span class="n">{text(n)}</span>', cell.interval.value, wide=True)
