"""Statistics for reporting: the unit of evidence is one seed.

A seed's value is the mean over its evaluation episodes. Episodes are not independent samples of a method, so they are
never pooled. One task: a Student t interval over seeds, the only usual interval that covers at five seeds. Several
tasks: tasks are strata, and whole runs are resampled within each of them (Agarwal et al., NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvdr_bench.errors import UsageError

Values = NDArray[np.float64]

CONFIDENCE = 0.95
REPETITIONS = 10_000
_CHUNK = 1_000  # repetitions whose runs are drawn at once; part of what a seed means
_BLOCK_BYTES = 1 << 25  # resampled values held in memory at once; changes no result


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


def t_bounds(values: Values, *, confidence: float = CONFIDENCE,
             bounds: tuple[float, float] | None = (0.0, 1.0)) -> tuple[Values, Values, Values]:
    """:func:`t_interval` of many samples at once: [..., seeds >= 2] -> (mean, low, high), each [...]."""
    from scipy.special import stdtrit  # scipy.stats.t.ppf without its half second of import and its checks

    n = values.shape[-1]
    mean = np.asarray(values.mean(axis=-1))
    spread = np.where(np.ptp(values, axis=-1) == 0.0, 0.0, values.std(axis=-1, ddof=1))  # equal values: no rounding
    half = float(stdtrit(n - 1, 0.5 + confidence / 2.0)) * spread / float(np.sqrt(n))
    low, high = mean - half, mean + half
    if bounds is not None:
        low, high = np.maximum(low, bounds[0]), np.minimum(high, bounds[1])
    return mean, np.minimum(low, mean), np.maximum(high, mean)


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
    if n < 2:
        return Interval(float(array[0]) if n else float("nan"), None, None, n, "t")
    mean, low, high = t_bounds(array, confidence=confidence, bounds=bounds)
    return Interval(float(mean), float(low), float(high), n, "t")


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
Band = tuple[Values, Values, Values]  # a statistic and its bounds: (value, low, high), each [...]


def optimality_gap(gamma: float = 1.0) -> Statistic:
    """How far runs stay below ``gamma`` on average: mean over tasks of mean over seeds of max(gamma - value, 0).

    What a run scores above gamma cannot make up for another run (Agarwal et al. 2021, section 4.3). For success
    rates and gamma = 1 nothing is above it, and the gap is 1 - mean.
    """
    def gap(sample: Sequence[Values]) -> Values:
        return mean_of_tasks([np.maximum(gamma - task, 0.0) for task in sample])

    return gap


def pooled_median(sample: Sequence[Values]) -> Values:
    """Median of all tasks' runs together, [..., seeds] each -> [...]; infinity (a run that never did) is a value."""
    return np.asarray(np.median(np.concatenate(list(sample), axis=-1), axis=-1))


def _resample(rng: np.random.Generator, tasks: Sequence[Values], repetitions: int) -> Iterator[list[Values]]:
    """Draw runs with replacement within each task: [seeds, features] each -> blocks [block, features, seeds] each."""
    indices = [rng.integers(0, task.shape[0], size=(repetitions, task.shape[0])) for task in tasks]
    block = max(1, _BLOCK_BYTES // (8 * sum(task.size for task in tasks)))
    for start in range(0, repetitions, block):
        yield [np.moveaxis(task[index[start:start + block]], 1, -1)
               for task, index in zip(tasks, indices, strict=True)]


def check_runs(tasks: Sequence[ArrayLike], repetitions: int, *, censored: bool = False) -> list[Values]:
    """What a bootstrap resamples: per task an array [seeds, features] of numbers.

    Args:
        censored: whether infinity is a value ("never").

    Raises:
        UsageError: a task without seeds, tasks of different features, a value that is not finite, no repetition.
    """
    arrays = [np.asarray(task, dtype=np.float64) for task in tasks]
    if not arrays or any(a.ndim != 2 or a.shape[0] == 0 or a.shape[1] != arrays[0].shape[1] for a in arrays):
        raise UsageError("every task needs at least one seed, and all the same points")
    if any(np.isnan(a).any() or not (censored or np.isfinite(a).all()) for a in arrays):
        raise UsageError("a seed's value is not finite; missing seeds must be left out, not filled in")
    if repetitions < 1:
        raise UsageError(f"{repetitions} repetitions of the bootstrap", hint="10000 is usual")
    return arrays


def percentile_bounds(draws: Values, confidence: float) -> tuple[Values, Values]:
    """Percentile interval of draws [repetitions, ...] -> (low, high), each [...].

    Between two draws it interpolates; with infinities among them it takes the outer draw, as nothing lies between a
    number and infinity.
    """
    tail = 50.0 * (1.0 - confidence)
    if np.isfinite(draws).all():
        low, high = np.percentile(draws, [tail, 100.0 - tail], axis=0)
        return low, high
    return (np.asarray(np.percentile(draws, tail, axis=0, method="lower")),
            np.asarray(np.percentile(draws, 100.0 - tail, axis=0, method="higher")))


def bootstrap_many(tasks: Sequence[ArrayLike], statistics: Mapping[str, Statistic], *,
                   confidence: float = CONFIDENCE, repetitions: int = REPETITIONS, seed: int = 0,
                   censored: bool = False) -> dict[str, Band]:
    """Stratified percentile bootstrap of several statistics of the same resampled runs.

    Args:
        tasks: per task an array [seeds, features]. A run is drawn with all its features (points of its curve, area
            under it, ...), so that every statistic sees the same runs.
        statistics: from [..., features, seeds] per task to any shape [...] of its own.
        censored: whether infinity is a value ("never").

    Returns:
        Per statistic (value, low, high). The same input and seed give the same bytes.

    Raises:
        UsageError: see :func:`check_runs`.
    """
    _check_confidence(confidence)
    arrays = check_runs(tasks, repetitions, censored=censored)
    rng = np.random.default_rng(seed)
    draws: dict[str, list[Values]] = {name: [] for name in statistics}
    for start in range(0, repetitions, _CHUNK):
        for sample in _resample(rng, arrays, min(_CHUNK, repetitions - start)):
            for name, statistic in statistics.items():
                draws[name].append(statistic(sample))
    whole = [array.T for array in arrays]
    return {name: (statistic(whole), *percentile_bounds(np.concatenate(draws[name]), confidence))
            for name, statistic in statistics.items()}


def bootstrap_curve(tasks: Sequence[ArrayLike], *, statistic: Statistic = mean_of_tasks,
                    confidence: float = CONFIDENCE, repetitions: int = REPETITIONS,
                    seed: int = 0) -> Band:
    """Stratified percentile bootstrap of a statistic over whole curves.

    Args:
        tasks: per task an array [seeds, points]. A run is drawn with all its points, so that the band is right for
            functionals of the curve too.

    Returns:
        (value, low, high), each [points]. The same input and seed give the same bytes.

    Raises:
        UsageError: see :func:`check_runs`.
    """
    return bootstrap_many(tasks, {"": statistic}, confidence=confidence, repetitions=repetitions, seed=seed)[""]


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
