"""Statistics for reporting: the unit of evidence is one seed.

A seed's value is the mean over its evaluation episodes. Episodes are not independent samples of a method, so they are
never pooled. One task: a Student t interval over seeds, the only usual interval that covers at five seeds. Several
tasks: tasks are strata, and whole runs are resampled within each of them (Agarwal et al., NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvdr_bench.errors import UsageError

Values = NDArray[np.float64]

CONFIDENCE = 0.95
REPETITIONS = 10_000
_CHUNK = 1_000  # repetitions held in memory at once


@dataclass(frozen=True)
class Interval:
    """A statistic with its confidence interval.

    Attributes:
        value: the statistic itself; NaN without data.
        low, high: the bounds, or None where no interval exists (fewer than two seeds).
        n: number of seeds (of all tasks together, where there are several).
        method: ``t`` or ``bootstrap``.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    method: str

    @property
    def known(self) -> bool:
        """Whether there is an interval at all."""
        return self.low is not None and self.high is not None

    def above(self, other: Interval) -> bool:
        """Whether this interval lies wholly above another; False where either is unknown."""
        if self.low is None or other.high is None:
            return False
        return self.low > other.high


def _clean(values: ArrayLike) -> Values:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise UsageError(f"a flat list of one value per seed is expected, not shape {array.shape}")
    if not np.isfinite(array).all():
        raise UsageError("a seed's value is not finite; missing seeds must be left out, not filled in")
    return array


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"confidence {confidence} is not between 0 and 1", hint="0.95 is usual")


def t_interval(values: ArrayLike, *, confidence: float = CONFIDENCE,
               bounds: tuple[float, float] | None = (0.0, 1.0)) -> Interval:
    """Mean over seeds with its Student t interval, clipped to ``bounds`` (None: not clipped).

    Args:
        values: [seeds], one value per seed.

    Returns:
        An interval without bounds for fewer than two seeds. Equal values give an interval of zero width: the seeds
        told nothing about the spread, which is not certainty.

    Raises:
        UsageError: a value is not finite, or not flat.
    """
    _check_confidence(confidence)
    array = _clean(values)
    n = array.size
    if n == 0:
        return Interval(float("nan"), None, None, 0, "t")
    mean = float(array.mean())
    if n == 1:
        return Interval(mean, None, None, 1, "t")
    from scipy.stats import t  # half a second to import

    spread = 0.0 if np.ptp(array) == 0.0 else float(array.std(ddof=1))  # equal values: no rounding noise
    half = float(t.ppf(0.5 + confidence / 2.0, n - 1)) * spread / float(np.sqrt(n))
    low, high = mean - half, mean + half
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Interval(mean, min(low, mean), max(high, mean), n, "t")


def mean_of_tasks(sample: Sequence[Values]) -> Values:
    """Mean over tasks of each task's mean over seeds: every task weighs the same. [..., seeds] each -> [...]."""
    return np.asarray(np.mean([task.mean(axis=-1) for task in sample], axis=0))


def iqm(sample: Sequence[Values]) -> Values:
    """Interquartile mean of all tasks' seeds together: the middle half, a quarter cut from each end (rounded down).

    [..., seeds] each -> [...]. Less noisy than the median, less moved by outliers than the mean.
    """
    pooled = np.sort(np.concatenate(list(sample), axis=-1), axis=-1)
    cut = pooled.shape[-1] // 4
    return np.asarray(pooled[..., cut:pooled.shape[-1] - cut].mean(axis=-1))


Statistic = Callable[[Sequence[Values]], Values]


def _resample(rng: np.random.Generator, tasks: Sequence[Values], repetitions: int) -> list[Values]:
    """Draw runs with replacement within each task: [seeds, ...] each -> [repetitions, ..., seeds] each."""
    drawn = []
    for task in tasks:
        index = rng.integers(0, task.shape[0], size=(repetitions, task.shape[0]))
        drawn.append(np.moveaxis(task[index], 1, -1))
    return drawn


def bootstrap_curve(tasks: Sequence[ArrayLike], *, statistic: Statistic = mean_of_tasks,
                    confidence: float = CONFIDENCE, repetitions: int = REPETITIONS,
                    seed: int = 0) -> tuple[Values, Values, Values]:
    """Stratified percentile bootstrap of a statistic over whole curves.

    Args:
        tasks: per task an array [seeds, points]. A run is drawn with all its points, so that the band is right for
            functionals of the curve too.

    Returns:
        (value, low, high), each [points]. The same input and seed give the same bytes.
    """
    _check_confidence(confidence)
    arrays = [np.asarray(task, dtype=np.float64) for task in tasks]
    if not arrays or any(a.ndim != 2 or a.shape[0] == 0 or a.shape[1] != arrays[0].shape[1] for a in arrays):
        raise UsageError("every task needs at least one seed, and all the same points")
    if not all(np.isfinite(a).all() for a in arrays):
        raise UsageError("a seed's value is not finite; missing seeds must be left out, not filled in")
    if repetitions < 1:
        raise UsageError(f"{repetitions} repetitions of the bootstrap", hint="10000 is usual")
    rng = np.random.default_rng(seed)
    draws = []
    for start in range(0, repetitions, _CHUNK):
        draws.append(statistic(_resample(rng, arrays, min(_CHUNK, repetitions - start))))
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(np.concatenate(draws), [tail, 100.0 - tail], axis=0)
    return statistic([a.T for a in arrays]), low, high


def stratified_bootstrap(tasks: Sequence[ArrayLike], *, statistic: Statistic = mean_of_tasks,
                         confidence: float = CONFIDENCE, repetitions: int = REPETITIONS, seed: int = 0) -> Interval:
    """A statistic over several tasks with its stratified bootstrap interval.

    Args:
        tasks: per task the values of its seeds [seeds]. Tasks are strata and never resampled.

    Returns:
        No bounds where a task has a single seed: nothing is known about its spread then.
    """
    arrays = [_clean(task) for task in tasks]
    n = sum(a.size for a in arrays)
    value, low, high = bootstrap_curve([a[:, None] for a in arrays], statistic=statistic, confidence=confidence,
                                       repetitions=repetitions, seed=seed)
    if min(a.size for a in arrays) < 2:
        return Interval(float(value[0]), None, None, n, "bootstrap")
    return Interval(float(value[0]), float(low[0]), float(high[0]), n, "bootstrap")


def clear_winner(intervals: Sequence[Interval]) -> int | None:
    """Index of the row whose interval lies wholly above all the others, or None.

    One row alone wins nothing, and a row without an interval can neither win nor be beaten.
    """
    if len(intervals) < 2:
        return None
    for i, mine in enumerate(intervals):
        if all(mine.above(other) for j, other in enumerate(intervals) if j != i):
            return i
    return None
