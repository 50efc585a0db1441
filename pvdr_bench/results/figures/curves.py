"""Learning curves: success rate against env_steps, training time or GPU-hours, mean over seeds with a 95 % band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import Results
from pvdr_bench.results.curve import BAND_SEEDS, Curve, all_tasks_curve, task_curve
from pvdr_bench.results.figures.facets import (
    BACKGROUND,
    BACKGROUND_LABEL,
    Facet,
    facets_of,
    final_score,
    rows_called,
)
from pvdr_bench.results.figures.layout import Sheet, Width
from pvdr_bench.results.figures.printed import draw_printed, printed_curves, printed_numbers
from pvdr_bench.results.figures.style import (
    REFERENCE_COLOR,
    Plot,
    close_caption,
    label_of,
    line_look,
    metric_label,
    rate_axis,
    reference_look,
    require,
    style,
    tasks_of,
)
from pvdr_bench.results.looks import Look, looks_of
from pvdr_bench.results.series import METRICS, Row, bounds_of, curve_values, final_interval, rows_of
from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS
from pvdr_bench.results.tables import ALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEVELS = ("0.1", "0.5")  # of levels in place of curves: of no row's colour, so that none is taken for one
AXES = {"env_steps": "env_steps", "time": "hours of training", "gpu": "GPU-hours of training"}


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


@dataclass
class _Drawing:
    """What panels are drawn from, and what drawing found out, for axes and caption."""

    results: Results
    tasks: list[str]
    rows: list[Row]
    looks: dict[Row, Look]
    options: CurveOptions
    levels: tuple[Row, ...] = ()  # drawn by the mean of their final evaluations alone
    curves: dict[tuple[Row, str], _Drawn | None] = field(default_factory=dict)
    last: float = 0.0  # the largest x
    pale: bool = False  # a line goes on where seeds are missing
    bandless: bool = False  # a line has its seeds beside it in place of a band
    alone: bool = False  # a line is a single seed
    untimed: tuple[str, ...] = ()  # rows without the times that are asked for


@dataclass(frozen=True)
class _Drawn:
    """A row's curve in one panel, where its points stand, and the values of its seeds (of one task)."""

    curve: Curve
    x: NDArray[np.float64]
    seeds: pd.DataFrame


def plot_curves(results: Results, metric: str = "success", *, axis: Literal["env_steps", "time", "gpu"] = "env_steps",
                confidence: float = CONFIDENCE, repetitions: int = REPETITIONS, bootstrap_seed: int = 0,
                allow_mixed: bool = False, individual: bool = False, width: Width = "auto",
                highlight: Sequence[str] = (), reported: pd.DataFrame | None = None, tasks: Sequence[str] = (),
                levels: Sequence[str] = (), looks: Mapping[str, Look] | None = None) -> Plot:
    """Draw one panel per task, and one over all tasks where there are several; of many rows, see
    :func:`~pvdr_bench.results.figures.facets.facets_of`.

    Args:
        metric: a key of :data:`~pvdr_bench.results.series.METRICS`.
        axis: a key of :data:`AXES`; times are means over seeds of what was measured up to each evaluation, the
            evaluations themselves left out.
        individual: draw each seed as a thin line too.
        highlight: rows to draw before the others, which turn grey.
        reported: published numbers, drawn dashed, grey and labelled: curves where there are, else levels.
        tasks: a panel for each in this order, and none over all of them; empty: all by name, and one over all.
        levels: variants that are a dashed level, the mean of their final evaluations, and no curve.
        looks: of some variants, in the order in which they are drawn and named, in place of their own.

    Raises:
        UsageError: protocols are mixed, no run has an evaluation, no run recorded the times that are asked for, or a
            name in ``highlight`` is no row's.
    """
    require(results, metric, allow_mixed)
    if axis not in AXES:
        raise UsageError(f"there is no axis {axis!r}", hint=f"there is: {', '.join(AXES)}")
    every, rows = tasks_of(results), rows_of(results)
    shown, panels = (list(tasks), list(tasks)) if tasks else (every, every + ([ALL] if len(every) > 1 else []))
    dashed = tuple(row for row in rows if row.variant in levels)
    given = looks or {}
    learned = sorted((row for row in rows if not row.reference and row not in dashed),
                     key=lambda row: list(given).index(row.variant) if row.variant in given else len(given))
    seen = {row: given.get(row.variant, look) for row, look in looks_of(rows, results.names).items()}
    drawing = _Drawing(results, shown, rows, seen,
                       CurveOptions(metric, axis, confidence, repetitions, bootstrap_seed, individual), dashed)
    facets, notes = facets_of(panels, learned,
                              {row: label_of(row, results) for row in learned}, rows_called(results, highlight),
                              final_score(results, shown, metric), f"mean final {METRICS[metric]} over the tasks shown")
    with style():
        sheet = Sheet([facet.title for facet in facets], width, free=metric == "return" and len(shown) > 1)
        for facet, ax in zip(facets, sheet.panels, strict=True):
            _panel(ax, facet, drawing)
            if reported is not None and facet.task != ALL:
                curves = printed_curves(reported, facet.task) if axis == "env_steps" else {}
                draw_printed(ax, printed_numbers(reported, shown)[facet.task], curves, sheet.size.height)
                drawing.last = max([drawing.last, *(float(x[-1]) for x, _ in curves.values())])
        if axis != "env_steps" and not drawing.last:
            raise UsageError(f"no run shown recorded {AXES[axis]}", where=str(results.root),
                             hint="older runs have none, and runs on a CPU no GPU-hours; "
                                  "give --axis env_steps")
        _finish(sheet, drawing)
        named = width == "auto" and reported is None and len(facets) == 1 and not dashed and sheet.label_ends(
            _ends(sheet.panels[0], facets[0], drawing))
        sheet.finish({} if named else None)
    return Plot(sheet.figure, _caption(drawing, notes, reported))


def _ends(ax: Axes, facet: Facet[Row], drawing: _Drawing) -> list[tuple[float, str, str]]:
    """Where each line of a panel ends: height of the axes, name, colour. Empty where one ends before the others, or
    some are grey."""
    low, high = ax.get_ylim()
    drawn = {row: found for row in facet.own if (found := _drawn(row, facet.task, drawing)) is not None}
    if facet.behind or any(found.x[-1] < 0.98 * drawing.last for found in drawn.values()):
        return []
    ends = [(found.curve.y[-1], label_of(row, drawing.results), drawing.looks[row].color)
            for row, found in drawn.items()]
    ends += [(level, row.label, REFERENCE_COLOR) for row in drawing.rows
             if row.reference and (level := _level(row, facet.task, drawing)) is not None]
    return [((y - low) / (high - low), label, color) for y, label, color in ends]


def _panel(ax: Axes, facet: Facet[Row], drawing: _Drawing) -> None:
    """Draw one panel: the rows that it is about, floor and ceiling, and the grey ones behind."""
    options = drawing.options
    for row in facet.own:
        if (drawn := _drawn(row, facet.task, drawing)) is None:
            continue
        bandless = facet.task != ALL and drawn.seeds.shape[1] in range(2, BAND_SEEDS)
        drawing.bandless |= bandless and not options.individual
        drawing.alone |= drawn.seeds.shape[1] == 1
        if (options.individual or bandless) and facet.task != ALL:
            where = pd.Series(drawn.x, index=drawn.curve.x)
            for seed in drawn.seeds:
                ax.plot(where.reindex(drawn.seeds.index), drawn.seeds[seed], color=drawing.looks[row].color,
                        linewidth=0.5, alpha=0.5, zorder=2)
        label = None if facet.single else label_of(row, drawing.results)
        drawing.pale |= _draw(ax, drawn, label, drawing.looks[row], 0.15 if len(facet.own) <= 3 else 0.1)
    for row in drawing.rows:
        if row.reference and (level := _level(row, facet.task, drawing)) is not None:
            ax.axhline(level, **reference_look(row), label=row.label, zorder=1.5, clip_on=False)
    for place, row in enumerate(drawing.levels):
        if (level := _level(row, facet.task, drawing)) is not None:
            ax.axhline(level, color=_LEVELS[place % len(_LEVELS)], linestyle=(0, (4, 2)), linewidth=1.2, zorder=3,
                       label=f"{label_of(row, drawing.results)}, at the end", clip_on=False)
    for row in facet.behind:
        if (drawn := _drawn(row, facet.task, drawing)) is not None:
            ax.plot(drawn.x, drawn.curve.y, color=BACKGROUND, linewidth=0.7, zorder=1.2, label=BACKGROUND_LABEL)


def _drawn(row: Row, panel: str, drawing: _Drawing) -> _Drawn | None:
    """A row's curve; computed once, as many panels may show it. None where it has no point, or none with a time."""
    if (row, panel) in drawing.curves:
        return drawing.curves[row, panel]
    options, points = drawing.options, drawing.results.points
    shown = drawing.tasks if panel == ALL else [panel]
    values = [curve_values(row, points, task, options.metric) for task in shown]
    found = None
    if not any(value.empty for value in values):
        curve = (all_tasks_curve(values, confidence=options.confidence, repetitions=options.repetitions,
                                 seed=options.bootstrap_seed) if panel == ALL else
                 task_curve(values[0], confidence=options.confidence, bounds=bounds_of(options.metric)))
        if curve is not None and curve.x.size:
            x = _x_of(row, points, shown, curve.x, options.axis)
            if np.isfinite(x).any():
                found = _Drawn(curve, x, values[0])
                drawing.last = max(drawing.last, float(np.nanmax(x)))
            else:
                drawing.untimed = tuple(dict.fromkeys((*drawing.untimed, row.label)))
    drawing.curves[row, panel] = found
    return found


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


def _draw(ax: Axes, drawn: _Drawn, label: str | None, look: Look, shade: float) -> bool:
    """A line with its band: as far as every seed has come, and thin and pale behind (then True)."""
    curve, x, whole = drawn.curve, drawn.x, drawn.curve.whole
    lines = line_look(look)
    every = max(1, -(-curve.x.size // 12))  # about a dozen marks
    ax.plot(x[:whole], curve.y[:whole], **lines, markevery=every, label=label, zorder=4, clip_on=False)
    if whole < curve.x.size:
        start = max(whole - 1, 0)
        ax.plot(x[start:], curve.y[start:], **{**lines, "marker": ""}, linewidth=0.8, alpha=0.6, zorder=3,
                clip_on=False)
    known = curve.banded & np.isfinite(x)
    ax.fill_between(x, curve.low, curve.high, where=known, color=look.color, alpha=shade, linewidth=0.0, zorder=2)
    return whole < curve.x.size


def _level(row: Row, panel: str, drawing: _Drawing) -> float | None:
    """Floor and ceiling do not learn: the mean of their final evaluations, None where a task has none."""
    shown = drawing.tasks if panel == ALL else [panel]
    means = [interval.value for task in shown
             for final, interval in [final_interval(row, drawing.results.points, task, drawing.options.metric,
                                                    confidence=drawing.options.confidence)]
             if final.values.size]
    return float(np.mean(means)) if len(means) == len(shown) else None


def _finish(sheet: Sheet, drawing: _Drawing) -> None:
    """Axes up to the last point, grid and labels."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    small = sheet.size.width < 1.9
    for index, ax in enumerate(sheet.panels):
        ax.grid(visible=True, zorder=0)
        ax.set_xlim(0.0, 1.03 * (drawing.last or 1.0))
        ax.xaxis.set_major_locator(MaxNLocator(4 if small else 5, steps=[1, 2, 2.5, 5, 10]))
        if drawing.options.axis == "env_steps":
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        if drawing.options.metric != "return":
            rate_axis(ax, steps=4 if sheet.size.height < 1.4 else 5)
        ax.tick_params(labelbottom=sheet.outer(index)[1])
        sheet.name_axes(index, AXES[drawing.options.axis], metric_label(drawing.options.metric))


def _caption(drawing: _Drawing, notes: list[str], reported: pd.DataFrame | None) -> str:
    options = drawing.options
    level = f"{100 * options.confidence:g} %"
    clipped = "" if bounds_of(options.metric) is None else ", clipped to [0, 1]"
    timed = "(mean over seeds at each evaluation; evaluations left out"
    against = {"env_steps": "simulator steps (env_steps)", "time": f"hours of training {timed})",
               "gpu": f"GPU-hours of training {timed}, one GPU a run)"}
    sentences = [f"{METRICS[options.metric].capitalize()} against {against[options.axis]}. Lines: mean over seeds; "
                 f"bands: {level} Student t interval over seeds{clipped}. Not smoothed.", *notes]
    if drawing.levels:
        sentences.append("Dashed, without marks: the mean of the final evaluations of "
                         f"{', '.join(row.label for row in drawing.levels)}, whose curve is not drawn.")
    if any(panel == ALL for _, panel in drawing.curves):
        sentences.append(f"All tasks: mean of the tasks' means, with a {level} stratified bootstrap band (whole runs "
                         "resampled within tasks), as far as every seed of every task has come.")
    if options.individual:
        sentences.append("Thin lines: single seeds.")
    if drawing.bandless:
        sentences.append("Two seeds make no band: thin lines are the single seeds.")
    if drawing.alone:
        sentences.append("A line of one seed has no band, and says nothing about other seeds.")
    if drawing.pale:
        sentences.append("Thinner and paler: not all seeds of the line have come so far.")
    if drawing.untimed:
        sentences.append(f"Not drawn, since no such times were recorded: {', '.join(drawing.untimed)}.")
    return close_caption(sentences, drawing.results, reported)
