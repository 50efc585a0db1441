"""Learning curves for papers: success rate against env_steps, mean over seeds with a 95 % band.

The same results give the same bytes: no dates are written, the bootstrap has its own seed, and fonts are embedded
whole as TrueType (``pdf.fonttype`` 42), as publishers ask.
"""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import Results
from pvdr_bench.results.series import (
    METRICS,
    Row,
    bounds_of,
    caption_facts,
    curve_values,
    final_interval,
    left_out,
    rows_of,
)
from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS, bootstrap_curve, t_interval
from pvdr_bench.runs.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALL = "all tasks"
_MARKERS = "osD^vPX*<>"
_MAX_COLUMNS = 4
FEW_SEEDS = 5  # under this the legend says how many
_STYLE: dict[str, Any] = {
    "pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "pvdr-bench",
    "font.family": "DejaVu Sans", "font.size": 8.0, "axes.titlesize": 9.0, "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0, "ytick.labelsize": 7.0, "legend.fontsize": 7.5, "axes.linewidth": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "0.25", "grid.linewidth": 0.5,
    "grid.color": "0.92", "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "xtick.color": "0.25", "ytick.color": "0.25", "text.color": "0.1",
    "axes.labelcolor": "0.1",
    "lines.linewidth": 1.5, "lines.markersize": 3.2, "figure.dpi": 100, "savefig.dpi": 300, "path.simplify": False,
}


def _style() -> AbstractContextManager[None]:
    """The paper style, whatever a user's matplotlibrc says."""
    import matplotlib

    settings: Any = {**matplotlib.rcParamsDefault, **_STYLE}
    return matplotlib.rc_context(settings)


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
class Plot:
    """A finished figure with the caption that belongs under it."""

    figure: Figure
    caption: str


def plot_curves(results: Results, metric: str = "success", *, confidence: float = CONFIDENCE,
                repetitions: int = REPETITIONS, bootstrap_seed: int = 0, allow_mixed: bool = False,
                individual: bool = False, reported: pd.DataFrame | None = None) -> Plot:
    """Draw one panel per task, and one over all tasks where there are several.

    Args:
        metric: a key of :data:`~pvdr_bench.results.series.METRICS`.
        individual: draw each seed as a thin line too.
        reported: published numbers, drawn dashed, grey and labelled.

    Raises:
        UsageError: protocols are mixed, or no run has an evaluation.
    """
    if metric not in METRICS:
        raise UsageError(f"there is no metric {metric!r}", hint=f"there is: {', '.join(METRICS)}")
    results.require_runs()
    results.require_one_protocol(allow_mixed=allow_mixed)
    if results.points.empty:
        raise UsageError("no run has an evaluation to plot yet", where=str(results.root))
    import seaborn as sns
    from matplotlib.figure import Figure

    tasks = sorted(map(str, results.points["task"].unique()))
    panels = tasks + ([ALL] if len(tasks) > 1 else [])
    rows = rows_of(results)
    palette = sns.color_palette("colorblind", 10)
    learned = [row for row in rows if not row.reference]
    looks = {row: (palette[i % 10], _MARKERS[i % len(_MARKERS)]) for i, row in enumerate(learned)}
    with _style():
        columns = min(len(panels), _MAX_COLUMNS)
        lines = -(-len(panels) // columns)
        width = 3.6 if columns == 1 else 2.1 * columns + 0.5
        figure = Figure(figsize=(width, 2.3 * lines + 0.5), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False, sharey=metric != "return")
        options = {"confidence": confidence, "repetitions": repetitions, "seed": bootstrap_seed}
        dashed = False
        for panel, ax in zip(panels, axes.flat, strict=False):
            dashed |= _panel(ax, panel, tasks, rows, looks, results, metric, options, individual)
            if reported is not None and panel != ALL:
                _draw_reported(ax, reported[reported["task"].eq(panel)])
        for ax in list(axes.flat)[len(panels):]:
            ax.remove()
        _finish(figure, axes, panels, metric, int(results.points["env_steps"].max()))
    caption = _caption(results, metric, confidence, len(tasks) > 1, dashed, individual, reported)
    return Plot(figure, caption)


def _panel(ax: Axes, panel: str, tasks: list[str], rows: list[Row], looks: dict[Row, tuple[Any, str]], results: Results,
           metric: str, options: dict[str, Any], individual: bool) -> bool:
    """Draw one panel; True if a line is dashed where seeds are missing."""
    dashed = False
    for index, row in enumerate(rows):
        if row.reference:
            _draw_reference(ax, row, panel, tasks, results, metric, options["confidence"], index)
            continue
        color, marker = looks[row]
        if panel == ALL:
            curve = _over_all(row, tasks, results, metric, options)
        else:
            values = curve_values(row, results.points, panel, metric)
            curve = task_curve(values, confidence=options["confidence"], bounds=bounds_of(metric))
            if individual:
                for seed in values:
                    ax.plot(values.index, values[seed], color=color, linewidth=0.5, alpha=0.5, zorder=2)
        if curve is not None and curve.x.size:
            dashed |= _draw(ax, curve, _with_few_seeds(row, results), color, marker)
    ax.set_title(panel)
    return dashed


def _with_few_seeds(row: Row, results: Results) -> str:
    """The row's label, and its number of seeds where that is small."""
    n = int(row.of(results.runs).groupby("task")["seed"].nunique().min())
    return row.label if n >= FEW_SEEDS else f"{row.label}, n = {n}"


def _over_all(row: Row, tasks: list[str], results: Results, metric: str, options: dict[str, Any]) -> Curve | None:
    values = [curve_values(row, results.points, task, metric) for task in tasks]
    return None if any(value.empty for value in values) else all_tasks_curve(values, **options)


def _draw(ax: Axes, curve: Curve, label: str, color: Any, marker: str) -> bool:
    """A line with its band: solid as far as every seed has come, dashed behind."""
    whole = curve.whole
    every = max(1, -(-curve.x.size // 12))  # about a dozen markers
    ax.plot(curve.x[:whole], curve.y[:whole], color=color, marker=marker, markevery=every, markeredgewidth=0.0,
            label=label, zorder=4, clip_on=False)
    if whole < curve.x.size:
        start = max(whole - 1, 0)
        ax.plot(curve.x[start:], curve.y[start:], color=color, linestyle=(0, (3, 2)), zorder=3, clip_on=False)
    known = np.isfinite(curve.low)
    ax.fill_between(curve.x, curve.low, curve.high, where=known, color=color, alpha=0.16, linewidth=0.0, zorder=2)
    return whole < curve.x.size


def _draw_reference(ax: Axes, row: Row, panel: str, tasks: list[str], results: Results, metric: str, confidence: float,
                    index: int) -> None:
    """Floor and ceiling do not learn: a horizontal line at the mean of their final evaluations."""
    shown = tasks if panel == ALL else [panel]
    means = [interval.value for task in shown
             for final, interval in [final_interval(row, results.points, task, metric, confidence=confidence)]
             if final.values.size]
    if len(means) == len(shown):
        ax.axhline(float(np.mean(means)), color="0.45", linestyle=[(0, (1, 1.5)), (0, (4, 1.5, 1, 1.5))][index % 2],
                   linewidth=1.1, label=row.label, zorder=1.5, clip_on=False)


def _draw_reported(ax: Axes, reported: pd.DataFrame) -> None:
    """Published numbers: dashed, grey, named outside at the right; they are of another protocol."""
    height = 0.0
    for record in reported.sort_values("success", kind="stable").to_dict("records"):
        level = record["success"] / 100.0
        ax.axhline(level, color="0.6", linestyle=(0, (5, 3)), linewidth=0.8, zorder=1)
        height = max(height + 0.05, level) if height else level  # names must not cover each other
        details = ", ".join(str(record[key]) for key in ("corpus", "horizon") if record[key])
        ax.annotate(f"{record['method']} ({details}), reported", (1.01, height), xycoords=("axes fraction", "data"),
                    ha="left", va="center", fontsize=5.5, color="0.45", annotation_clip=False)


def _finish(figure: Figure, axes: NDArray[Any], panels: list[str], metric: str, last: int) -> None:
    """Axes up to the ``last`` env_steps, grid, and one legend for all panels below them."""
    from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

    columns = axes.shape[1]
    for index, ax in enumerate(list(axes.flat)[:len(panels)]):
        ax.grid(visible=True, zorder=0)
        ax.set_axisbelow(True)
        ax.set_xlim(0.0, 1.04 * max(last, 1))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        if metric != "return":
            ax.set_ylim(0.0, 1.0)
            ax.set_yticks(np.linspace(0.0, 1.0, 6))
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        if index % columns == 0:
            ax.set_ylabel("success rate" if metric == "success" else METRICS[metric])
        if index + columns >= len(panels):
            ax.set_xlabel("env_steps")
    entries: dict[str, Any] = {}
    for ax in list(axes.flat)[:len(panels)]:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        longest = max(map(len, entries))
        room = max(1, int(figure.get_figwidth() * 72 / (longest * 3.8 + 26)))  # points a letter, and the line
        figure.legend(entries.values(), entries.keys(), loc="outside lower center",
                      ncols=-(-len(entries) // -(-len(entries) // room)),  # rows of equal length
                      frameon=False, handlelength=2.0, columnspacing=1.0)


def _caption(results: Results, metric: str, confidence: float, several: bool, dashed: bool, individual: bool,
             reported: pd.DataFrame | None) -> str:
    level = f"{100 * confidence:g} %"
    clipped = "" if bounds_of(metric) is None else ", clipped to [0, 1]"
    sentences = [f"{METRICS[metric].capitalize()} against simulator steps (env_steps). Lines: mean over seeds; bands: "
                 f"{level} Student t interval over seeds{clipped}. Not smoothed."]
    if several:
        sentences.append(f"All tasks: mean of the tasks' means, with a {level} stratified bootstrap band (whole runs "
                         "resampled within tasks), as far as every seed of every task has come.")
    if individual:
        sentences.append("Thin lines: single seeds.")
    if dashed:
        sentences.append("Dashed: not all seeds of the line have come so far.")
    if any(row.reference for row in rows_of(results)):
        sentences.append("Grey dotted lines: policies that do not learn (mean of their final evaluations).")
    if reported is not None and not reported.empty:
        first = reported.iloc[0]
        sentences.append(f"Grey dashed lines: numbers as reported in {first['source']}, under another protocol "
                         f"({first['protocol']}); not comparable, in no statistic.")
    missing = left_out(results)
    sentences += caption_facts(results)
    if missing:
        sentences.append("Not, or not wholly, included: " + "; ".join(missing) + ".")
    return " ".join(sentences)


def save(plot: Plot, stem: Path) -> dict[str, Path]:
    """Write ``STEM.pdf``, ``STEM.png`` and the caption ``STEM.txt``. The same plot gives the same bytes."""
    paths = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "png", "txt")}
    stem.parent.mkdir(parents=True, exist_ok=True)
    with _style():
        for kind, metadata in (("pdf", {"CreationDate": None, "ModDate": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            plot.figure.savefig(buffer, format=kind, metadata=metadata)
            atomic_write(paths[kind], buffer.getvalue())
    atomic_write(paths["txt"], (plot.caption + "\n").encode())
    return paths
