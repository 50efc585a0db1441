"""Rows over all tasks: performance profiles, and aggregates with their intervals (Agarwal et al., NeurIPS 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pvdr_bench.errors import UsageError
from pvdr_bench.results.aggregates import Aggregates, aggregates_of, performance_profile
from pvdr_bench.results.collect import Results
from pvdr_bench.results.figures.style import (
    WIDTHS,
    Plot,
    Width,
    close_caption,
    draw_legend,
    label_of,
    looks_of,
    metric_label,
    rate_axis,
    require,
    style,
    tasks_of,
)
from pvdr_bench.results.series import METRICS, Row, final_values, rows_of
from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS, Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _whole_rows(results: Results, tasks: list[str], metric: str) -> tuple[list[Row], list[str]]:
    """Learned rows with a final evaluation in every task, and the labels of those that lack one."""
    rows = [row for row in rows_of(results) if not row.reference]
    whole = [row for row in rows if all(final_values(row, results.points, task, metric).values.size for task in tasks)]
    if not whole:
        raise UsageError("no row has a final evaluation in every task", where=str(results.root),
                         hint="choose tasks with --tasks, or finish the runs")
    return whole, [row.label for row in rows if row not in whole]


def _lacking(sentences: list[str], lacking: list[str]) -> None:
    if lacking:
        sentences.append(f"Not drawn, since a task has no final evaluation: {', '.join(lacking)}.")


def plot_profile(results: Results, metric: str = "success", *, confidence: float = CONFIDENCE,
                 repetitions: int = REPETITIONS, bootstrap_seed: int = 0, allow_mixed: bool = False,
                 width: Width = "auto") -> Plot:
    """Draw the share of runs that score above each threshold (run-score distributions).

    Raises:
        UsageError: protocols are mixed, the metric is not a rate, or no row has every task.
    """
    from matplotlib.figure import Figure

    require(results, metric, allow_mixed)
    if metric == "return":
        raise UsageError("a profile needs scores between 0 and 1, and returns are not normalised")
    tasks = tasks_of(results)
    rows, lacking = _whole_rows(results, tasks, metric)
    looks = looks_of(rows_of(results))
    with style():
        figure = Figure(figsize=(3.6 if width == "auto" else WIDTHS[width], 2.9), layout="constrained")
        ax = figure.subplots()
        for row in rows:
            scores = [final_values(row, results.points, task, metric).values for task in tasks]
            profile = performance_profile(scores, confidence=confidence, repetitions=repetitions, seed=bootstrap_seed)
            color, _ = looks[row]
            ax.step(profile.taus, profile.share, where="post", color=color, label=label_of(row, results), zorder=4)
            if profile.low is not None and profile.high is not None:
                ax.fill_between(profile.taus, profile.low, profile.high, step="post", color=color, alpha=0.16,
                                linewidth=0.0, zorder=2)
        rate_axis(ax, "x")
        rate_axis(ax)
        ax.grid(visible=True, zorder=0)
        ax.set_xlabel(f"{metric_label(metric)} of a run, threshold")
        ax.set_ylabel("share of runs above it")
        draw_legend(figure, [ax])
    sentences = [f"Performance profile of the final {METRICS[metric]}: share of runs above each threshold, all tasks "
                 f"({', '.join(tasks)}) of equal weight; bands: {100 * confidence:g} % stratified bootstrap, "
                 "pointwise."]
    _lacking(sentences, lacking)
    return Plot(figure, close_caption(sentences, results))


def plot_aggregates(results: Results, metric: str = "success", *, threshold: float = 0.5,
                    confidence: float = CONFIDENCE, repetitions: int = REPETITIONS, bootstrap_seed: int = 0,
                    allow_mixed: bool = False, width: Width = "auto") -> Plot:
    """Draw mean, interquartile mean, optimality gap, area under the curve and the share that reaches ``threshold``.

    Raises:
        UsageError: protocols are mixed, the metric is not a rate, or no row has every task.
    """
    from matplotlib.figure import Figure

    require(results, metric, allow_mixed)
    if metric == "return":
        raise UsageError("aggregates over tasks need scores between 0 and 1, and returns are not normalised")
    tasks = tasks_of(results)
    rows, lacking = _whole_rows(results, tasks, metric)
    found = {row: aggregate for row in rows
             if (aggregate := aggregates_of(row, results.points, tasks, metric, threshold=threshold,
                                            confidence=confidence, repetitions=repetitions, seed=bootstrap_seed))}
    names = {"mean": "mean", "iqm": "IQM", "gap": "optimality\ngap", "area": "area under\nthe curve",
             "reached": f"share that\nreach {100 * threshold:g} %"}
    looks = looks_of(rows_of(results))
    inches = WIDTHS["double"] if width == "auto" else WIDTHS[width]
    with style():
        figure = Figure(figsize=(inches, 0.9 + 0.22 * len(rows)), layout="constrained")
        panels = list(np.atleast_1d(figure.subplots(1, len(names), sharey=True)))
        for ax, (key, title) in zip(panels, names.items(), strict=True):
            ax.set_title(title, fontsize=8.0)
            for place, (row, aggregate) in enumerate(found.items()):
                _interval_bar(ax, place, getattr(aggregate, key), looks[row][0])
            ax.set_yticks(range(len(found)), [label_of(row, results) for row in found])
            ax.set_ylim(len(found) - 0.5, -0.5)
            ax.set_xlim(0.0, 1.0)
            ax.set_xticks([0.0, 0.5, 1.0], ["0", "0.5", "1"])
            ax.grid(visible=True, axis="x", zorder=0)
            ax.tick_params(axis="y", length=0)
    return Plot(figure, _aggregates_caption(results, metric, tasks, found, lacking, threshold, confidence))


def _interval_bar(ax: Axes, place: int, interval: Interval | None, color: object) -> None:
    """A value with its interval as a band, as rliable draws them."""
    if interval is None:
        return
    if interval.low is not None and interval.high is not None:
        ax.barh(place, interval.high - interval.low, 0.6, left=interval.low, color=color, alpha=0.6, zorder=2)
    ax.vlines(interval.value, place - 0.3, place + 0.3, color="0.1", linewidth=1.2, zorder=4)


def _aggregates_caption(results: Results, metric: str, tasks: list[str], found: dict[Row, Aggregates],
                        lacking: list[str], threshold: float, confidence: float) -> str:
    sentences = [
        f"{METRICS[metric].capitalize()} over {len(tasks)} tasks ({', '.join(tasks)}): mean of the tasks' means, "
        "interquartile mean of all runs, optimality gap (mean shortfall from 1; smaller is better), area under the "
        f"learning curve divided by its range, and share of runs that reach {100 * threshold:g} % at some evaluation. "
        f"Lines: value; bands: {100 * confidence:g} % stratified bootstrap, whole runs resampled within tasks."]
    single = [row.label for row, aggregate in found.items() if not aggregate.mean.known]
    if single:
        sentences.append(f"No band where a task has a single seed: {', '.join(single)}.")
    _lacking(sentences, lacking)
    return close_caption(sentences, results)
