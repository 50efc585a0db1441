"""What runs say over several tasks: profile, probability of improvement, area under the curve, steps to a threshold.

Tasks are strata: whole runs are resampled within each (Agarwal et al., NeurIPS 2021, arXiv 2108.13264). Every number
here is a function of whole runs, so one bootstrap sample of runs serves all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pvdr_bench.errors import UsageError
from pvdr_bench.results.series import Final, Row, final_values
from pvdr_bench.results.stats import (
    CONFIDENCE,
    REPETITIONS,
    Band,
    Interval,
    Statistic,
    Values,
    bootstrap_curve,
    bootstrap_many,
    check_runs,
    iqm,
    mean_of_tasks,
    optimality_gap,
    percentile_bounds,
    pooled_median,
)

_CHUNK = 1_000  # repetitions drawn at once; part of what a seed means


@dataclass(frozen=True)
class Profile:
    """A performance profile: ``share[i]`` is the share of runs that score above ``taus[i]``, with its band.

    ``low`` and ``high`` are pointwise; None where a task has a single seed.
    """

    taus: Values
    share: Values
    low: Values | None
    high: Values | None


def performance_profile(tasks: Sequence[ArrayLike], taus: ArrayLike | None = None, *, confidence: float = CONFIDENCE,
                        repetitions: int = REPETITIONS, seed: int = 0) -> Profile:
    """Run-score distribution (Agarwal et al. 2021, Eq. 1): for each tau the share of runs strictly above it.

    Args:
        tasks: per task the scores of its seeds [seeds]. Every task weighs the same, as in the mean.
        taus: [points]; default: 0, 0.01, ... 1.

    Raises:
        UsageError: see :func:`~pvdr_bench.results.stats.check_runs`.
    """
    levels = np.linspace(0.0, 1.0, 101) if taus is None else np.asarray(taus, dtype=np.float64)
    scores = [array[:, 0] for array in check_runs([np.asarray(task)[:, None] for task in tasks], repetitions)]
    above = [(task[:, None] > levels).astype(np.float64) for task in scores]
    share, low, high = bootstrap_curve(above, confidence=confidence, repetitions=repetitions, seed=seed)
    known = min(task.size for task in scores) > 1
    return Profile(levels, share, low if known else None, high if known else None)


def probability_of_improvement(x: Sequence[ArrayLike], y: Sequence[ArrayLike], *, confidence: float = CONFIDENCE,
                               repetitions: int = REPETITIONS, seed: int = 0) -> Interval:
    """Mean over tasks of P(a run of X scores above a run of Y), a tie counting half (Agarwal et al. 2021, Eq. 2).

    In one task this is the Mann-Whitney U of X divided by the number of pairs. Runs are not paired: those of X and of
    Y are resampled each on its own.

    Args:
        x, y: per task, in the same order, the scores of its seeds [seeds].

    Returns:
        Value and bounds in [0, 1]; 0.5 says neither is better. No bounds where a task has a single seed.

    Raises:
        UsageError: X and Y have different numbers of tasks; see also :func:`~pvdr_bench.results.stats.check_runs`.
    """
    if len(x) != len(y):
        raise UsageError(f"X has {len(x)} tasks and Y has {len(y)}; give the same tasks, in the same order")
    pairs = [tuple(a[:, 0] for a in check_runs([np.asarray(one)[:, None], np.asarray(two)[:, None]], repetitions))
             for one, two in zip(x, y, strict=True)]
    wins = [(one[:, None] > two) + 0.5 * (one[:, None] == two) for one, two in pairs]  # [X seeds, Y seeds] each
    if not wins:
        raise UsageError("there is no task to compare in")
    rng = np.random.default_rng(seed)
    draws = [np.mean([_resampled_wins(rng, win, min(_CHUNK, repetitions - start)) for win in wins], axis=0)
             for start in range(0, repetitions, _CHUNK)]
    value, n = float(np.mean([win.mean() for win in wins])), sum(one.size + two.size for one, two in pairs)
    if min(min(win.shape) for win in wins) < 2:
        return Interval(value, None, None, n, "bootstrap")
    low, high = percentile_bounds(np.concatenate(draws), confidence)
    return Interval(value, float(low), float(high), n, "bootstrap")


def _resampled_wins(rng: np.random.Generator, win: Values, repetitions: int) -> Values:
    """Mean of ``win`` [X, Y] over resampled rows and columns: [repetitions]."""
    rows, columns = (_counts(rng, size, repetitions) for size in win.shape)
    return np.asarray(((rows @ win) * columns).sum(axis=1) / win.size)


def _counts(rng: np.random.Generator, size: int, repetitions: int) -> Values:
    """How often each of ``size`` runs is drawn with replacement: [repetitions, size]."""
    return rng.multinomial(size, np.full(size, 1.0 / size), size=repetitions).astype(np.float64)


def area_under_curve(env_steps: ArrayLike, values: ArrayLike) -> Values:
    """Mean height of learning curves: trapezoids over env_steps, divided by the range of env_steps.

    Args:
        env_steps: [points], ascending; the range runs from the first evaluation to the last, nothing is assumed
            about the time before.
        values: [..., points].

    Returns:
        [...], in the unit of the values, so in [0, 1] for rates.

    Raises:
        UsageError: fewer than two points, or not ascending.
    """
    x, y = np.asarray(env_steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size < 2 or x.size != y.shape[-1] or (np.diff(x) <= 0).any():
        raise UsageError("an area needs at least two points, at ascending env_steps")
    from scipy.integrate import trapezoid  # slow to import; numpy has it since 2.0 only

    return np.asarray(trapezoid(y, x, axis=-1) / (x[-1] - x[0]))


def steps_to_threshold(env_steps: ArrayLike, values: ArrayLike, threshold: float) -> Values:
    """env_steps of the first evaluation at which each run is at or above ``threshold``; infinity where none is.

    No interpolation: what a run did between two evaluations was not seen, and a line between two noisy points says
    a precision that is not there. So this is an upper bound, exact to one interval of the evaluation grid.

    Args:
        env_steps: [points], ascending.
        values: [runs, points].

    Returns:
        [runs].
    """
    x, reached = np.asarray(env_steps, dtype=np.float64), np.asarray(values, dtype=np.float64) >= threshold
    if x.ndim != 1 or x.size == 0 or x.size != reached.shape[-1] or (np.diff(x) <= 0).any():
        raise UsageError("steps to a threshold need curves at ascending env_steps")
    return np.asarray(np.where(reached.any(axis=-1), x[reached.argmax(axis=-1)], np.inf))


@dataclass(frozen=True)
class RunCurves:
    """The whole learning curves of one row in one task.

    Attributes:
        env_steps: [points], where every one of these runs was evaluated.
        values: [seeds, points]; the last point is the evaluation that a table shows.
    """

    env_steps: NDArray[np.int64]
    values: Values
    seeds: tuple[int, ...]


def run_curves(row: Row, points: pd.DataFrame, task: str, metric: str = "success",
               env_steps: int | None = None) -> RunCurves:
    """Curves up to :func:`scores_at`, of the same seeds; at the points that all of them have."""
    final = scores_at(row, points, task, metric, env_steps)
    mine = row.of(points, task)
    mine = mine[mine["complete"].astype(bool) & mine["seed"].isin(final.seeds) & (mine["env_steps"] <= final.env_steps)]
    mine = mine.sort_values("point").drop_duplicates(["seed", "env_steps"])  # "final" before "grid"
    curves = mine.pivot(index="seed", columns="env_steps", values=metric).sort_index().dropna(axis="columns")
    return RunCurves(curves.columns.to_numpy(dtype=np.int64), curves.to_numpy(dtype=np.float64),
                     tuple(map(int, curves.index)))


def scores_at(row: Row, points: pd.DataFrame, task: str, metric: str = "success",
              env_steps: int | None = None) -> Final:
    """Each seed's evaluation at ``env_steps`` (a final one rather than the grid's); None: the final evaluations."""
    if env_steps is None:
        return final_values(row, points, task, metric)
    mine = row.of(points, task)
    mine = mine[mine["complete"].astype(bool) & mine["env_steps"].eq(env_steps)]
    mine = mine.sort_values(["seed", "point"]).drop_duplicates("seed")  # "final" before "grid"
    return Final(env_steps if len(mine) else 0, mine[metric].to_numpy(dtype=np.float64),
                 tuple(map(int, mine["seed"])), tuple(map(int, mine["episodes"])))


def one_task_words(tasks: Sequence[str]) -> list[str]:
    """What a caption says where there is nothing to draw from but the few seeds of one task."""
    return [] if len(tasks) > 1 else [
        "One task: the bootstrap over its few seeds gives intervals that are too short; the Student t interval of the "
        "final evaluations is the one to trust."]


@dataclass(frozen=True)
class Aggregates:
    """One row over all its tasks, every interval from the same bootstrap sample of its runs.

    Attributes:
        env_steps: where the curves end, per task.
        mean, iqm: of the evaluations there, the final ones unless another point was asked for.
        gap: optimality gap of the same; None for returns, which have no optimum to be normalised by.
        area: mean over tasks of the area under the curve; None where a task has a single evaluation.
        reached: share of runs that reach the threshold, mean over tasks; None without a threshold.
        steps: median over all runs of the steps to the threshold, infinity where half of them never do.
        gamma, threshold: of the gap, and of ``reached`` and ``steps``.
    """

    env_steps: tuple[int, ...]
    mean: Interval
    iqm: Interval
    gap: Interval | None
    area: Interval | None
    reached: Interval | None
    steps: Interval | None
    gamma: float
    threshold: float | None


def aggregates_of(row: Row, points: pd.DataFrame, tasks: Sequence[str], metric: str = "success", *, gamma: float = 1.0,
                  threshold: float | None = 0.5, env_steps: int | None = None, confidence: float = CONFIDENCE,
                  repetitions: int = REPETITIONS, seed: int = 0) -> Aggregates | None:
    """All aggregates of a row; None unless it has evaluations in every task.

    Args:
        env_steps: end the curves here; None: at the final evaluations.
        gamma: see :func:`~pvdr_bench.results.stats.optimality_gap`.
        threshold: in the unit of the metric; None: no steps to a threshold.

    Raises:
        UsageError: no run could score the threshold.
    """
    check_threshold(threshold, metric)
    curves = [run_curves(row, points, task, metric, env_steps) for task in tasks]
    if not curves or any(curve.values.size == 0 for curve in curves):
        return None
    wanted: dict[str, Statistic] = {"mean": _column(0, mean_of_tasks), "iqm": _column(0, iqm)}
    if metric != "return":
        wanted["gap"] = _column(0, optimality_gap(gamma))
    if all(curve.env_steps.size > 1 for curve in curves):
        wanted["area"] = _column(1, mean_of_tasks)
    if threshold is not None:
        wanted |= {"reached": _column(2, mean_of_tasks), "steps": _column(3, pooled_median)}
    bands = bootstrap_many([_features(curve, threshold) for curve in curves], wanted, confidence=confidence,
                           repetitions=repetitions, seed=seed, censored=True)
    counts = [len(curve.seeds) for curve in curves]
    found = {name: _interval(bands[name], counts) if name in bands else None
             for name in ("gap", "area", "reached", "steps")}
    return Aggregates(tuple(int(curve.env_steps[-1]) for curve in curves), _interval(bands["mean"], counts),
                      _interval(bands["iqm"], counts), **found, gamma=gamma, threshold=threshold)


def check_threshold(threshold: float | None, metric: str) -> None:
    """Refuse a score that no run could have: NaN, infinity, or a rate outside [0, 1].

    Raises:
        UsageError: it is one.
    """
    if threshold is None or (math.isfinite(threshold) and (metric == "return" or 0.0 <= threshold <= 1.0)):
        return
    wanted = "a finite return" if metric == "return" else "a rate between 0 and 1"
    raise UsageError(f"threshold {threshold:g} is not {wanted}", where="--threshold",
                     hint=None if metric == "return" else "0.5 is usual")


def _features(curve: RunCurves, threshold: float | None) -> Values:
    """What a run is reduced to, [seeds, 4]: final, area, whether it reached the threshold, and after how many steps."""
    area = area_under_curve(curve.env_steps, curve.values) if curve.env_steps.size > 1 else np.zeros(len(curve.seeds))
    steps = steps_to_threshold(curve.env_steps, curve.values, np.inf if threshold is None else threshold)
    return np.stack([curve.values[:, -1], area, np.isfinite(steps), steps], axis=1)


def _column(index: int, statistic: Statistic) -> Statistic:
    """The statistic of one feature: [..., features, seeds] per task -> [...]."""
    return lambda sample: statistic([task[..., index, :] for task in sample])


def _interval(band: Band, counts: Sequence[int]) -> Interval:
    value, low, high = map(float, band)
    if min(counts) < 2:
        return Interval(value, None, None, sum(counts), "bootstrap")
    return Interval(value, low, high, sum(counts), "bootstrap")
