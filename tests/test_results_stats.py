"""Statistics against independent computations, and properties that must hold for any input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pvdr_bench.errors import UsageError
from pvdr_bench.results.stats import (
    Interval,
    bootstrap_curve,
    clear_winner,
    iqm,
    mean_of_tasks,
    stratified_bootstrap,
    t_interval,
)

rate = st.floats(0.0, 1.0, allow_nan=False)
rates = st.lists(rate, min_size=2, max_size=12)


@pytest.mark.parametrize("values", [[0.2, 0.5, 0.9], [0.0, 1.0, 1.0, 0.3, 0.6], [10.0, -3.0, 4.0, 4.5]])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_t_interval_equals_scipy(values: list[float], confidence: float) -> None:
    interval = t_interval(values, confidence=confidence, bounds=None)
    low, high = scipy.stats.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
    assert interval.value == pytest.approx(np.mean(values)) and interval.n == len(values)


def test_t_interval_by_hand() -> None:
    # mean 0.5, standard deviation 0.1, t(0.975, 2) = 4.302653 from a printed table
    interval = t_interval([0.4, 0.5, 0.6])
    assert interval.high == pytest.approx(0.5 + 4.302653 * 0.1 / 3**0.5, abs=1e-6)
    assert interval.low == pytest.approx(0.5 - 4.302653 * 0.1 / 3**0.5, abs=1e-6)


def test_too_few_seeds_have_no_interval() -> None:
    assert t_interval([0.3]) == Interval(0.3, None, None, 1, "t")
    empty = t_interval([])
    assert np.isnan(empty.value) and empty.n == 0 and not empty.known
    assert stratified_bootstrap([[0.1, 0.4], [0.5]]).low is None


@settings(deadline=None)
@given(rates)
def test_t_interval_contains_its_mean_and_stays_in_bounds(values: list[float]) -> None:
    interval = t_interval(values)
    assert interval.low is not None and interval.high is not None
    assert 0.0 <= interval.low <= interval.value <= interval.high <= 1.0


@settings(deadline=None)
@given(rates, st.randoms())
def test_t_interval_does_not_depend_on_the_order_of_seeds(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = t_interval(values), t_interval(shuffled)
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high), abs=1e-12)


@settings(deadline=None)
@given(rates)
def test_more_confidence_is_a_wider_interval(values: list[float]) -> None:
    narrow, wide = t_interval(values, confidence=0.8, bounds=None), t_interval(values, confidence=0.99, bounds=None)
    assert wide.low <= narrow.low and wide.high >= narrow.high  # type: ignore[operator]


@settings(deadline=None)
@given(rate, st.integers(2, 9))
def test_equal_seeds_have_zero_width(value: float, n: int) -> None:
    interval = t_interval([value] * n)
    assert interval.high - interval.low <= 1e-12  # type: ignore[operator]


@pytest.mark.parametrize("bad", [[0.1, float("nan")], [float("inf")]])
def test_values_that_are_not_finite_are_refused(bad: list[float]) -> None:
    with pytest.raises(UsageError, match="not finite"):
        t_interval(bad)
    with pytest.raises(UsageError, match="not finite"):
        stratified_bootstrap([bad])


def test_confidence_outside_its_range_is_refused() -> None:
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(UsageError, match="confidence"):
            t_interval([0.1, 0.2], confidence=confidence)


@settings(deadline=None)
@given(st.lists(st.lists(rate, min_size=1, max_size=7), min_size=1, max_size=4))
def test_iqm_equals_scipys_trimmed_mean(tasks: list[list[float]]) -> None:
    pooled = np.concatenate(tasks)
    value = float(iqm([np.array(task) for task in tasks]))
    assert value == pytest.approx(scipy.stats.trim_mean(pooled, 0.25), abs=1e-12)


def test_every_task_weighs_the_same() -> None:
    assert float(mean_of_tasks([np.array([1.0]), np.array([0.0, 0.0, 0.0])])) == 0.5


def test_bootstrap_equals_enumeration() -> None:
    """Two tasks with two and three seeds: all 4 x 27 resamples, weighted equally, have the exact percentiles."""
    first, second = [0.0, 1.0], [0.1, 0.2, 0.6]
    means = [(np.mean(a) + np.mean(b)) / 2
             for a in itertools.product(first, repeat=2) for b in itertools.product(second, repeat=3)]
    interval = stratified_bootstrap([first, second], repetitions=40_000, seed=3)
    assert interval.value == pytest.approx((0.5 + 0.3) / 2)
    assert interval.low == pytest.approx(np.percentile(means, 2.5), abs=0.02)
    assert interval.high == pytest.approx(np.percentile(means, 97.5), abs=0.02)
    assert interval.n == 5


def test_bootstrap_of_one_task_equals_scipys() -> None:
    values = np.random.default_rng(0).random(12)
    ours = stratified_bootstrap([values], repetitions=20_000, seed=1)
    result = scipy.stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2)
    theirs = result.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


@settings(max_examples=25, deadline=None)
@given(st.lists(rates, min_size=1, max_size=4), st.integers(0, 2**31))
def test_bootstrap_is_seeded_and_bounded_by_the_data(tasks: list[list[float]], seed: int) -> None:
    np.random.seed(seed % 1000)  # the global generator must not matter
    first = stratified_bootstrap(tasks, repetitions=200, seed=seed)
    np.random.seed(7)
    assert first == stratified_bootstrap(tasks, repetitions=200, seed=seed)
    low, high = np.mean([min(task) for task in tasks]), np.mean([max(task) for task in tasks])
    assert low - 1e-12 <= first.low <= first.high <= high + 1e-12  # type: ignore[operator]


def test_curves_are_resampled_as_whole_runs() -> None:
    """Two points that mirror each other: their mean over the curve is 0.5 in every resample, so no band."""
    runs = np.array([[0.1, 0.9], [0.4, 0.6], [0.8, 0.2]])

    def mean_over_curve(sample: object) -> np.ndarray:
        curve = mean_of_tasks(sample)  # type: ignore[arg-type]
        return np.repeat(curve.mean(axis=-1, keepdims=True), 2, axis=-1) if curve.ndim else curve

    value, low, high = bootstrap_curve([runs], statistic=mean_over_curve, repetitions=300)
    assert np.allclose([value, low, high], 0.5)
    _, low, high = bootstrap_curve([runs], repetitions=300)
    assert (high - low > 0.1).all()
    with pytest.raises(UsageError, match="same points"):
        bootstrap_curve([runs, runs[:, :1]])


def test_chunks_of_repetitions_are_all_used() -> None:
    with pytest.raises(UsageError, match="repetitions"):
        stratified_bootstrap([[0.1, 0.2]], repetitions=0)
    few, many = (stratified_bootstrap([[0.0, 1.0]], repetitions=n, seed=5) for n in (999, 2001))
    assert few.low == many.low == 0.0 and few.high == many.high == 1.0


def test_coverage_of_the_t_interval_at_five_seeds() -> None:
    """The interval must cover the truth about 95 times in 100, where each seed has its own success rate."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        values = rng.binomial(10, rng.beta(5.0, 5.0, size=5)) / 10
        interval = t_interval(values)
        hits += interval.low <= 0.5 <= interval.high  # type: ignore[operator]
    assert 0.92 <= hits / 1000 <= 0.98


def test_only_a_clear_winner_wins() -> None:
    high, low = Interval(0.9, 0.8, 1.0, 5, "t"), Interval(0.3, 0.2, 0.5, 5, "t")
    touching = Interval(0.7, 0.5, 0.85, 5, "t")
    unknown = Interval(0.1, None, None, 1, "t")
    assert clear_winner([low, high]) == 1
    assert clear_winner([low, high, touching]) is None
    assert clear_winner([high, unknown]) is None
    assert clear_winner([high]) is None and clear_winner([]) is None
