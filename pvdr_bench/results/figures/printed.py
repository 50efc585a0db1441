"""Published numbers beside ours: grey, dashed or hatched, numbered; the caption says what each number is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from pvdr_bench.results.figures.layout import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPORTED_COLOR, NUMBER_COLOR, REPORTED = "0.6", "0.45", "reported (numbers: see caption)"


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
    """Every published row of a figure, in the order in which they are given, with its (last) success in percent by
    task; its place is its number."""
    out: dict[str, dict[str, float]] = {_printed_label(record): {} for record in reported.to_dict("records")}
    for record in reported.sort_values("env_steps", kind="stable").to_dict("records"):
        out[_printed_label(record)][str(record["task"])] = float(record["success"])
    return out


def printed_key(reported: pd.DataFrame) -> str:
    """What the numbers in the figure stand for."""
    rows = [f"{number} {label} {', '.join(f'{value:.1f} ({task})' for task, value in values.items())}"
            for number, (label, values) in enumerate(printed_labels(reported).items(), start=1)]
    last = reported["env_steps"].max()
    at = "" if pd.isna(last) else f", at the last published point ({int(last):,} env_steps)"
    return f"Reported, in percent{at}: " + "; ".join(rows) + "."


def draw_printed(ax: Axes, printed: list[tuple[str, float]], drawn: dict[str, tuple[list[int], list[float]]],
                 height: float) -> None:
    """Published numbers: dashed and grey, numbered in the right margin; they are of another protocol.

    Args:
        printed: names and (last) levels.
        drawn: names of those that are curves, with their points; all others are levels from side to side.
        height: of the axes, inches.
    """
    apart = 6.0 / (72 * height)  # points of a number, of the axes' height
    places = spread([level for _, level in printed], apart)  # numbers must not cover each other
    for (name, level), place in zip(printed, places, strict=True):
        look: dict[str, Any] = {"color": REPORTED_COLOR, "linestyle": (0, (5, 3)), "linewidth": 0.6, "zorder": 1,
                                "label": REPORTED}
        if name in drawn:
            ax.plot(*drawn[name], marker=".", markersize=2.5, clip_on=False, **look)
        else:
            ax.axhline(level, **look)
        ax.annotate(name, (1.01, place), xycoords=("axes fraction", "data"), ha="left", va="center", fontsize=5.0,
                    color=NUMBER_COLOR, annotation_clip=False)
