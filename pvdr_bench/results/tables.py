"""Final success rates as Markdown, CSV and LaTeX (booktabs): rows are methods, columns are tasks, or aggregates.

A number is bold only where its interval lies wholly above those of all other learned rows at the same env_steps
(below them, where less is better).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pandas as pd

from pvdr_bench.errors import UsageError
from pvdr_bench.plain_text import markdown_cell, one_line
from pvdr_bench.results.collect import Results
from pvdr_bench.results.latex import SCRIPT, environment, escape_latex, minus
from pvdr_bench.results.series import (
    METRICS,
    Row,
    bounds_of,
    budget_words,
    caption_facts,
    excluded,
    final_interval,
    final_values,
    final_words,
    left_out,
    over_tasks,
    rows_of,
    spread_of,
)
from pvdr_bench.results.sheets import safe_cells
from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS, Interval, clear_winner
from pvdr_bench.words import significant

ALL = "all tasks"


@dataclass(frozen=True)
class Cell:
    """One row's number in one column.

    Attributes:
        after: env_steps of the final evaluations behind it, by task.
    """

    interval: Interval
    after: tuple[int, ...]
    episodes: tuple[int, ...]
    bold: bool = False

    @property
    def env_steps(self) -> int:
        """Where all of it was evaluated; 0 where tasks differ."""
        return self.after[0] if len(set(self.after)) == 1 else 0


@dataclass(frozen=True)
class Table:
    """A finished table; ``cells[row, column]`` is None where there is nothing to show.

    Attributes:
        units: of each column: percent, number, digits (three that matter) or env_steps.
        statistics: of each column: mean, or what it is of all tasks.
        reported: published numbers of the same tasks, shown apart.
        notes: runs that are not, or not wholly, in it.
        none: what stands where there is nothing to show.
    """

    metric: str
    columns: tuple[str, ...]
    units: tuple[str, ...]
    statistics: tuple[str, ...]
    rows: tuple[Row, ...]
    cells: dict[tuple[Row, str], Cell | None]
    caption: str
    notes: tuple[str, ...]
    reported: pd.DataFrame
    none: str = "-"


def build_table(results: Results, metric: str = "success", *, confidence: float = CONFIDENCE, statistic: str = "mean",
                repetitions: int = REPETITIONS, bootstrap_seed: int = 0, allow_mixed: bool = False,
                reported: pd.DataFrame | None = None, overall: bool = True) -> Table:
    """Compute the table of final evaluations.

    Args:
        metric: a key of :data:`~pvdr_bench.results.series.METRICS`.
        statistic: ``mean`` or ``iqm``, for the column over all tasks.
        reported: published numbers to show below, see :mod:`pvdr_bench.results.paper`.
        overall: a column over all tasks, where there are several.

    Raises:
        UsageError: protocols are mixed, there is no run, or the metric is unknown.
    """
    if metric not in METRICS:
        raise UsageError(f"there is no metric {metric!r}", hint=f"there is: {', '.join(METRICS)}")
    if statistic not in ("mean", "iqm"):
        raise UsageError(f"there is no statistic {statistic!r}", hint="there is: mean, iqm")
    results.require_runs()
    results.require_one_protocol(allow_mixed=allow_mixed)
    rows, tasks = tuple(rows_of(results)), sorted(map(str, results.runs["task"].unique()))
    cells: dict[tuple[Row, str], Cell | None] = {}
    for task in tasks:
        for row in rows:
            final, interval = final_interval(row, results.points, task, metric, confidence=confidence)
            cells[row, task] = Cell(interval, (final.env_steps,), final.episodes) if final.values.size else None
    columns, statistics = tuple(tasks), ("mean",) * len(tasks)
    overall = overall and len(tasks) > 1
    if overall:
        columns, statistics = (*columns, ALL), (*statistics, statistic)
        for row in rows:
            cells[row, ALL] = _over_all(row, results, tasks, metric, statistic, confidence, repetitions, bootstrap_seed)
    for column in columns:
        mark_bold(cells, rows, column)
    caption = _caption(results, metric, confidence, statistic if overall else None, cells)
    notes = tuple(excluded(rows, results, tasks)) + tuple(left_out(results))
    units = ("number" if metric == "return" else "percent",) * len(columns)
    return Table(metric, columns, units, statistics, rows, cells, caption, notes,
                 pd.DataFrame() if reported is None else reported)


def _over_all(row: Row, results: Results, tasks: list[str], metric: str, statistic: str, confidence: float,
              repetitions: int, seed: int) -> Cell | None:
    interval = over_tasks(row, results.points, tasks, metric, statistic=statistic, confidence=confidence,
                          repetitions=repetitions, seed=seed)
    if interval is None:
        return None
    finals = [final_values(row, results.points, task, metric) for task in tasks]
    return Cell(interval, tuple(final.env_steps for final in finals), tuple(n for f in finals for n in f.episodes))


def mark_bold(cells: dict[tuple[Row, str], Cell | None], rows: Iterable[Row], column: str,
              less_is_better: bool = False) -> None:
    """Bold the one learned row that is clearly better than all others, if they were evaluated alike."""
    shown = [(row, cell) for row in rows if not row.reference and (cell := cells[row, column]) is not None]
    if len({(cell.after, row.protocol_hash) for row, cell in shown}) != 1:
        return
    intervals = [cell.interval for _, cell in shown]
    winner = clear_winner([negated(interval) for interval in intervals] if less_is_better else intervals)
    if winner is not None:
        row, cell = shown[winner]
        cells[row, column] = replace(cell, bold=True)


def negated(interval: Interval) -> Interval:
    """The interval of the negative value."""
    low, high = (None if bound is None else -bound for bound in (interval.high, interval.low))
    return Interval(-interval.value, low, high, interval.n, interval.method)


def _caption(results: Results, metric: str, confidence: float, over: str | None,
             cells: dict[tuple[Row, str], Cell | None]) -> str:
    percent = "" if metric == "return" else " in percent"
    clipped = "" if bounds_of(metric) is None else ", clipped to [0, 100]"
    level = f"{100 * confidence:g} %"
    sentences = [f"{final_words(results, metric, percent)}: mean over seeds [{level} Student t interval "
                 f"over seeds{clipped}], n seeds."]
    if over:
        name = "mean of the tasks' means" if over == "mean" else "interquartile mean of all seeds of all tasks"
        sentences.append(f"All tasks: {name} [{level} stratified bootstrap, runs resampled within tasks].")
    sentences.append("Bold: the interval lies wholly above those of all other learned rows. "
                     "An interval of zero width means that all seeds gave the same number, not certainty.")
    sentences.append(budget_words(
        cell.env_steps for (_, column), cell in cells.items() if cell is not None and column != ALL))
    return " ".join(sentences + caption_facts(results))


def _number(value: float, unit: str) -> str:
    if math.isinf(value):
        return "never"
    return {"percent": f"{100 * value:.1f}", "env_steps": f"{value:,.0f}",
            "digits": significant(value)}.get(unit, f"{value:.2f}")


def shown(cell: Cell | None, unit: str, none: str = "-") -> tuple[str, str, str]:
    """The cell's value, its interval, and its n; ``none`` where there is none."""
    if cell is None:
        return none, "", ""
    interval = cell.interval
    span = "no interval"
    if interval.low is not None and interval.high is not None:
        span = f"[{_number(interval.low, unit)}, {_number(interval.high, unit)}]"
    return _number(interval.value, unit), span, f"n = {interval.n}"


def _reported_line(record: dict[str, object]) -> str:
    details = ", ".join(str(record[key]) for key in ("corpus", "horizon") if record[key])
    after = "" if pd.isna(record["env_steps"]) else f", after {record['env_steps']:,} env_steps"
    return (f"{record['method']} ({details}), {record['task']}: {record['success']:.1f} +- {record['spread']:.1f}, "
            f"{record['seeds']} seeds, {record['table']}{after}")


def _reported_head(table: Table) -> str:
    first = table.reported.iloc[0]
    return (f"Reported, in percent, under another protocol ({first['protocol']}): not comparable, in no statistic. "
            f"Source: {first['source']}. {str(first['note']).capitalize()}.")


def to_markdown(table: Table) -> str:
    """A GitHub table with its caption, notes and reported numbers."""
    lines = ["| method | " + " | ".join(map(markdown_cell, table.columns)) + " |",
             "| --- |" + " ---: |" * len(table.columns)]
    for row in table.rows:
        texts = []
        for column, unit in zip(table.columns, table.units, strict=True):
            cell = table.cells[row, column]
            value, span, n = shown(cell, unit, table.none)
            value = f"**{value}**" if cell is not None and cell.bold else value
            texts.append(" ".join(part for part in (value, span, f"({n})" if n else "") if part))
        lines.append(f"| {markdown_cell(row.label)} | " + " | ".join(texts) + " |")
    lines += ["", one_line(table.caption)]
    if table.notes:
        lines += ["", "Not, or not wholly, included:", "", *(f"- {one_line(note)}" for note in table.notes)]
    if not table.reported.empty:
        lines += ["", _reported_head(table), "",
                  *(f"- {_reported_line(record)}" for record in table.reported.to_dict("records"))]
    return "\n".join(lines) + "\n"


def to_frame(table: Table) -> pd.DataFrame:
    """A row per cell: full precision, for other programs. Reported numbers have ``kind`` reported, as fractions."""
    records = []
    for row in table.rows:
        for column, statistic in zip(table.columns, table.statistics, strict=True):
            cell = table.cells[row, column]
            if cell is not None:
                i = cell.interval
                records.append({
                    "kind": "reference" if row.reference else "measured", "variant": row.variant, "corpus": row.corpus,
                    "scale": row.scale, "protocol_hash": row.protocol_hash,
                    "task": ALL if column == statistic else column, "metric": table.metric, "statistic": statistic,
                    "value": i.value, "low": i.low, "high": i.high, "n": i.n, "interval": i.method,
                    "env_steps": cell.env_steps, "episodes": spread_of(list(cell.episodes)), "bold": cell.bold,
                    "source": "",
                })
    for record in table.reported.to_dict("records"):
        records.append({
            "kind": "reported", "variant": record["method"], "corpus": record["corpus"], "scale": "",
            "protocol_hash": "", "task": record["task"], "metric": "success", "statistic": "mean",
            "value": record["success"] / 100.0,
            "low": None, "high": None, "n": record["seeds"], "interval": "",
            "env_steps": 0 if pd.isna(record["env_steps"]) else record["env_steps"], "episodes": "",
            "bold": False, "source": f"{record['source']}, {record['table']}; {record['protocol']}",
        })
    return pd.DataFrame(records)


def to_csv(table: Table) -> str:
    """:func:`to_frame` as CSV."""
    text = io.StringIO()
    safe_cells(to_frame(table)).to_csv(text, index=False, lineterminator="\n")
    return text.getvalue()


def _letters(table: Table) -> float:
    """How many letters wide a table is in LaTeX, about."""
    def room(column: str, unit: str) -> float:
        cells = [shown(table.cells[row, column], unit, table.none) for row in table.rows]
        return max(len(column), *(len(value) + SCRIPT * (len(span) + len(n) + 3) for value, span, n in cells))

    names = max(len(row.label) for row in table.rows)
    return names + sum(room(*one) for one in zip(table.columns, table.units, strict=True))


def to_latex(table: Table) -> str:
    """A booktabs table, see :func:`~pvdr_bench.results.latex.environment`. Notes are comments."""
    lines = [" & ".join(["method", *map(escape_latex, table.columns)]) + r" \\", r"\midrule"]
    was_reference = False
    for index, row in enumerate(table.rows):
        if row.reference and not was_reference and index:
            lines.append(r"\midrule")
        was_reference = row.reference
        texts = []
        for column, unit in zip(table.columns, table.units, strict=True):
            cell = table.cells[row, column]
            value, span, n = shown(cell, unit, table.none)
            value = ("--" if value == "-" else escape_latex(value)) if cell is None else minus(value)
            value = rf"\textbf{{{value}}}" if cell is not None and cell.bold else value
            more = rf"{{\scriptsize {minus(span)}, ${n}$}}" if n else ""
            texts.append(" ".join(part for part in (value, more) if part))
        lines.append(" & ".join([escape_latex(row.label), *texts]) + r" \\")
    lines = environment("l" + "r" * len(table.columns), lines, table.caption, _letters(table))
    lines += [f"% not, or not wholly, included: {one_line(note)}" for note in table.notes]
    if not table.reported.empty:
        lines.append(f"% {one_line(_reported_head(table))}")
        lines += [f"% {one_line(_reported_line(record))}" for record in table.reported.to_dict("records")]
    return "\n".join(lines) + "\n"


FORMATS = {"md": to_markdown, "csv": to_csv, "tex": to_latex}
