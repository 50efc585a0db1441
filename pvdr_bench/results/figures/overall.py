"""Rows over all tasks: performance profiles, and aggregates with their intervals (Agarwal et al., NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pvdr_bench.errors import UsageError
from pvdr_bench.results.aggregates import Aggregates, aggregates_of, one_task_words, performance_profile
from pvdr_bench.results.collect import Results
from pvdr_bench.results.figures.facets import (
    BACKGROUND,
    BACKGROUND_LABEL,
    Facet,
    facets_of,
    final_score,
    rows_called,
)
from pvdr_bench.results.figures.layout import WIDTHS, Sheet, Size, Width
from pvdr_bench.results.figures.style import (
    Plot,
    bar_look,
    close_caption,
    label_of,
    line_look,
    metric_label,
    rate_axis,
    require,
    style,
    tasks_of,
)
from pvdr_bench.results.looks import Look, looks_of
from pvdr_bench.results.series import METRICS, Row, budgets_of, final_values, final_words, rows_of
from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS, Interval
from pvdr_bench.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STEPS = ((0.9, 1), (1.5, 2), (1.9, 4), (float("inf"), 5))  # inches that a scale from 0 to 100 % is narrower than


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
                 width: Width = "auto", highlight: Sequence[str] = ()) -> Plot:
    """Draw the share of runs that score above each threshold (run-score distributions).

    Args:
        highlight: rows to draw before the others, which turn grey; many rows get a panel each without it.

    Raises:
        UsageError: protocols are mixed, the metric is not a rate, no row has every task, or a name in ``highlight`` is
            no row's.
    """
    require(results, metric, allow_mixed)
    if metric == "return":
        raise UsageError("a profile needs scores between 0 and 1, and returns are not normalised")
    tasks = tasks_of(results)
    rows, lacking = _whole_rows(results, tasks, metric)
    looks, titles = looks_of(rows_of(results), results.names), {row: label_of(row, results) for row in rows}
    profiles = {row: performance_profile([final_values(row, results.points, task, metric).values for task in tasks],
                                         confidence=confidence, repetitions=repetitions, seed=bootstrap_seed)
                for row in rows}
    chosen = [row for row in rows_called(results, highlight) if row in profiles]
    facets, notes = facets_of(["share of runs above each score"], rows, titles, chosen,
                              final_score(results, tasks, metric), f"mean final {METRICS[metric]}")
    with style():
        sheet = Sheet([facet.title if facet.single else "" for facet in facets], width)
        for index, (facet, ax) in enumerate(zip(facets, sheet.panels, strict=True)):
            _profile_panel(ax, facet, profiles, looks, titles)
            rate_axis(ax, "x", steps=next(n for room, n in _STEPS if sheet.size.width < room))
            if len(facets) > 1:
                _ends_inside(ax)
            rate_axis(ax, steps=4 if sheet.size.height < 1.4 else 5)
            ax.grid(visible=True, zorder=0)
            ax.tick_params(labelbottom=sheet.outer(index)[1])
            sheet.name_axes(index, f"{metric_label(metric)} of a run", "share of runs above")
        sheet.finish()
    sentences = [f"Performance profile. {final_words(results, metric)}: share of runs above each threshold, all tasks "
                 f"({', '.join(tasks)}) of equal weight; bands: {100 * confidence:g} % stratified bootstrap, "
                 "pointwise.", *one_task_words(tasks), *notes]
    _lacking(sentences, lacking)
    budgets = budgets_of(rows, results, tasks, metric)
    return Plot(sheet.figure, close_caption(sentences, results, budgets=budgets, references=False))


def _ends_inside(ax: Axes) -> None:
    """Numbers at both ends of the scale stand inside of it: those of neighbours must not meet."""
    labels = ax.get_xticklabels()
    labels[0].set_horizontalalignment("left")
    labels[-1].set_horizontalalignment("right")


def _profile_panel(ax: Axes, facet: Facet[Row], profiles: dict[Row, Any], looks: dict[Row, Look],
                   titles: dict[Row, str]) -> None:
    """One panel: the rows that it is about, grey ones behind; marks of several rows stand at different scores."""
    for k, row in enumerate(facet.own):
        profile = profiles[row]
        every = (int(12 * (k + 0.5) / len(facet.own)), 12)
        ax.step(profile.taus, profile.share, where="post", label=None if facet.single else titles[row], zorder=4,
                markevery=every, **line_look(looks[row]))
        if profile.low is not None and profile.high is not None:
            ax.fill_between(profile.taus, profile.low, profile.high, step="post", color=looks[row].color,
                            alpha=0.15 if len(facet.own) <= 3 else 0.1, linewidth=0.0, zorder=2)
    for row in facet.behind:
        ax.step(profiles[row].taus, profiles[row].share, where="post", color=BACKGROUND, linewidth=0.7, zorder=1.2,
                label=BACKGROUND_LABEL)


def plot_aggregates(results: Results, metric: str = "success", *, threshold: float = 0.5,
                    confidence: float = CONFIDENCE, repetitions: int = REPETITIONS, bootstrap_seed: int = 0,
                    allow_mixed: bool = False, width: Width = "auto") -> Plot:
    """Draw mean, interquartile mean, optimality gap, area under the curve and the share that reaches ``threshold``.

    Raises:
        UsageError: protocols are mixed, the metric is not a rate, or no row has every task.
    """
    require(results, metric, allow_mixed)
    if metric == "return":
        raise UsageError("aggregates over tasks need scores between 0 and 1, and returns are not normalised")
    tasks = tasks_of(results)
    rows, lacking = _whole_rows(results, tasks, metric)
    found = {row: aggregate for row in rows
             if (aggregate := aggregates_of(row, results.points, tasks, metric, threshold=threshold,
                                            confidence=confidence, repetitions=repetitions, seed=bootstrap_seed))}
    names = {"mean": "mean", "iqm": "IQM", "gap": "optimality gap", "area": "area under the curve",
             "reached": f"share that reach {100 * threshold:g}%"}
    looks = looks_of(rows_of(results), results.names)
    columns, label_room = (2, 1.1) if width == "single" else (len(names), 1.75)
    inches = WIDTHS["double"] if width == "auto" else WIDTHS[width]
    with style():
        probe = Sheet([""], width, columns=1)
        labels = [probe.wrapped(label_of(row, results), label_room, 7.0) for row in found]
        places, height = _places([label.count("\n") + 1 for label in labels])
        across = (inches - label_room - 0.2 - 0.16 * (columns - 1)) / columns
        sheet = Sheet(list(names.values()), width, columns=columns,
                      size=Size(across, height))
        for index, (ax, key) in enumerate(zip(sheet.panels, names, strict=True)):
            for place, (row, aggregate) in zip(places, found.items(), strict=True):
                _interval_bar(ax, place, getattr(aggregate, key), looks[row])
            ax.set_yticks(places, labels)
            ax.set_ylim(height, 0.0)
            rate_axis(ax, "x", steps=2)
            _ends_inside(ax)
            ax.get_xticklabels()[1].set_visible(across >= _STEPS[0][0])
            ax.grid(visible=True, axis="x", zorder=0)
            ax.tick_params(axis="y", length=0, labelleft=sheet.outer(index)[0])
        sheet.finish({})
    return Plot(sheet.figure, _aggregates_caption(results, metric, tasks, found, lacking, threshold, confidence))


def _places(lines: list[int]) -> tuple[list[float], float]:
    """Where rows stand whose names have so many lines, from the top, and the height of them all; inches."""
    heights = [0.11 * n + 0.1 for n in lines]
    return [sum(heights[:k]) + height / 2 for k, height in enumerate(heights)], sum(heights)


def _interval_bar(ax: Axes, place: float, interval: Interval | None, look: Look) -> None:
    """A value with its interval as a band, as rliable draws them."""
    if interval is None:
        return
    if interval.low is not None and interval.high is not None:
        ax.barh(place, interval.high - interval.low, 0.125, left=interval.low, zorder=2, alpha=0.75, **bar_look(look))
    ax.vlines(interval.value, place - 0.0625, place + 0.0625, color="0.1", linewidth=1.2, zorder=4, clip_on=False)


def _aggregates_caption(results: Results, metric: str, tasks: list[str], found: dict[Row, Aggregates],
                        lacking: list[str], threshold: float, confidence: float) -> str:
    sentences = [
        f"{METRICS[metric].capitalize()} over {counted(len(tasks), 'task')} ({', '.join(tasks)}): mean of the tasks' "
        "means, interquartile mean of all runs, optimality gap (mean shortfall from 100 %; smaller is better), area "
        "under the learning curve divided by its range, and share of runs that reach "
        f"{100 * threshold:g} % at some evaluation. Lines: value; bands: {100 * confidence:g} % stratified bootstrap, "
        "whole runs resampled within tasks.",
        *one_task_words(tasks)]
    single = [row.label for row, aggregate in found.items() if not aggregate.mean.known]
    if single:
        sentences.append(f"No band where a task has a single seed: {', '.join(single)}.")
    _lacking(sentences, lacking)
    budgets = budgets_of(found, results, tasks, metric)
    return close_caption(sentences, results, budgets=budgets, references=False)
