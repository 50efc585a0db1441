"""What all figures share: the paper's look, sizes, panels, legend, caption, and writing PDF, SVG and PNG.

The same results give the same bytes: no dates are written, the bootstrap has its own seed, and fonts are embedded
whole as TrueType (``pdf.fonttype`` 42), as publishers ask.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import Results
from pvdr_bench.results.series import METRICS, Row, caption_facts, left_out, rows_of
from pvdr_bench.runs.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALL = "all tasks"
FEW_SEEDS = 5  # under this the legend says how many
Width = Literal["auto", "single", "double"]
WIDTHS = {"single": 3.25, "double": 6.75}  # inches, a column and a page of a two-column paper
REFERENCE_COLOR, REPORTED_COLOR, REPORTED = "0.45", "0.6", "reported (numbers: see caption)"
_MARKERS = "osD^vPX*<>"
_MAX_COLUMNS = 4
_PANEL = (2.1, 2.3)  # inches of a panel where the width is free
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


def style() -> AbstractContextManager[None]:
    """The paper style, whatever a user's matplotlibrc says."""
    import matplotlib

    settings: Any = {**matplotlib.rcParamsDefault, **_STYLE}
    return matplotlib.rc_context(settings)


@dataclass(frozen=True)
class Plot:
    """A finished figure with the caption that belongs under it."""

    figure: Figure
    caption: str


def require(results: Results, metric: str, allow_mixed: bool) -> None:
    """What every figure asks for before it is drawn.

    Raises:
        UsageError: there is no such metric, no run, no evaluation, or several protocols.
    """
    if metric not in METRICS:
        raise UsageError(f"there is no metric {metric!r}", hint=f"there is: {', '.join(METRICS)}")
    results.require_runs()
    results.require_one_protocol(allow_mixed=allow_mixed)
    if results.points.empty:
        raise UsageError("no run has an evaluation to plot yet", where=str(results.root))


def tasks_of(results: Results) -> list[str]:
    """All tasks, by name."""
    return sorted(map(str, results.points["task"].unique()))


def looks_of(rows: Sequence[Row]) -> dict[Row, tuple[Any, str]]:
    """Colour and marker of every learned row: seaborn's colour-blind palette."""
    import seaborn as sns

    palette = sns.color_palette("colorblind", 10)
    learned = [row for row in rows if not row.reference]
    return {row: (palette[i % 10], _MARKERS[i % len(_MARKERS)]) for i, row in enumerate(learned)}


def label_of(row: Row, results: Results) -> str:
    """The row's label, and its number of seeds where that is small."""
    n = int(row.of(results.runs).groupby("task")["seed"].nunique().min())
    return row.label if n >= FEW_SEEDS else f"{row.label}, n = {n}"


def make_panels(names: Sequence[str], width: Width, sharey: bool) -> tuple[Figure, list[Axes], int]:
    """A grid of titled panels; returns the figure, the panels and the number of columns.

    With ``width`` auto a single panel is a column wide and several grow to what they need.
    """
    from matplotlib.figure import Figure

    columns = min(len(names), 2 if width == "single" else _MAX_COLUMNS)
    lines = -(-len(names) // columns)
    if width == "auto":
        inches, height = (3.6 if columns == 1 else _PANEL[0] * columns + 0.5), _PANEL[1]
    else:
        inches = WIDTHS[width]
        height = min(_PANEL[1], max(1.5, 0.95 * inches / columns))
    figure = Figure(figsize=(inches, height * lines + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=sharey)
    for ax in list(axes.flat)[len(names):]:
        ax.remove()
    panels = list(axes.flat)[:len(names)]
    for ax, name in zip(panels, names, strict=True):
        ax.set_title(name)
        ax.set_axisbelow(True)
    return figure, panels, columns


def rate_axis(ax: Axes, which: Literal["x", "y"] = "y") -> None:
    """A share from 0 to 100 %."""
    from matplotlib.ticker import PercentFormatter

    axis = ax.yaxis if which == "y" else ax.xaxis
    (ax.set_ylim if which == "y" else ax.set_xlim)(0.0, 1.0)
    axis.set_ticks(np.linspace(0.0, 1.0, 6))
    axis.set_major_formatter(PercentFormatter(1.0))


def metric_label(metric: str) -> str:
    """The axis' label."""
    return "success rate" if metric == "success" else METRICS[metric]


def draw_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels, below them, in rows of equal length."""
    entries: dict[str, Any] = {}
    for ax in panels:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        longest = max(map(len, entries))
        room = max(1, int(figure.get_figwidth() * 72 / (longest * 3.8 + 26)))  # points a letter, and the line
        figure.legend(entries.values(), entries.keys(), loc="outside lower center",
                      ncols=-(-len(entries) // -(-len(entries) // room)),
                      frameon=False, handlelength=2.0, columnspacing=1.0)


def printed_numbers(reported: pd.DataFrame | None, tasks: Sequence[str]) -> dict[str, list[tuple[str, float]]]:
    """Published success rates by task as (name, value in [0, 1]), by value; of a curve its last point.

    Names are numbers, explained by :func:`printed_key`: a dozen labels cover the curves that they stand beside.
    """
    if reported is None or reported.empty:
        return {task: [] for task in tasks}
    rows = list(enumerate(printed_labels(reported).values(), start=1))
    return {task: sorted(((str(number), values[task] / 100.0) for number, values in rows if task in values),
                         key=lambda pair: pair[1]) for task in tasks}


def printed_curves(reported: pd.DataFrame, task: str) -> dict[str, tuple[list[int], list[float]]]:
    """Published curves of a task: name -> env_steps, values in [0, 1]; names as in :func:`printed_numbers`."""
    known = list(printed_labels(reported))
    out: dict[str, tuple[list[int], list[float]]] = {}
    shown = reported[reported["task"].eq(task) & reported["env_steps"].notna()].sort_values("env_steps")
    for record in shown.to_dict("records"):
        x, y = out.setdefault(str(known.index(_printed_label(record)) + 1), ([], []))
        x.append(int(record["env_steps"]))
        y.append(float(record["success"]) / 100.0)
    return out


def _printed_label(record: dict[str, Any]) -> str:
    details = ", ".join(str(record[key]) for key in ("corpus", "horizon") if record[key])
    return f"{record['method']} ({details})" if details else str(record["method"])


def printed_labels(reported: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Every published row of a figure with its (last) success in percent by task; its place is its number."""
    out: dict[str, dict[str, float]] = {}
    for record in reported.sort_values(["method", "corpus", "horizon", "env_steps"], kind="stable").to_dict("records"):
        out.setdefault(_printed_label(record), {})[str(record["task"])] = float(record["success"])
    return out


def printed_key(reported: pd.DataFrame) -> str:
    """What the numbers in the figure stand for."""
    rows = [f"{number} {label} {', '.join(f'{value:.1f} ({task})' for task, value in values.items())}"
            for number, (label, values) in enumerate(printed_labels(reported).items(), start=1)]
    last = reported["env_steps"].max()
    at = "" if pd.isna(last) else f", at the last published point ({int(last):,} env_steps)"
    return f"Reported, in percent{at}: " + "; ".join(rows) + "."


def close_caption(sentences: list[str], results: Results, reported: pd.DataFrame | None = None) -> str:
    """The caption's own sentences, then what is true of every figure: lines of policies that do not learn, published
    numbers, seeds, episodes, protocol, and what is missing."""
    if any(row.reference for row in rows_of(results)):
        sentences.append("Grey: policies that do not learn (mean of their final evaluations).")
    if reported is not None and not reported.empty:
        first = reported.iloc[0]
        sentences.append(f"Dashed or hatched grey, with a number: as printed in {first['source']}, under another "
                         f"protocol ({first['protocol']}); not comparable, in no statistic. {printed_key(reported)}")
    sentences += caption_facts(results)
    missing = left_out(results)
    if missing:
        sentences.append("Not, or not wholly, included: " + "; ".join(missing) + ".")
    return " ".join(sentences)


def save(plot: Plot, stem: Path) -> dict[str, Path]:
    """Write ``STEM.pdf``, ``.svg``, ``.png`` and the caption ``.txt``. The same plot gives the same bytes."""
    paths = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "svg", "png", "txt")}
    stem.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None, "ModDate": None}, "svg": {"Date": None},
                                           "png": {"Software": None}}
    with style():
        for kind, facts in metadata.items():
            buffer = io.BytesIO()
            plot.figure.savefig(buffer, format=kind, metadata=facts)
            atomic_write(paths[kind], buffer.getvalue())
    atomic_write(paths["txt"], (plot.caption + "\n").encode())
    return paths
