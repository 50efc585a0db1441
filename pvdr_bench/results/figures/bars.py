"""Final scores as bars: a group per task, a bar per row, seeds as dots, published numbers hatched beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pvdr_bench.results.collect import Results
from pvdr_bench.results.figures.style import (
    ALL,
    REFERENCE_COLOR,
    REPORTED,
    REPORTED_COLOR,
    WIDTHS,
    Plot,
    Width,
    close_caption,
    draw_legend,
    label_of,
    looks_of,
    metric_label,
    printed_numbers,
    rate_axis,
    require,
    style,
    tasks_of,
)
from pvdr_bench.results.series import METRICS, Row, bounds_of, final_interval, over_tasks, rows_of
from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS, Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREYS = ("0.75", "0.5")  # floor and ceiling
_GROUP = 0.82  # of the distance between two groups


def plot_bars(results: Results, metric: str = "success", *, confidence: float = CONFIDENCE,
              repetitions: int = REPETITIONS, bootstrap_seed: int = 0, allow_mixed: bool = False,
              width: Width = "auto", reported: pd.DataFrame | None = None) -> Plot:
    """Draw the final evaluations, the numbers of the table.

    Args:
        reported: published numbers, hatched and grey, at the right of their task's group.

    Raises:
        UsageError: protocols are mixed, or no run has an evaluation.
    """
    from matplotlib.figure import Figure

    require(results, metric, allow_mixed)
    tasks, rows = tasks_of(results), rows_of(results)
    groups = tasks + ([ALL] if len(tasks) > 1 else [])
    printed = printed_numbers(reported, groups)
    slots = len(rows) + max(map(len, printed.values()))
    inches = WIDTHS[width] if width != "auto" else float(np.clip(0.6 + 0.16 * slots * len(groups), 3.6, 14.0))
    looks = looks_of(rows)
    with style():
        figure = Figure(figsize=(inches, 2.9), layout="constrained")
        ax = figure.subplots()
        for i, row in enumerate(rows):
            color = _GREYS[i % 2] if row.reference else looks[row][0]
            label: str | None = label_of(row, results)
            for g, task in enumerate(groups):
                place = g + _GROUP * ((i + 0.5) / slots - 0.5)
                if _bar(ax, place, 0.9 * _GROUP / slots, row, task, tasks, results, metric, color, label,
                        (confidence, repetitions, bootstrap_seed)):
                    label = None  # named once
        for g, task in enumerate(groups):
            for k, (name, level) in enumerate(printed[task]):
                _reported_bar(ax, g + _GROUP * ((len(rows) + k + 0.5) / slots - 0.5), 0.9 * _GROUP / slots, name, level)
        ax.set_xticks(range(len(groups)), groups, rotation=30 if len(groups) > 4 else 0,
                      ha="right" if len(groups) > 4 else "center")
        ax.set_xlim(-0.5, len(groups) - 0.5)
        ax.grid(visible=True, axis="y", zorder=0)
        ax.set_axisbelow(True)
        ax.tick_params(axis="x", length=0)
        if metric != "return":
            rate_axis(ax)
        ax.set_ylabel(metric_label(metric))
        draw_legend(figure, [ax])
    return Plot(figure, _caption(results, metric, confidence, len(tasks) > 1, reported))


def _bar(ax: Axes, x: float, width: float, row: Row, task: str, tasks: list[str], results: Results, metric: str,
         color: Any, label: str | None, how: tuple[float, int, int]) -> bool:
    """One bar with its interval and, for one task, a dot per seed; False where there is no number."""
    confidence, repetitions, seed = how
    values = np.empty(0)
    interval: Interval | None
    if task == ALL:
        interval = over_tasks(row, results.points, tasks, metric, confidence=confidence, repetitions=repetitions,
                              seed=seed)
    else:
        final, interval = final_interval(row, results.points, task, metric, confidence=confidence)
        values = final.values
    if interval is None or not interval.n:
        return False
    ax.bar(x, interval.value, width, color=color, alpha=0.85, label=label, zorder=2)
    if interval.low is not None and interval.high is not None:
        ax.vlines(x, interval.low, interval.high, color="0.15", linewidth=0.9, zorder=4)
    spread = width * 0.3 * np.linspace(-1, 1, values.size) if values.size > 1 else np.zeros(values.size)
    ax.scatter(x + spread, values, s=4.0, color="white", edgecolor="0.15", linewidth=0.4, zorder=5, clip_on=False)
    return True


def _reported_bar(ax: Axes, x: float, width: float, name: str, level: float) -> None:
    """A published number: hatched, with the number that the caption explains."""
    ax.bar(x, level, width, facecolor="white", edgecolor=REPORTED_COLOR, hatch="/////", linewidth=0.5, zorder=2,
           label=REPORTED)
    ax.annotate(name, (x, level), xytext=(0, 1.5), textcoords="offset points", ha="center", va="bottom", fontsize=5.0,
                color=REFERENCE_COLOR)


def _caption(results: Results, metric: str, confidence: float, several: bool, reported: pd.DataFrame | None) -> str:
    level = f"{100 * confidence:g} %"
    clipped = "" if bounds_of(metric) is None else ", clipped to [0, 1]"
    sentences = [f"Final {METRICS[metric]} of the last policy. Bars: mean over seeds; lines: {level} Student t "
                 f"interval over seeds{clipped}; dots: single seeds."]
    if several:
        sentences.append(f"All tasks: mean of the tasks' means with a {level} stratified bootstrap interval.")
    return close_caption(sentences, results, reported)
