"""Clouds of representations and curves, drawn in the figures' look. The same numbers give the same bytes.

Shapes: n samples.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pvdr_bench.inspection.numbers import Doubles, Values, cmyk_to_rgb
from pvdr_bench.results.figures.style import style
from pvdr_bench.rl.views import Cloud, Curves, Line, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE, WORDS = 2.35, 0.6  # inches of a panel, and of what is written above and below it
NARROWEST = 3.1  # inches of a figure, for its legend
STRETCHED = (1.0, 99.0)  # percentiles
INKS = (("C", "#00a0dd"), ("M", "#d6007f"), ("Y", "#c7b000"), ("K", "#000000"))
COLORS = ("#0072b2", "#d55e00", "#009e73", "#7f3c8d")
DPI = 170


def png(figure: Figure) -> bytes:
    """A figure as PNG, without date or program."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def draw_cloud(cloud: Cloud, way: str, plane: Sequence[Doubles], numbers: Sequence[Mapping[str, Any]]) -> bytes:
    """The panels of a cloud, coloured by the actions of one ``way``, as PNG.

    The first way is drawn as the paper does; in the others each number of the action is stretched to the range that it
    has in the panel, so that small differences are seen (their size is the spread, which is written below).

    Args:
        plane: [n, 2] of each panel.
        numbers: of each panel, as :func:`~pvdr_bench.inspection.numbers.measured` has them.
    """
    from matplotlib.figure import Figure

    columns, ways = min(cloud.columns, len(cloud.panels)), list(cloud.panels[0].actions)
    rows = -(-len(cloud.panels) // columns)
    with style():
        figure = Figure(figsize=(max(NARROWEST, columns * SIDE + 0.2), rows * (SIDE + WORDS) + 0.24))
        height, width = figure.get_figheight(), figure.get_figwidth()
        for place, (panel, points, found) in enumerate(zip(cloud.panels, plane, numbers, strict=True)):
            row, column = divmod(place, columns)
            bottom = height - (row + 1) * (SIDE + WORDS) + 0.36
            axes = figure.add_axes(((0.1 + column * SIDE + 0.04) / width, bottom / height, (SIDE - 0.08) / width,
                                    (SIDE - 0.08) / height))
            action = panel.actions[way]
            _panel(axes, panel, points, cmyk_to_rgb(stretched(action) if way in ways[1:] else action), found)
        _legend(figure, cloud.panels[0].actions[way].shape[1], way in ways[1:])
        return png(figure)


def _panel(axes: Axes, panel: Panel, points: Doubles, colors: Doubles, found: Mapping[str, Any]) -> None:
    centre, half = (points.max(0) + points.min(0)) / 2, float(np.ptp(points, axis=0).max()) / 2 * 1.06
    axes.scatter(points[:, 0], points[:, 1], s=3.2, c=colors, linewidths=0)
    axes.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color="0.75")
    axes.set_title(panel.label, fontsize=7.5)
    axes.set_xlabel(told(found), fontsize=6.5, labelpad=3, linespacing=1.25)
    if panel.frame is not None:
        small = axes.inset_axes((0.0, 0.79, 0.21, 0.21))
        small.imshow(panel.frame, interpolation="nearest")
        small.set(xticks=[], yticks=[])


def told(found: Mapping[str, Any]) -> str:
    """The two numbers in words."""
    def number(value: float | None) -> str:
        return "none" if value is None else f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")

    return (f"rank correlation {number(found['rank_correlation'])}   spread of actions {found['action_spread']:.2g}\n"
            f"probe R² {number(found['probe_r2'])}   with permuted actions {number(found['probe_r2_permuted'])}")


def stretched(action: Values) -> Doubles:
    """Actions [n, A] whose numbers each reach from -1 to 1; 0 where all are alike."""
    low, high = np.percentile(np.asarray(action, np.float64), STRETCHED, axis=0)
    size = np.where(high > low, high - low, np.inf)
    found: Doubles = (2 * (action - (low + high) / 2) / size).clip(-1, 1)
    return found


def _legend(figure: Figure, actions: int, relative: bool) -> None:
    """Which number of an action is which ink."""
    height, x = figure.get_figheight(), 0.14
    texts = [("0.1", "Action, stretched:" if relative else "Action as CMYK:"), *((color, f"{ink} = a{place + 1}")
                                           for place, (ink, color) in enumerate(INKS[:min(4, actions)]))]
    for color, text in texts:
        figure.text(x / figure.get_figwidth(), 0.09 / height, text, color=color, fontsize=7,
                    fontweight="normal" if color == "0.1" else "bold")
        x += 0.95 if color == "0.1" else 0.5


def draw_curves(curves: Curves) -> bytes:
    """Curves as PNG, a panel for each ylabel, over one x."""
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(line.ylabel for line in curves.lines))
    with style():
        figure = Figure(figsize=(4.4, 1.45 * len(labels) + 0.5), layout="constrained")
        axes: list[Axes] = list(np.atleast_1d(figure.subplots(len(labels), 1, sharex=True)))
        for each, label in zip(axes, labels, strict=True):
            _curve(each, [line for line in curves.lines if line.ylabel == label])
            each.set_ylabel(label)
            for place, text in curves.marks:
                each.axvline(place, color="0.6", linewidth=0.8, linestyle=(0, (3, 2)))
                if each is axes[0]:
                    each.annotate(text, (place, 1.02), xycoords=("data", "axes fraction"), fontsize=7, ha="center")
        axes[-1].set_xlabel(curves.xlabel)
        return png(figure)


def _curve(axes: Axes, lines: Sequence[Line]) -> None:
    for line, color in zip(lines, COLORS * (len(lines) // len(COLORS) + 1), strict=False):
        axes.plot(line.x, line.y, color=color, label=line.label, linewidth=1.2)
    axes.grid(axis="y")
    if len(lines) > 1:
        axes.legend(frameon=False)
