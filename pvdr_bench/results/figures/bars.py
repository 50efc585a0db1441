"""Final scores as bars: a group per task, a bar per row, seeds as dots, published numbers hatched beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pvdr_bench.results.collect import Results
from pvdr_bench.results.figures.layout import Sheet, Size, Width, axes_size
from pvdr_bench.results.figures.printed import NUMBER_COLOR, REPORTED, REPORTED_COLOR, printed_numbers
from pvdr_bench.results.figures.style import (
    Plot,
    bar_look,
    close_caption,
    label_of,
    metric_label,
    rate_axis,
    require,
    style,
    tasks_of,
)
from pvdr_bench.results.looks import Look, looks_of
from pvdr_bench.results.series import Row, bounds_of, budgets_of, final_interval, final_words, over_tasks, rows_of
from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS, Interval
from pvdr_bench.results.tables import ALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREYS = {"random": "0.5", "scripted": "0.75"}  # floor and ceiling; any other like the floor
_GROUP = 0.84  # of the distance between two groups
_BAR, _NARROWEST = 0.13, 0.062  # inches from bar to bar: where the width is free, and at least
_WIDEST = 9.0  # inches of the axes, where the width is free


@dataclass(frozen=True)
class _Bars:
    """What bars are drawn from."""

    results: Results
    tasks: list[str]
    metric: str
    looks: dict[Row, Look]
    how: tuple[float, int, int]  # confidence, repetitions, seed of the bootstrap


def plot_bars(results: Results, metric: str = "success", *, confidence: float = CONFIDENCE,
              repetitions: int = REPETITIONS, bootstrap_seed: int = 0, allow_mixed: bool = False,
              width: Width = "auto", reported: pd.DataFrame | None = None, tasks: Sequence[str] = ()) -> Plot:
    """Draw the final evaluations, the numbers of the table; tasks stand on as many lines as bars need room.

    Args:
        reported: published numbers, hatched and grey, at the right of their task's group.
        tasks: the groups in their order, and none over all tasks; empty: all by name, and one over all.

    Raises:
        UsageError: protocols are mixed, or no run has an evaluation.
    """
    require(results, metric, allow_mixed)
    every, rows = tasks_of(results), rows_of(results)
    groups = list(tasks) or every + ([ALL] if len(every) > 1 else [])
    printed = printed_numbers(reported, groups)
    slots = len(rows) + max(map(len, printed.values()))
    size, a_line = _room(width, slots, len(groups))
    lines = [groups[k:k + a_line] for k in range(0, len(groups), a_line)]
    bars = _Bars(results, every, metric, looks_of(rows, results.names), (confidence, repetitions, bootstrap_seed))
    with style():
        sheet = Sheet([""] * len(lines), width, columns=1, size=size)
        for ax, part in zip(sheet.panels, lines, strict=True):
            _panel(ax, bars, rows, part, slots, printed)
            _axis(ax, sheet, part, a_line, metric)
        sheet.finish()
    budgets = budgets_of(rows, results, every if ALL in groups else groups, metric)
    return Plot(sheet.figure, _caption(results, metric, confidence, ALL in groups, budgets, reported))


def _room(width: Width, slots: int, groups: int) -> tuple[Size, int]:
    """The size of a line's axes, and how many groups stand on it."""
    if width == "auto":
        wanted = slots * _BAR / _GROUP
        a_line = max(1, min(groups, int(_WIDEST / wanted)))
        a_line = -(-groups // -(-groups // a_line))
        return Size(max(2.4, a_line * max(wanted, 0.5)), 1.8), a_line
    size = axes_size(width, 1)
    a_line = max(1, min(groups, int(size.width / max(slots * _NARROWEST / _GROUP, 0.45))))
    a_line = -(-groups // -(-groups // a_line))
    return Size(size.width, 1.6 if groups <= a_line else 1.2), a_line


def _panel(ax: Axes, bars: _Bars, rows: list[Row], groups: list[str], slots: int,
           printed: dict[str, list[tuple[str, float]]]) -> None:
    """The groups of one line."""
    width = 0.92 * _GROUP / slots
    for i, row in enumerate(rows):
        label: str | None = label_of(row, bars.results)
        for g, task in enumerate(groups):
            if _bar(ax, g + _GROUP * ((i + 0.5) / slots - 0.5), width, row, task, bars, label):
                label = None  # named once
    for g, task in enumerate(groups):
        for k, (name, level) in enumerate(sorted(printed[task], key=lambda pair: int(pair[0]))):
            _reported_bar(ax, g + _GROUP * ((len(rows) + k + 0.5) / slots - 0.5), width, name, level)


def _axis(ax: Axes, sheet: Sheet, groups: list[str], a_line: int, metric: str) -> None:
    """Names of groups below, wrapped into their room; a last line that is shorter keeps the others' scale."""
    room = sheet.size.width / a_line
    ax.set_xticks(range(len(groups)), [sheet.wrapped(group, 0.94 * room, 7.0) for group in groups])
    ax.set_xlim(-0.5, a_line - 0.5)
    ax.grid(visible=True, axis="y", zorder=0)
    ax.tick_params(axis="x", length=0)
    if metric != "return":
        rate_axis(ax, steps=4 if sheet.size.height < 1.4 else 5)
    ax.set_ylabel(sheet.wrapped(metric_label(metric), sheet.size.height + 0.08, 8.0))


def _bar(ax: Axes, x: float, width: float, row: Row, task: str, bars: _Bars, label: str | None) -> bool:
    """One bar with its interval and, for one task, a dot per seed; False where there is no number."""
    confidence, repetitions, seed = bars.how
    values = np.empty(0)
    interval: Interval | None
    if task == ALL:
        interval = over_tasks(row, bars.results.points, bars.tasks, bars.metric, confidence=confidence,
                              repetitions=repetitions, seed=seed)
    else:
        final, interval = final_interval(row, bars.results.points, task, bars.metric, confidence=confidence)
        values = final.values
    if interval is None or not interval.n:
        return False
    grey: dict[str, Any] = {"facecolor": _GREYS.get(row.variant, "0.5"), "linewidth": 0.0}
    look = grey if row.reference else bar_look(bars.looks[row])
    ax.bar(x, interval.value, width, label=label, zorder=2, **look)
    if interval.low is not None and interval.high is not None:
        ax.vlines(x, interval.low, interval.high, color="white", linewidth=1.5, zorder=3)  # seen on dark bars, too
        ax.vlines(x, interval.low, interval.high, color="0.15", linewidth=0.8, zorder=4)
    spread = width * 0.3 * np.linspace(-1, 1, values.size) if values.size > 1 else np.zeros(values.size)
    ax.scatter(x + spread, values, s=3.4, color="white", edgecolor="0.15", linewidth=0.4, zorder=5, clip_on=False)
    return True


def _reported_bar(ax: Axes, x: float, width: float, name: str, level: float) -> None:
    """A published number: hatched, with the number that the caption explains."""
    ax.bar(x, level, width, facecolor="white", edgecolor=REPORTED_COLOR, hatch="/////", linewidth=0.5, zorder=2,
           label=REPORTED)
    ax.annotate(name, (x, level), xytext=(0, 1.5), textcoords="offset points", ha="center", va="bottom", fontsize=5.0,
                color=NUMBER_COLOR)


def _caption(results: Results, metric: str, confidence: float, several: bool, budgets: set[int],
             reported: pd.DataFrame | None) -> str:
    level = f"{100 * confidence:g} %"
    clipped = "" if bounds_of(metric) is None else ", clipped to [0, 1]"
    sentences = [f"{final_words(results, metric)}. Bars: mean over seeds; lines: {level} Student t "
                 f"interval over seeds{clipped}; dots: single seeds."]
    if several:
        sentences.append(f"All tasks: mean of the tasks' means with a {level} stratified bootstrap interval.")
    return close_caption(sentences, results, reported, budgets=budgets)
