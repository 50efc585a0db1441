"""Results for other people's tools: rliable's score dictionaries, one CSV, one JSON.

rliable (Agarwal et al., NeurIPS 2021) takes ``{method: scores}`` with scores [seeds, tasks], or [seeds, tasks, frames]
for sample efficiency. Both are written; an interval of ours does not follow from theirs, see ``stats.py``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import COLUMNS, Results
from pvdr_bench.results.series import METRICS, Row, curve_values, final_values, rows_of
from pvdr_bench.results.sheets import to_csv
from pvdr_bench.runs.files import atomic_write, encode, to_json


@dataclass(frozen=True)
class Scores:
    """rliable's dictionaries, and what their axes are.

    Attributes:
        final: label -> [seeds, tasks], the final evaluations.
        curves: label -> [seeds, tasks, frames]; only labels whose seeds have all frames.
        seeds: label -> the seeds, in order.
        frames: [frames] env_steps that every curve has.
        left_out: what is in no dictionary, a line each.
    """

    metric: str
    tasks: tuple[str, ...]
    final: dict[str, NDArray[np.float64]]
    curves: dict[str, NDArray[np.float64]]
    seeds: dict[str, tuple[int, ...]]
    frames: NDArray[np.int64]
    left_out: tuple[str, ...]


def scores_of(results: Results, metric: str = "success", *, allow_mixed: bool = False) -> Scores:
    """Seeds that have a final evaluation in every task; rliable knows no missing runs.

    Raises:
        UsageError: protocols are mixed, the metric is unknown, or no method has a seed with every task.
    """
    if metric not in METRICS:
        raise UsageError(f"there is no metric {metric!r}", hint=f"there is: {', '.join(METRICS)}")
    results.require_runs()
    results.require_one_protocol(allow_mixed=allow_mixed)
    tasks = tuple(sorted(map(str, results.runs["task"].unique())))
    final: dict[str, NDArray[np.float64]] = {}
    seeds: dict[str, tuple[int, ...]] = {}
    frames: dict[str, dict[str, pd.DataFrame]] = {}
    left_out = []
    for row in rows_of(results):
        tables = _by_seed(row, results, tasks, metric)
        whole = sorted(set.intersection(*(set(values) for values in tables)))
        absent = sorted({seed for values in tables for seed in values} - set(whole))
        if absent or not whole:
            which = f"seeds {', '.join(map(str, absent))}" if absent else "all seeds"
            left_out.append(f"{row.label}: {which} lack a final evaluation in some task")
        if whole:
            final[row.label] = np.array([[values[seed] for values in tables] for seed in whole])
            seeds[row.label] = tuple(whole)
            frames[row.label] = {task: curve_values(row, results.points, task, metric) for task in tasks}
    if not final:
        raise UsageError("no method has a seed with a final evaluation in every task", where=str(results.root),
                         hint="choose tasks with --tasks, or see what is missing: pvdr-bench aggregate")
    common = _common_frames(frames, seeds)
    curves = {label: np.stack([by_task[task].loc[common, list(seeds[label])].to_numpy(np.float64).T for task in tasks],
                              axis=1) for label, by_task in frames.items()} if len(common) else {}
    return Scores(metric, tasks, final, curves, seeds, common, tuple(left_out))


def _by_seed(row: Row, results: Results, tasks: tuple[str, ...], metric: str) -> list[dict[int, float]]:
    """For each task: seed -> final value."""
    finals = [final_values(row, results.points, task, metric) for task in tasks]
    return [dict(zip(final.seeds, final.values.tolist(), strict=True)) for final in finals]


def _common_frames(frames: dict[str, dict[str, pd.DataFrame]], seeds: dict[str, tuple[int, ...]]) -> NDArray[np.int64]:
    """env_steps at which every seed of every method was evaluated in every task."""
    there = [set(values[list(seeds[label])].dropna().index)
             for label, by_task in frames.items() for values in by_task.values()]
    return np.array(sorted(set.intersection(*there)), np.int64)


def _rliable(results: Results, out: Path, metric: str, allow_mixed: bool) -> list[Path]:
    """``.json``: one file. ``.npz``: final scores by label, curves beside it, and what the axes are."""
    scores = scores_of(results, metric, allow_mixed=allow_mixed)
    axes: dict[str, Any] = {
        "metric": metric, "tasks": list(scores.tasks), "frames": scores.frames.tolist(),
        "seeds": {label: list(seeds) for label, seeds in scores.seeds.items()},
        "protocols": results.protocols, "left_out": list(scores.left_out)}
    if out.suffix == ".json":
        whole = {**axes, "final": {label: values.tolist() for label, values in scores.final.items()},
                 "curves": {label: values.tolist() for label, values in scores.curves.items()}}
        atomic_write(out, encode(json.dumps(whole, allow_nan=False) + "\n"))
        return [out]
    files = [out, out.with_suffix(".curves.npz"), out.with_suffix(".json")]
    for path, arrays in zip(files, (scores.final, scores.curves), strict=False):
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        atomic_write(path, buffer.getvalue())
    atomic_write(files[2], encode(json.dumps(axes, indent=2, allow_nan=False) + "\n"))
    return files


def _csv(results: Results, out: Path, metric: str, allow_mixed: bool) -> list[Path]:
    """The tidy frame, all metrics and protocols: every row says its own."""
    atomic_write(out, to_csv(results.points))
    return [out]


def _json(results: Results, out: Path, metric: str, allow_mixed: bool) -> list[Path]:
    """The tidy frame with what its columns mean, the protocols and what is missing."""
    whole = {
        "columns": COLUMNS, "points": results.points.to_dict("records"), "protocols": results.protocols,
        "problems": [{"run": p.run, "kind": p.kind, "detail": p.detail} for p in results.problems]}
    atomic_write(out, encode(to_json(_missing_as_null(whole)) + "\n"))
    return [out]


def _missing_as_null(whole: dict[str, Any]) -> dict[str, Any]:
    """NaN stands for a number that was not recorded, in this file as null."""
    points = [{name: None if isinstance(value, float) and value != value else value for name, value in row.items()}
              for row in whole["points"]]
    return {**whole, "points": points}


_Writer = Callable[[Results, Path, str, bool], list[Path]]
FORMATS: dict[str, tuple[tuple[str, ...], _Writer]] = {
    "rliable": ((".npz", ".json"), _rliable), "csv": ((".csv",), _csv), "json": ((".json",), _json)}


def export(results: Results, kind: str, out: Path, *, metric: str = "success", allow_mixed: bool = False) -> list[Path]:
    """Write ``results`` for others; returns the files.

    Args:
        kind: a key of :data:`FORMATS`.
        out: a file whose suffix fits.
        metric: of rliable's scores; the others hold all metrics.

    Raises:
        UsageError: no such format, another suffix, nothing to write, or see :func:`scores_of`.
    """
    if kind not in FORMATS:
        raise UsageError(f"there is no format {kind!r}", where="--format", hint=f"there is: {', '.join(FORMATS)}")
    suffixes, write = FORMATS[kind]
    if out.suffix not in suffixes:
        raise UsageError(f"{kind} is written as {' or '.join(suffixes)}, not {out.suffix!r}", where=f"--out {out}")
    if results.points.empty:
        raise UsageError("no run has an evaluation to export yet", where=str(results.root))
    return write(results, out, metric, allow_mixed)
