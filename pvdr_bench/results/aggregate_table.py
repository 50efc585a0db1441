"""The table of aggregates over tasks: rows are methods, columns are statistics of :mod:`.aggregates`."""

from __future__ import annotations

import pandas as pd

from pvdr_bench.errors import UsageError
from pvdr_bench.results.aggregates import Aggregates, aggregates_of, one_task_words
from pvdr_bench.results.collect import Results
from pvdr_bench.results.series import METRICS, budget_words, caption_facts, excluded, final_values, left_out, rows_of
from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS
from pvdr_bench.results.tables import Cell, Table, mark_bold
from pvdr_bench.words import counted

_LESS_IS_BETTER = ("gap", "steps")


def columns_of(threshold: float) -> dict[str, tuple[str, str]]:
    """Aggregate -> the column's title and unit."""
    level = f"{100 * threshold:g} %"
    return {"mean": ("mean", "percent"), "iqm": ("IQM", "percent"), "gap": ("optimality gap", "percent"),
            "area": ("area under the curve", "percent"), "reached": (f"runs that reach {level}", "percent"),
            "steps": (f"env_steps to {level}", "env_steps")}


def build_aggregate_table(results: Results, metric: str = "success", *, threshold: float = 0.5,
                          confidence: float = CONFIDENCE, repetitions: int = REPETITIONS, bootstrap_seed: int = 0,
                          allow_mixed: bool = False) -> Table:
    """Compute every aggregate of every row that has a final evaluation in every task; nothing is bold of one task.

    Args:
        metric: a rate.
        threshold: in [0, 1], of the share of runs that reach it and of the env_steps to it.

    Raises:
        UsageError: protocols are mixed, there is no run, or the metric is no rate.
    """
    if metric not in METRICS or metric == "return":
        raise UsageError(f"there are no aggregates of {metric!r}", hint="they need a rate: "
                         + ", ".join(name for name in METRICS if name != "return"))
    results.require_runs()
    results.require_one_protocol(allow_mixed=allow_mixed)
    rows, tasks = tuple(rows_of(results)), sorted(map(str, results.runs["task"].unique()))
    found = {row: aggregates_of(row, results.points, tasks, metric, threshold=threshold, confidence=confidence,
                                repetitions=repetitions, seed=bootstrap_seed) for row in rows}
    titles, cells = columns_of(threshold), {}
    budgets: set[int] = set()
    for row, aggregates in found.items():
        finals = [final_values(row, results.points, task, metric) for task in tasks]
        after = tuple(final.env_steps for final in finals)
        budgets |= set(after) if aggregates is not None else set()
        for key, (title, _) in titles.items():
            cells[row, title] = _cell(aggregates, key, after, tuple(n for final in finals for n in final.episodes))
    if len(tasks) > 1:
        for key, (title, _) in titles.items():
            mark_bold(cells, rows, title, key in _LESS_IS_BETTER)
    lacking = [f"{row.label}: no final evaluation in every task" for row, one in found.items() if one is None]
    names = tuple(title for title, _ in titles.values())
    return Table(metric, names, tuple(unit for _, unit in titles.values()), names, rows, cells,
                 _caption(results, metric, tasks, threshold, confidence, budgets),
                 (*lacking, *excluded(rows, results, tasks), *left_out(results)), pd.DataFrame())


def _cell(aggregates: Aggregates | None, key: str, after: tuple[int, ...], episodes: tuple[int, ...]) -> Cell | None:
    interval = None if aggregates is None else getattr(aggregates, key)
    return None if interval is None else Cell(interval, after, episodes)


def _caption(results: Results, metric: str, tasks: list[str], threshold: float, confidence: float,
             budgets: set[int]) -> str:
    level = f"{100 * threshold:g} %"
    sentences = [
        f"{METRICS[metric].capitalize()} over {counted(len(tasks), 'task')} ({', '.join(tasks)}), percent and "
        f"env_steps, with {100 * confidence:g} % stratified bootstrap intervals (whole runs resampled within tasks). "
        "Mean: of the tasks' means. IQM: interquartile mean of all runs. Optimality gap: mean shortfall from 100 %; "
        "less is better. Area: under the learning curve, divided by its range. "
        f"env_steps to {level}: median over runs of the first evaluation that reaches it; never: half do not.",
        *(one_task_words(tasks) or
          ["Bold: the interval lies wholly on the better side of those of all other learned rows."]),
        budget_words(budgets)]
    return " ".join(sentences + caption_facts(results))

