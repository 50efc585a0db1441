"""The curves as numbers: what the browser draws is computed here, with the functions of ``plot``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pvdr_bench.results.collect import Results
from pvdr_bench.results.curve import BAND_SEEDS, Curve, all_tasks_curve, task_curve
from pvdr_bench.results.series import METRICS, Row, bounds_of, curve_values, final_interval
from pvdr_bench.results.stats import REPETITIONS
from pvdr_bench.results.tables import ALL

_SHORT_HOURS = 3.0  # wall times under this are shown in minutes
_NOTES = {
    "exact": "Time of training, without evaluation; a line stands at the mean over the seeds that have the point.",
    "share": "Not every run records its time at each point, so a point stands at its share of the run's whole time, "
             "evaluation included; a line stands at the mean over the seeds that have the point.",
}


Hours = dict[int, float]  # by env_steps of the grid


@dataclass(frozen=True)
class Clock:
    """How long a run had trained at each of its evaluation points.

    Attributes:
        exact: hours of training without evaluation, as ``timing.jsonl`` has them; None where a point is not in it.
        share: the point's share of the run's whole time, evaluation included; None where no time is recorded.
        gpu: whether every part was made on a GPU.
    """

    exact: Hours | None
    share: Hours | None
    gpu: bool


def curve_data(results: Results, rows: list[Row], clocks: dict[str, Clock], metric: str, *, confidence: float,
               first: int = 0, repetitions: int = REPETITIONS, bootstrap_seed: int = 0) -> dict[str, Any]:
    """Axes and panels (one per task, and one over all tasks where there are several), as JSON types.

    Args:
        clocks: by run directory below the results folder.
        first: place of the first row among the rows of the page.

    Returns:
        ``axes``: what x may be, with the reason for each that is left out in ``absent``. ``panels``: per task the lines
        (x per axis, mean, bounds or None, seeds behind each point, every seed's own line) and the horizontal lines.
    """
    learned = [row for row in rows if not row.reference]
    place = {row: first + k for k, row in enumerate(rows)}
    axes, absent = _axes(results, learned, clocks)
    options = {"confidence": confidence, "repetitions": repetitions, "seed": bootstrap_seed}
    tasks = sorted(map(str, results.points["task"].unique()))
    panels = []
    for panel in tasks + ([ALL] if len(tasks) > 1 else []):
        shown = tasks if panel == ALL else [panel]
        lines = [line for row in learned
                 if (line := _line(row, place[row], shown, results, clocks, axes, metric, options)) is not None]
        flats = [flat for row in rows if row.reference
                 if (flat := _flat(row, place[row], shown, results, metric, confidence)) is not None]
        panels.append({"task": panel, "lines": lines, "flats": flats})
    return {"axes": axes, "absent": absent, "panels": panels, "label": METRICS[metric], "rate": metric != "return",
            "bandSeeds": BAND_SEEDS}


def _axes(results: Results, learned: list[Row], clocks: dict[str, Clock]) -> tuple[list[dict[str, Any]], list[str]]:
    """What x may be. An axis is offered only if every run behind a curve has its numbers, all of one kind."""
    axes: list[dict[str, Any]] = [{"key": "env_steps", "label": "env_steps", "note": ""}]
    drawn = set(results.points["path"])
    runs = sorted({str(path) for row in learned for path in row.of(results.runs)["path"]} & drawn)
    kind = next((kind for kind in ("exact", "share") if all(getattr(clocks[run], kind) for run in runs)), None)
    if not runs:
        return axes, []
    if kind is None:
        without = [run for run in runs if not clocks[run].exact and not clocks[run].share] or runs
        return axes, [f"Wall time is no axis here: not every run says how long it took (the first is {without[0]})."]
    longest = max(max(getattr(clocks[run], kind).values()) for run in runs)
    unit, factor = ("minutes", 60.0) if longest < _SHORT_HOURS else ("hours", 1.0)
    axes.append({"key": "wall", "label": f"wall time ({unit})", "kind": kind, "factor": factor, "note": _NOTES[kind]})
    if kind != "exact" or not all(clocks[run].gpu for run in runs):
        return axes, ["GPU-hours are no axis here: not every run records its hours on a GPU."]
    axes.append({"key": "gpu", "label": "GPU-hours", "kind": kind, "factor": 1.0,
                 "note": f"A run works on one GPU. {_NOTES[kind]}"})
    return axes, []


def _line(row: Row, index: int, tasks: list[str], results: Results, clocks: dict[str, Clock],
          axes: list[dict[str, Any]], metric: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """One row's line in one panel; None where it has no point."""
    values = [curve_values(row, results.points, task, metric) for task in tasks]
    if any(value.empty for value in values):
        return None
    single = len(tasks) == 1
    curve = (task_curve(values[0], confidence=options["confidence"], bounds=bounds_of(metric)) if single
             else all_tasks_curve(values, **options))
    if curve is None or not curve.x.size:
        return None
    places = [[_places(row, task, results, clocks, axis, value) for task, value in zip(tasks, values, strict=True)]
              for axis in axes]
    line: dict[str, Any] = {"row": index, **_numbers(curve), "seeds": [],
                            "x": {axis["key"]: _mean_x(curve, found) for axis, found in zip(axes, places, strict=True)}}
    for seed in values[0] if single else []:
        mine = values[0][seed].dropna()
        line["seeds"].append({
            "seed": int(seed), "y": [float(y) for y in mine],
            "x": {axis["key"]: [_number(found[0].loc[step, seed]) for step in mine.index]
                  for axis, found in zip(axes, places, strict=True)}})
    return line


def _numbers(curve: Curve) -> dict[str, Any]:
    """Mean, bounds (None where there is no interval), seeds, and how many leading points every seed has."""
    return {"y": [float(y) for y in curve.y], "n": [int(n) for n in curve.n], "whole": curve.whole,
            "low": [None if math.isnan(v) else float(v) for v in curve.low],
            "high": [None if math.isnan(v) else float(v) for v in curve.high]}


def _places(row: Row, task: str, results: Results, clocks: dict[str, Clock], axis: dict[str, Any],
            values: pd.DataFrame) -> pd.DataFrame:
    """Where each value stands on an axis: env_steps (index) x seeds (columns), NaN where there is no value."""
    steps = np.broadcast_to(values.index.to_numpy(dtype=np.float64)[:, None], values.shape)
    places = pd.DataFrame(steps, index=values.index, columns=values.columns).where(values.notna())
    if axis["key"] == "env_steps":
        return places
    runs = row.of(results.runs, task)
    paths = dict(zip(runs["seed"], runs["path"], strict=True))
    for seed in places:
        hours: Hours = getattr(clocks[str(paths[seed])], axis["kind"])  # there: _axes asked for it
        places[seed] = [math.nan if math.isnan(step) else axis["factor"] * hours[int(step)] for step in places[seed]]
    return places


def _mean_x(curve: Curve, places: list[pd.DataFrame]) -> list[float]:
    """Where a line's points stand: the mean over the seeds (of all tasks) that have the point."""
    found = pd.concat(places, axis=1).loc[list(curve.x)].to_numpy(dtype=np.float64)
    return [_number(x) for x in np.nanmean(found, axis=1)]


def _number(value: float) -> float:
    """Six digits, more than a screen has pixels; whole numbers as such."""
    rounded = float(f"{value:.6g}") if value != int(value) else value
    return int(rounded) if rounded == int(rounded) else rounded


def _flat(row: Row, index: int, tasks: list[str], results: Results, metric: str,
          confidence: float) -> dict[str, Any] | None:
    """Floor or ceiling: the mean of its final evaluations, None unless every task has one."""
    intervals = [interval for task in tasks
                 for final, interval in [final_interval(row, results.points, task, metric, confidence=confidence)]
                 if final.values.size]
    if len(intervals) < len(tasks):
        return None
    return {"row": index, "y": float(np.mean([interval.value for interval in intervals])),
            "n": sum(interval.n for interval in intervals)}
