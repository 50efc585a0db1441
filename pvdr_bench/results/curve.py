"""Learning curves as numbers: mean over seeds with an interval at every point. Figures and the report draw them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pvdr_bench.results.stats import CONFIDENCE, REPETITIONS, bootstrap_curve, t_interval

BAND_SEEDS = 3  # fewer make no band: with two, the t interval reaches nine standard deviations to each side


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
    def banded(self) -> NDArray[np.bool_]:
        """Points [points] whose interval is drawn as a band; the others' intervals stand in tables alone."""
        return np.isfinite(self.low) & (self.n >= BAND_SEEDS)

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
