"""Properties that hold for any runs: order, constants, more seeds, bounds, one sample for all statistics."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvdr_bench.errors import UsageError
from pvdr_bench.results import stats
from pvdr_bench.results.aggregates import performance_profile, probability_of_improvement
from pvdr_bench.results.differences import stratified_t
from pvdr_bench.results.stats import (
    bootstrap_curve,
    bootstrap_many,
    iqm,
    mean_of_tasks,
    optimality_gap,
    percentile_bounds,
    pooled_median,
    stratified_bootstrap,
    t_bounds,
    t_interval,
)

rate = st.floats(0.0, 1.0, allow_nan=False)
task = st.lists(rate, min_size=2, max_size=8)
tasks = st.lists(task, min_size=1, max_size=4)
POINTS = {"mean": mean_of_tasks, "iqm": iqm, "gap": optimality_gap(), "gap of 0.7": optimality_gap(0.7),
          "median": pooled_median}


def points_of(runs: list[list[float]]) -> dict[str, float]:
    return {name: float(statistic([np.array(one) for one in runs])) for name, statistic in POINTS.items()}


@settings(deadline=None)
@given(tasks, st.randoms())
def test_order_of_tasks_and_seeds_does_not_matter(runs: list[list[float]], chance: random.Random) -> None:
    shuffled = [chance.sample(one, len(one)) for one in chance.sample(runs, len(runs))]
    assert points_of(shuffled) == pytest.approx(points_of(runs), abs=1e-12)
    assert performance_profile(shuffled, repetitions=1).share == pytest.approx(
        performance_profile(runs, repetitions=1).share, abs=1e-12)
    other = [[value / 2 for value in one] for one in shuffled]
    assert probability_of_improvement(shuffled, other, repetitions=1).value == pytest.approx(
        probability_of_improvement(runs, [[value / 2 for value in one] for one in runs], repetitions=1).value)


def test_order_of_seeds_moves_a_bootstrap_interval_by_less_than_its_own_chance() -> None:
    rng = np.random.default_rng(0)
    moved, width = [], []
    for _ in range(20):
        values = rng.random(10)
        one, two = (stratified_bootstrap([order], repetitions=4000) for order in (values, rng.permutation(values)))
        moved += [abs(one.low - two.low), abs(one.high - two.high)]  # type: ignore[operator]
        width.append(one.high - one.low)  # type: ignore[operator]
    assert max(moved) < 0.06 * np.mean(width)


@settings(deadline=None, max_examples=40)
@given(rate, st.lists(st.integers(2, 7), min_size=1, max_size=4))
def test_constants_have_zero_width(value: float, sizes: list[int]) -> None:
    runs = [[value] * size for size in sizes]
    for statistic in POINTS.values():
        interval = stratified_bootstrap(runs, statistic=statistic, repetitions=50)
        assert interval.high - interval.low <= 1e-12  # type: ignore[operator]
    profile = performance_profile(runs, repetitions=50)
    assert profile.low is not None and profile.high is not None
    assert (profile.low == profile.high).all() and (profile.share == (value > profile.taus)).all()
    assert probability_of_improvement(runs, runs, repetitions=50).low == 0.5
    difference, test = stratified_t(runs, runs)
    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0) and np.isnan(test.p)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.5, 5.0), st.floats(0.5, 5.0), st.integers(3, 8), st.integers(0, 1000))
def test_more_seeds_never_widen_on_average(a: float, b: float, n: int, seed: int) -> None:
    values = np.random.default_rng(seed).beta(a, b, size=(400, 2 * n))
    for widths in (lambda v: np.subtract(*t_bounds(v, bounds=None)[:0:-1]),
                   lambda v: np.subtract(*bootstrap_curve([v.T], repetitions=200)[:0:-1])):
        assert widths(values[:, :n]).mean() > widths(values).mean() > 0.0


@settings(deadline=None, max_examples=40)
@given(tasks, st.integers(0, 1000))
def test_bounds_hold(runs: list[list[float]], seed: int) -> None:
    low, high = min(map(min, runs)), max(map(max, runs))
    for name in ("mean", "iqm", "median"):
        interval = stratified_bootstrap(runs, statistic=POINTS[name], repetitions=100, seed=seed)
        for bound in (interval.low, interval.value, interval.high):
            assert low - 1e-12 <= bound <= high + 1e-12  # type: ignore[operator]
    gap = stratified_bootstrap(runs, statistic=POINTS["gap"], repetitions=100, seed=seed)
    assert 1 - high - 1e-12 <= gap.low <= gap.high <= 1 - low + 1e-12  # type: ignore[operator]
    profile = performance_profile(runs, repetitions=100, seed=seed)
    assert profile.low is not None and profile.high is not None
    for share in (profile.low, profile.share, profile.high):
        assert (share >= 0.0).all() and (share <= 1.0).all() and (np.diff(share) <= 1e-12).all()
    other = [one[::-1] for one in runs]
    better = probability_of_improvement(runs, other, repetitions=100, seed=seed)
    assert 0.0 <= better.low <= better.high <= 1.0  # type: ignore[operator]
    difference, _ = stratified_t(runs, other)
    assert -1.0 <= difference.low <= difference.value <= difference.high <= 1.0  # type: ignore[operator]


@settings(deadline=None, max_examples=40)
@given(tasks)
def test_gap_of_rates_is_one_minus_the_mean_and_falls_with_gamma(runs: list[list[float]]) -> None:
    found = points_of(runs)
    assert found["gap"] == pytest.approx(1.0 - found["mean"], abs=1e-12)
    by_loop = np.mean([np.mean([max(0.7 - value, 0.0) for value in one]) for one in runs])
    assert found["gap of 0.7"] == pytest.approx(by_loop, abs=1e-12) and found["gap of 0.7"] <= found["gap"] + 1e-12


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(2, 9))
def test_many_t_intervals_equal_one_by_one(count: int, n: int) -> None:
    values = np.random.default_rng(count).random((count, n)).round(1)
    for index, (mean, low, high) in enumerate(zip(*t_bounds(values), strict=True)):
        one = t_interval(values[index])
        assert (one.value, one.low, one.high) == pytest.approx((mean, low, high), abs=1e-15)


def test_one_bootstrap_sample_serves_every_statistic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two statistics that add up to one in each resample keep mirrored bounds; and blocks change no byte."""
    runs = [np.random.default_rng(n).random((n, 3)) for n in (4, 6)]
    wanted = {"mean": mean_of_tasks, "rest": lambda sample: 1.0 - mean_of_tasks(sample)}
    found = bootstrap_many(runs, wanted, repetitions=1500, seed=3)
    assert found["mean"][1] == pytest.approx(1.0 - found["rest"][2], abs=1e-12)
    assert found["mean"][2] == pytest.approx(1.0 - found["rest"][1], abs=1e-12)
    alone = bootstrap_curve(runs, repetitions=1500, seed=3)
    sizes: list[int] = []

    def counted(sample: Any) -> Any:
        sizes.append(sum(one.nbytes for one in sample))
        return mean_of_tasks(sample)

    monkeypatch.setattr(stats, "_BLOCK_BYTES", 4096)
    small = bootstrap_many(runs, {"mean": counted}, repetitions=1500, seed=3)["mean"]
    assert max(sizes) <= 4096 and len(sizes) > 80
    assert all(one.tobytes() == two.tobytes() == three.tobytes()
               for one, two, three in zip(found["mean"], alone, small, strict=True))


def test_never_is_a_value_where_it_is_allowed() -> None:
    runs = [np.array([[1.0], [2.0], [np.inf]])]
    with pytest.raises(UsageError, match="not finite"):
        bootstrap_many(runs, {"median": pooled_median})
    with pytest.raises(UsageError, match="not finite"):
        bootstrap_many([np.array([[np.nan]])], {"median": pooled_median}, censored=True)
    value, low, high = bootstrap_many(runs, {"m": lambda sample: pooled_median(sample)}, censored=True)["m"]
    assert (value, low, high) == (2.0, 1.0, np.inf)  # the median is at 1 in 7 of 27 resamples, never in 7 of 27
    low, high = percentile_bounds(np.array([1.0, 2.0, 3.0, np.inf]), 0.5)
    assert (low, high) == (1.0, np.inf)  # the outer draws: no number lies between 3 and never
