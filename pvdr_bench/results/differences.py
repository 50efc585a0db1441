"""The difference between two sides of scores by task: its interval, and a named test.

One task: paired t, or Welch's. Several: the mean of the tasks' differences with a t interval whose variance is the sum
of the tasks' own (tasks are strata, never resampled), degrees of freedom after Welch and Satterthwaite (1946); per task
the p values are corrected after Holm (1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pvdr_bench.results.stats import CONFIDENCE, Interval, Values, stratified_bootstrap


@dataclass(frozen=True)
class Verdict:
    """A two-sided test of no difference.

    Attributes:
        name: ``paired t``, ``Welch t`` or, over several tasks, ``stratified paired t`` or ``stratified Welch t``.
        statistic, df, p: NaN where the differences do not vary, as nothing is tested then.
        p_holm: corrected over the tasks of the comparison; NaN over tasks.
    """

    name: str
    statistic: float
    df: float
    p: float
    p_holm: float = float("nan")


def stratified_t(a: Sequence[ArrayLike], b: Sequence[ArrayLike], *, paired: bool = True,
                 confidence: float = CONFIDENCE, bounds: tuple[float, float] | None = (-1.0, 1.0),
                 ) -> tuple[Interval, Verdict]:
    """Mean over tasks of mean(A) - mean(B), with its t interval and the test of no difference.

    The variance is the sum of the strata's variances of a mean, the degrees of freedom are Welch's and
    Satterthwaite's. With one task it is the usual paired or Welch t test.

    Args:
        a, b: per task the scores of the seeds [seeds]; paired ones in the same order.
        bounds: what the interval is clipped to; None: not clipped.

    Returns:
        An interval without bounds where a task has fewer than two pairs (or seeds), and zero width with a test of NaN
        where no stratum varies: then nothing says how far seeds spread.
    """
    sides = [(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)) for x, y in zip(a, b, strict=True)]
    strata: list[Values] = [x - y for x, y in sides] if paired else [side for pair in sides for side in pair]
    name = ("stratified " if len(sides) > 1 else "") + ("paired t" if paired else "Welch t")
    effect = float(np.mean([x.mean() - y.mean() for x, y in sides]))
    n = sum(one.size for one in strata)
    if min(one.size for one in strata) < 2:
        return Interval(effect, None, None, n, name), Verdict(name, float("nan"), float("nan"), float("nan"))
    unit = max(float(np.abs(side).max()) for pair in sides for side in pair)
    variances = np.array([_variance(one, unit) for one in strata]) / len(sides) ** 2
    error = float(np.sqrt(variances.sum()))
    if error == 0.0:
        return Interval(effect, effect, effect, n, name), Verdict(name, float("nan"), float("nan"), float("nan"))
    from scipy.stats import t  # half a second to import

    shares = variances / variances.max()  # their squares cannot underflow, whatever the unit of the scores
    df = float(shares.sum() ** 2 / (shares ** 2 / [one.size - 1 for one in strata]).sum())
    half = float(t.ppf(0.5 + confidence / 2.0, df)) * error
    low, high = effect - half, effect + half
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return (Interval(effect, min(low, effect), max(high, effect), n, name),
            Verdict(name, effect / error, df, float(2.0 * t.sf(abs(effect) / error, df))))


def _variance(values: Values, unit: float) -> float:
    """Variance of the mean; zero where values of this size are equal up to rounding (0.9 - 0.8 and 0.5 - 0.4)."""
    return 0.0 if np.ptp(values) <= 1e-12 * unit else float(values.var(ddof=1)) / values.size


def holm(p_values: ArrayLike) -> Values:
    """Holm's step-down correction (1979): adjusted p values, [tests] -> [tests], in the given order.

    A NaN (nothing was tested) counts as a test that found nothing, which can only raise the others, and stays NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(np.where(np.isnan(p), np.inf, p), kind="stable")
    steps = np.where(np.isnan(p), 1.0, p)[order] * np.arange(p.size, 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return np.where(np.isnan(p), np.nan, adjusted)


def bootstrap_difference(a: Sequence[Values], b: Sequence[Values], paired: bool, options: dict[str, Any]) -> Interval:
    """The mean difference with its stratified bootstrap interval; pairs are drawn as pairs."""
    if paired:
        return stratified_bootstrap([x - y for x, y in zip(a, b, strict=True)], **options)
    strata = [array for x, y in zip(a, b, strict=True) for array in (x, y)]

    def difference(sample: Sequence[Values]) -> Values:
        return np.asarray(np.mean([x.mean(axis=-1) - y.mean(axis=-1)
                                   for x, y in zip(sample[::2], sample[1::2], strict=True)], axis=0))

    return stratified_bootstrap(strata, statistic=difference, **options)
