"""Learning curves: success rate against env_steps, training time or GPU-hours, mean over seeds with a 95 % band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import Results
from pvdr_bench.results.figures.style import (
    ALL,
    REFERENCE_COLOR,
    REPORTED,
    REPORTED_COLOR,
    Plot,
    Width,
    close_caption,
    draw_legend,
    label_of,
    looks_of,
    make_panels,
    metric_label,
    printed_curves,
    printed_numbers,
    rate_axis,
    require,
    style,
    tasks_of,
)
from pvdr_bench.results.series import METRICS, Row, bounds_of, curve_values, final_interval, rows_of
from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS, bootstrap_curve, t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAND_SEEDS = 3  # fewer make no band: with two, the t interval reaches nine standard deviations to each side
AXES = {"env_steps": "env_steps", "time": "hours of training", "gpu": "GPU-hours of training"}


@dataclass(frozen=True)
class Curve:
    """A line with its band.

    Attributes:
        x: [points] env_steps.
        y, low, high: [points]; NaN bounds where fewer than two seeds have come so far.
        n: [points] seeds behind each point.
    """

    x: NDArray[np.int64]
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: NDArray[np.int64]

    @property
    def banded(self) -> NDArray[np.bool_]:
        """Points [points] whose interval is drawn as a band; the others' intervals stand in tables alone."""
        return np.isfinite(self.low) & (self.n >= BAND_SEEDS)

    @property
    def whole(self) -> int:
        """How many leading points all seeds have reached."""
        less = np.flatnonzero(self.n < self.n.max()) if self.n.size else np.empty(0, int)
        return int(less[0]) if less.size else int(self.n.size)


def task_curve(values: pd.DataFrame, *, confidence: float = CONFIDENCE,
               bounds: tuple[float, float] | None = (0.0, 1.0)) -> Curve:
    """Mean over seeds with a Student t interval at every point.

    Args:
        values: env_steps (index) x seeds (columns), NaN where a seed has not come so far.
    """
    intervals = [t_interval(row[np.isfinite(row)], confidence=confidence, bounds=bounds)
                 for row in values.to_numpy(dtype=np.float64)]

    def numbers(name: str) -> NDArray[np.float64]:
        return np.array([np.nan if (value := getattr(i, name)) is None else value for i in intervals], dtype=np.float64)

    return Curve(values.index.to_numpy(dtype=np.int64), numbers("value"), numbers("low"), numbers("high"),
                 np.array([i.n for i in intervals], dtype=np.int64))


def all_tasks_curve(tasks: list[pd.DataFrame], *, confidence: float = CONFIDENCE, repetitions: int = REPETITIONS,
                    seed: int = 0) -> Curve | None:
    """Mean over tasks with a stratified bootstrap over whole runs, where every seed of every task has the point."""
    common = sorted(set.intersection(*(set(task.dropna().index) for task in tasks))) if tasks else []
    if not common:
        return None
    arrays = [task.loc[common].to_numpy(dtype=np.float64).T for task in tasks]
    y, low, high = bootstrap_curve(arrays, confidence=confidence, repetitions=repetitions, seed=seed)
    if min(len(array) for array in arrays) < 2:
        low, high = np.full_like(y, np.nan), np.full_like(y, np.nan)
    n = np.full(len(common), sum(len(array) for array in arrays), dtype=np.int64)
    return Curve(np.array(common, dtype=np.int64), y, low, high, n)


@dataclass(frozen=True)
class CurveOptions:
    """How curves are computed and drawn.

    Attributes:
        metric: a key of :data:`~pvdr_bench.results.series.METRICS`.
        axis: a key of :data:`AXES`.
        individual: draw each seed as a thin line too.
    """

    metric: str = "success"
    axis: Literal["env_steps", "time", "gpu"] = "env_steps"
    confidence: float = CONFIDENCE
    repetitions: int = REPETITIONS
    bootstrap_seed: int = 0
    individual: bool = False


def plot_curves(results: Results, metric: str = "success", *, axis: Literal["env_steps", "time", "gpu"] = "env_steps",
                confidence: float = CONFIDENCE, repetitions: int = REPETITIONS, bootstrap_seed: int = 0,
                allow_mixed: bool = False, individual: bool = False, width: Width = "auto",
                reported: pd.DataFrame | None = None) -> Plot:
    """Draw one panel per task, and one over all tasks where there are several.

    Args:
        metric: a key of :data:`~pvdr_bench.results.series.METRICS`.
        axis: a key of :data:`AXES`; times are means over seeds of what was measured up to each evaluation, the
            evaluations themselves left out.
        individual: draw each seed as a thin line too.
        reported: published numbers, drawn dashed, grey and labelled: curves where there are, else levels.

    Raises:
        UsageError: protocols are mixed, no run has an evaluation, or no run recorded the times that are asked for.
    """
    require(results, metric, allow_mixed)
    if axis not in AXES:
        raise UsageError(f"there is no axis {axis!r}", hint=f"there is: {', '.join(AXES)}")
    options = CurveOptions(metric, axis, confidence, repetitions, bootstrap_seed, individual)
    tasks, rows = tasks_of(results), rows_of(results)
    names = tasks + ([ALL] if len(tasks) > 1 else [])
    looks, marks, printed = looks_of(rows), _Marks(), printed_numbers(reported, tasks)
    with style():
        figure, panels, columns = make_panels(names, width, sharey=metric != "return")
        for name, ax in zip(names, panels, strict=True):
            _panel(ax, name, tasks, rows, looks, results, options, marks)
            if reported is not None and name != ALL:
                drawn = printed_curves(reported, name) if axis == "env_steps" else {}
                _draw_reported(ax, printed[name], drawn, figure.get_figheight() / -(-len(names) // columns))
                marks.last = max([marks.last, *(float(x[-1]) for x, _ in drawn.values())])
        if axis != "env_steps" and not marks.last:
            raise UsageError(f"no run shown recorded {AXES[axis]}", where=str(results.root),
                             hint="older runs have none, and runs on a CPU no GPU-hours; "
                                  "give --axis env_steps")
        _finish(panels, columns, options, marks)
        draw_legend(figure, panels)
    return Plot(figure, _caption(results, options, len(tasks) > 1, marks, reported))


@dataclass
class _Marks:
    """What drawing found out, for axes and caption."""

    last: float = 0.0  # the largest x
    dashed: bool = False  # a line goes on where seeds are missing
    bandless: bool = False  # a line has its seeds beside it in place of a band
    untimed: tuple[str, ...] = ()  # rows without the times that are asked for


def _panel(ax: Axes, panel: str, tasks: list[str], rows: list[Row], looks: dict[Row, tuple[Any, str]], results: Results,
           options: CurveOptions, marks: _Marks) -> None:
    """Draw one panel."""
    for index, row in enumerate(rows):
        if row.reference:
            _draw_reference(ax, row, panel, tasks, results, options, index)
            continue
        color, marker = looks[row]
        shown = tasks if panel == ALL else [panel]
        values = [curve_values(row, results.points, task, options.metric) for task in shown]
        if any(value.empty for value in values):
            continue
        curve = _over_tasks(values, options) if panel == ALL else task_curve(
            values[0], confidence=options.confidence, bounds=bounds_of(options.metric))
        if curve is None or not curve.x.size:
            continue
        x = _x_of(row, results.points, shown, curve.x, options.axis)
        if not np.isfinite(x).any():
            marks.untimed = tuple(dict.fromkeys((*marks.untimed, row.label)))
            continue
        bandless = panel != ALL and values[0].shape[1] in range(2, BAND_SEEDS)
        marks.bandless |= bandless and not options.individual
        if (options.individual or bandless) and panel != ALL:
            where = pd.Series(x, index=curve.x)
            for seed in values[0]:
                ax.plot(where.reindex(values[0].index), values[0][seed], color=color, linewidth=0.5, alpha=0.5,
                        zorder=2)
        marks.dashed |= _draw(ax, curve, x, label_of(row, results), color, marker)
        marks.last = max(marks.last, float(np.nanmax(x)))


def _over_tasks(values: list[pd.DataFrame], options: CurveOptions) -> Curve | None:
    return all_tasks_curve(values, confidence=options.confidence, repetitions=options.repetitions,
                           seed=options.bootstrap_seed)


def _x_of(row: Row, points: pd.DataFrame, tasks: list[str], env_steps: NDArray[np.int64],
          axis: str) -> NDArray[np.float64]:
    """Where the points of a curve stand, [points]: NaN where no seed of the row recorded its time."""
    if axis == "env_steps":
        return env_steps.astype(np.float64)
    mine = row.of(points)
    mine = mine[mine["task"].isin(tasks) & mine["complete"].astype(bool)]
    if axis == "gpu":
        mine = mine[mine["device"].eq("cuda")]
    seconds = (mine["wall_seconds"] - mine["evaluation_seconds"]).groupby(mine["env_steps"]).mean()
    return np.asarray((seconds / 3600.0).reindex(env_steps), dtype=np.float64)


def _draw(ax: Axes, curve: Curve, x: NDArray[np.float64], label: str, color: Any, marker: str) -> bool:
    """A line with its band: solid as far as every seed has come, dashed behind (then True)."""
    whole = curve.whole
    every = max(1, -(-curve.x.size // 12))  # about a dozen markers
    ax.plot(x[:whole], curve.y[:whole], color=color, marker=marker, markevery=every, markeredgewidth=0.0,
            label=label, zorder=4, clip_on=False)
    if whole < curve.x.size:
        start = max(whole - 1, 0)
        ax.plot(x[start:], curve.y[start:], color=color, linestyle=(0, (3, 2)), zorder=3, clip_on=False)
    known = curve.banded & np.isfinite(x)
    ax.fill_between(x, curve.low, curve.high, where=known, color=color, alpha=0.16, linewidth=0.0, zorder=2)
    return whole < curve.x.size


def _draw_reference(ax: Axes, row: Row, panel: str, tasks: list[str], results: Results, options: CurveOptions,
                    index: int) -> None:
    """Floor and ceiling do not learn: a horizontal line at the mean of their final evaluations."""
    shown = tasks if panel == ALL else [panel]
    means = [interval.value for task in shown
             for final, interval in [final_interval(row, results.points, task, options.metric,
                                                    confidence=options.confidence)]
             if final.values.size]
    if len(means) == len(shown):
        ax.axhline(float(np.mean(means)), color=REFERENCE_COLOR, linewidth=1.1, label=row.label, zorder=1.5,
                   linestyle=[(0, (1, 1.5)), (0, (4, 1.5, 1, 1.5))][index % 2], clip_on=False)


def _draw_reported(ax: Axes, printed: list[tuple[str, float]], drawn: dict[str, tuple[list[int], list[float]]],
                   height: float) -> None:
    """Published numbers: dashed and grey, numbered in the right margin; they are of another protocol.

    Args:
        printed: names and (last) levels.
        drawn: names of those that are curves, with their points; all others are levels from side to side.
        height: of the panel with its labels, inches.
    """
    apart = 6.0 / (0.62 * 72 * height)  # points of a number, of the axes' height
    place = -1.0
    for name, level in printed:
        look: dict[str, Any] = {"color": REPORTED_COLOR, "linestyle": (0, (5, 3)), "linewidth": 0.6, "zorder": 1,
                                "label": REPORTED}
        if name in drawn:
            ax.plot(*drawn[name], marker=".", markersize=2.5, clip_on=False, **look)
        else:
            ax.axhline(level, **look)
        place = max(place + apart, level)  # numbers must not cover each other
        ax.annotate(name, (1.01, place), xycoords=("axes fraction", "data"), ha="left", va="center", fontsize=5.0,
                    color=REFERENCE_COLOR, annotation_clip=False)


def _finish(panels: list[Axes], columns: int, options: CurveOptions, marks: _Marks) -> None:
    """Axes up to the last point, grid and labels."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    for index, ax in enumerate(panels):
        ax.grid(visible=True, zorder=0)
        ax.set_xlim(0.0, 1.04 * (marks.last or 1.0))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        if options.axis == "env_steps":
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        if options.metric != "return":
            rate_axis(ax)
        if index % columns == 0:
            ax.set_ylabel(metric_label(options.metric))
        if index + columns >= len(panels):
            ax.set_xlabel(AXES[options.axis])


def _caption(results: Results, options: CurveOptions, several: bool, marks: _Marks,
             reported: pd.DataFrame | None) -> str:
    level = f"{100 * options.confidence:g} %"
    clipped = "" if bounds_of(options.metric) is None else ", clipped to [0, 1]"
    timed = "(mean over seeds at each evaluation; evaluations left out"
    against = {"env_steps": "simulator steps (env_steps)", "time": f"hours of training {timed})",
               "gpu": f"GPU-hours of training {timed}, one GPU a run)"}
    sentences = [f"{METRICS[options.metric].capitalize()} against {against[options.axis]}. Lines: mean over seeds; "
                 f"bands: {level} Student t interval over seeds{clipped}. Not smoothed."]
    if several:
        sentences.append(f"All tasks: mean of the tasks' means, with a {level} stratified bootstrap band (whole runs "
                         "resampled within tasks), as far as every seed of every task has come.")
    if options.individual:
        sentences.append("Thin lines: single seeds.")
    if marks.bandless:
        sentences.append("Two seeds make no band: thin lines are the single seeds.")
    if marks.dashed:
        sentences.append("Dashed: not all seeds of the line have come so far.")
    if marks.untimed:
        sentences.append(f"Not drawn, since no such times were recorded: {', '.join(marks.untimed)}.")
    return close_caption(sentences, results, reported)
