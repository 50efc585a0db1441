"""What all figures share: the paper's look, labels, caption, and writing PDF, SVG and PNG.

The same results give the same bytes: no dates are written, the bootstrap has its own seed, and fonts are embedded
whole as TrueType (``pdf.fonttype`` 42), as publishers ask.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import Results
from pvdr_bench.results.figures.printed import printed_key
from pvdr_bench.results.looks import DASHES, Look, reference_dash
from pvdr_bench.results.series import METRICS, Row, budget_words, caption_facts, left_out, rows_of
from pvdr_bench.runs.files import atomic_write, refuse_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW_SEEDS = 5  # under this the legend says how many
REFERENCE_COLOR = "0.45"
_MARKERS = {"circle": ("o", 1.0), "square": ("s", 0.92), "diamond": ("D", 0.86), "up": ("^", 1.08), "down": ("v", 1.08),
            "left": ("<", 1.08), "right": (">", 1.08), "plus": ("P", 1.15), "cross": ("X", 1.12), "star": ("*", 1.5)}
_MARKER_POINTS = 3.7
_HATCHES = {"solid": "", "dashed": "//////", "dotted": "......", "dash-dot": "\\\\\\\\\\\\", "long": "xxxxxx"}
_STYLE: dict[str, Any] = {
    "pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "pvdr-bench",
    "font.family": "DejaVu Sans", "font.size": 8.0, "axes.titlesize": 8.5, "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0, "ytick.labelsize": 7.0, "legend.fontsize": 7.5, "axes.linewidth": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "0.25", "grid.linewidth": 0.5,
    "grid.color": "0.92", "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "xtick.color": "0.25", "ytick.color": "0.25", "text.color": "0.1",
    "axes.labelcolor": "0.1", "axes.titlepad": 4.0, "axes.axisbelow": True, "hatch.linewidth": 0.6,
    "lines.linewidth": 1.4, "lines.dash_capstyle": "butt", "figure.dpi": 300, "savefig.dpi": 300,
    "path.simplify": False, "text.hinting": "none",  # texts are as wide in every file as they were measured
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


def line_look(look: Look) -> dict[str, Any]:
    """A look as matplotlib draws lines: colour, dash and mark."""
    marker, factor = _MARKERS[look.mark]
    return {"color": look.color, "linestyle": (0, DASHES[look.dash]) if DASHES[look.dash] else "-", "marker": marker,
            "markersize": factor * _MARKER_POINTS, "markerfacecolor": look.color if look.filled else "white",
            "markeredgecolor": look.color, "markeredgewidth": 0.4 if look.filled else 0.9}


def reference_look(row: Row) -> dict[str, Any]:
    """Floor or ceiling as matplotlib draws lines: grey, with a dash of its own."""
    return {"color": REFERENCE_COLOR, "linestyle": (0, DASHES[reference_dash(row.variant)]), "linewidth": 1.1}


def bar_look(look: Look) -> dict[str, Any]:
    """A look as matplotlib draws bars: colour, and white hatches in place of dashes."""
    return {"facecolor": look.color, "hatch": _HATCHES[look.dash], "edgecolor": "white", "linewidth": 0.0}


def label_of(row: Row, results: Results) -> str:
    """The row's label, and its number of seeds where that is small."""
    n = int(row.of(results.runs).groupby("task")["seed"].nunique().min())
    return row.label if n >= FEW_SEEDS else f"{row.label}, n = {n}"


def rate_axis(ax: Axes, which: Literal["x", "y"] = "y", *, steps: int = 5) -> None:
    """A share from 0 to 100 %."""
    from matplotlib.ticker import PercentFormatter

    axis = ax.yaxis if which == "y" else ax.xaxis
    (ax.set_ylim if which == "y" else ax.set_xlim)(0.0, 1.0)
    axis.set_ticks(np.linspace(0.0, 1.0, steps + 1))
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def metric_label(metric: str) -> str:
    """The axis' label."""
    return {"success_any": "success at any step", "success_end": "success at the end"}.get(metric, METRICS[metric])


def close_caption(sentences: list[str], results: Results, reported: pd.DataFrame | None = None, *,
                  budgets: Iterable[int] = (), references: bool = True) -> str:
    """The caption's own sentences, then what is true of every figure: where final evaluations were made, lines of
    policies that do not learn, published numbers, seeds, episodes, protocol, and what is missing.

    Args:
        budgets: of :func:`~pvdr_bench.results.series.budgets_of`; none where the figure shows more than last points.
        references: whether the figure draws policies that do not learn, where there are some.
    """
    if budgets:
        sentences.append(budget_words(budgets))
    if references and any(row.reference for row in rows_of(results)):
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
    """Write ``STEM.pdf``, ``.svg``, ``.png`` and the caption ``.txt``. The same plot gives the same bytes.

    Raises:
        StorageError: ``stem`` is a folder, or nothing can be written there.
    """
    refuse_folder(stem)
    paths = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "svg", "png", "txt")}
    metadata: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None, "ModDate": None}, "svg": {"Date": None},
                                           "png": {"Software": None}}
    with style():
        for kind, facts in metadata.items():
            buffer = io.BytesIO()
            plot.figure.savefig(buffer, format=kind, metadata=facts)
            atomic_write(paths[kind], buffer.getvalue())
    atomic_write(paths["txt"], (plot.caption + "\n").encode())
    return paths
