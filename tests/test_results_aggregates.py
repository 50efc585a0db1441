"""Profile, probability of improvement, area and steps: against loops, enumeration, scipy, and rliable where it is."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pvdr_bench.errors import UsageError
from pvdr_bench.results.aggregates import (
    aggregates_of,
    area_under_curve,
    performance_profile,
    probability_of_improvement,
    run_curves,
    scores_at,
    steps_to_threshold,
)
from pvdr_bench.results.collect import Results, collect
from pvdr_bench.results.series import Row, rows_of
from pvdr_bench.results.stats import iqm, mean_of_tasks, optimality_gap, stratified_bootstrap
from tests.results_runs import make_grid, make_run

tenths = st.lists(st.integers(0, 10).map(lambda n: n / 10), min_size=1, max_size=6)


@settings(deadline=None)
@given(st.lists(tenths, min_size=1, max_size=4))
def test_profile_equals_a_loop(runs: list[list[float]]) -> None:
    taus = [0.0, 0.25, 0.5, 1.0]
    profile = performance_profile(runs, taus, repetitions=10)
    assert profile.share == pytest.approx([np.mean([sum(v > tau for v in one) / len(one) for one in runs])
                                           for tau in taus])
    assert (profile.low is None) == (min(map(len, runs)) < 2)


def test_profile_band_is_that_of_a_share() -> None:
    """One task: the number of resampled runs above tau is binomial, so the band is the binomial's quantiles."""
    values = np.linspace(0.0, 1.0, 20)
    profile = performance_profile([values], [0.31, 0.7], repetitions=20_000)
    assert profile.low is not None and profile.high is not None
    for index, share in enumerate(profile.share):
        low, high = scipy.stats.binom.ppf([0.025, 0.975], 20, share) / 20
        assert (profile.low[index], profile.high[index]) == pytest.approx((low, high), abs=0.051)


@settings(deadline=None)
@given(st.lists(st.tuples(tenths, tenths), min_size=1, max_size=4))
def test_probability_of_improvement_equals_mann_whitney(pairs: list[tuple[list[float], list[float]]]) -> None:
    expected = np.mean([scipy.stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in pairs])
    xs, ys = zip(*pairs, strict=True)
    found = probability_of_improvement(xs, ys, repetitions=5)
    assert found.value == pytest.approx(expected, abs=1e-12) and found.n == sum(map(len, xs)) + sum(map(len, ys))
    assert found.value == pytest.approx(1.0 - probability_of_improvement(ys, xs, repetitions=5).value, abs=1e-12)


def test_probability_of_improvement_interval_equals_enumeration() -> None:
    """All 27 x 27 resamples of three runs each; ties count half."""
    x, y = [0.2, 0.5, 0.9], [0.1, 0.5, 0.6]
    exact = [np.mean([(a > b) + 0.5 * (a == b) for a in one for b in two])
             for one in itertools.product(x, repeat=3) for two in itertools.product(y, repeat=3)]
    found = probability_of_improvement([x], [y], repetitions=50_000, confidence=0.8)
    low, high = np.percentile(exact, [10, 90])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06)
    assert np.percentile(exact, 5) <= found.low <= np.percentile(exact, 15)  # type: ignore[operator]
    with pytest.raises(UsageError, match="same tasks"):
        probability_of_improvement([x], [y, y])
    with pytest.raises(UsageError, match="no task"):
        probability_of_improvement([], [])


def test_area_by_hand_and_by_scipy() -> None:
    # (0 + 1)/2 * 10 + (1 + 0.5)/2 * 30 = 5 + 22.5 over 40
    assert float(area_under_curve([0, 10, 40], [0.0, 1.0, 0.5])) == pytest.approx(27.5 / 40)
    rng = np.random.default_rng(0)
    x, y = np.cumsum(rng.integers(1, 9, 12)), rng.random((5, 12))
    by_quadrature = [scipy.integrate.quad(lambda s, row=row: np.interp(s, x, row), x[0], x[-1], points=x[1:-1])[0]
                     for row in y]
    assert area_under_curve(x, y) == pytest.approx(np.array(by_quadrature) / (x[-1] - x[0]), abs=1e-9)
    for bad in ([3], [3, 3], [4, 2]):
        with pytest.raises(UsageError, match="ascending"):
            area_under_curve(bad, np.zeros(len(bad)))


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=5), st.floats(0, 1))
def test_steps_to_threshold_equal_a_loop(curves: list[list[float]], threshold: float) -> None:
    steps = [10, 20, 40, 80]
    expected = [next((x for x, y in zip(steps, curve, strict=True) if y >= threshold), np.inf) for curve in curves]
    assert list(steps_to_threshold(steps, curves, threshold)) == expected


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("grid")
    make_grid(root, seeds=4, tasks=("reach", "plate-slide"))
    make_run(root, [0.1] * 5, variant="ppo", seed=9, title="PPO", done=False)  # still running: in no final number
    return collect(root)


def row_of(results: Results, variant: str, corpus: str) -> Row:
    (row,) = (row for row in rows_of(results) if (row.variant, row.corpus) == (variant, corpus))
    return row


def test_curves_are_those_of_the_final_seeds(results: Results) -> None:
    row = row_of(results, "ppo", "none")
    curves = run_curves(row, results.points, "reach")
    final = scores_at(row, results.points, "reach")
    assert curves.seeds == final.seeds == (0, 1, 2, 3) and list(curves.env_steps) == list(range(8000, 40001, 8000))
    assert (curves.values[:, -1] == final.values).all()  # of 100 episodes, not the grid's 20
    early = scores_at(row, results.points, "reach", env_steps=16000)
    assert early.seeds == (0, 1, 2, 3, 9) and set(early.episodes) == {20} and early.env_steps == 16000
    cut = run_curves(row, results.points, "reach", env_steps=16000)
    assert list(cut.env_steps) == [8000, 16000] and (cut.values[:, -1] == early.values).all()
    assert scores_at(row, results.points, "reach", env_steps=1).values.size == 0


def test_aggregates_equal_each_statistic_on_its_own(results: Results) -> None:
    row, tasks = row_of(results, "pvdr", "metaworld"), ["plate-slide", "reach"]
    found = aggregates_of(row, results.points, tasks, gamma=0.9, threshold=0.6, repetitions=400, seed=5)
    assert found is not None and found.gap and found.area and found.reached and found.steps
    finals = [scores_at(row, results.points, task).values for task in tasks]
    for one, statistic in ((found.mean, mean_of_tasks), (found.iqm, iqm), (found.gap, optimality_gap(0.9))):
        assert one == stratified_bootstrap(finals, statistic=statistic, repetitions=400, seed=5)
    curves = [run_curves(row, results.points, task) for task in tasks]
    areas = [area_under_curve(curve.env_steps, curve.values) for curve in curves]
    assert found.area == stratified_bootstrap(areas, repetitions=400, seed=5)
    steps = np.concatenate([steps_to_threshold(curve.env_steps, curve.values, 0.6) for curve in curves])
    assert found.steps.value == np.median(steps) and found.env_steps == (40000, 40000)
    assert found.reached.value == pytest.approx(np.isfinite(steps).mean())  # as many seeds in each task


def test_aggregates_do_not_depend_on_the_order_of_rows_and_say_never(results: Results) -> None:
    shuffled = results.points.sample(frac=1.0, random_state=0).reset_index(drop=True)
    row = row_of(results, "ppo", "none")
    first, second = (aggregates_of(row, points, ["reach", "plate-slide"], repetitions=100)
                     for points in (results.points, shuffled))
    assert first == second
    floor = aggregates_of(row_of(results, "random", "none"), results.points, ["reach"], repetitions=100)
    assert floor is not None and floor.steps is not None and floor.reached is not None
    assert (floor.steps.value, floor.steps.low, floor.steps.high) == (np.inf,) * 3 and floor.reached.value == 0.0
    assert aggregates_of(row, results.points, ["reach", "nowhere"]) is None
    returns = aggregates_of(row, results.points, ["reach"], "return", threshold=None, repetitions=10)
    assert returns is not None and returns.gap is None and returns.steps is None and returns.area is not None


def test_a_single_evaluation_has_no_area_and_a_single_seed_no_interval(tmp_path: Path) -> None:
    make_run(tmp_path, [0.4], env_steps=8000)
    results = collect(tmp_path)
    found = aggregates_of(rows_of(results)[0], results.points, ["reach"], repetitions=10)
    assert found is not None and found.area is None and found.mean.value == 0.4 and not found.mean.known


def test_point_estimates_equal_those_of_rliable() -> None:
    metrics = pytest.importorskip("rliable.metrics", reason="rliable is not installed (it needs pandas<3)")
    rng = np.random.default_rng(0)
    x, y = rng.random((7, 5)).round(1), rng.random((4, 5)).round(1)  # [runs, tasks]
    ours, theirs = list(x.T), list(y.T)
    assert float(mean_of_tasks(ours)) == pytest.approx(metrics.aggregate_mean(x))
    assert float(iqm(ours)) == pytest.approx(metrics.aggregate_iqm(x))
    for gamma in (1.0, 0.6):
        assert float(optimality_gap(gamma)(ours)) == pytest.approx(metrics.aggregate_optimality_gap(x, gamma))
    assert probability_of_improvement(ours, theirs, repetitions=5).value == pytest.approx(
        metrics.probability_of_improvement(x, y))


def test_profile_equals_that_of_rliable() -> None:
    try:
        from rliable import library
    except ImportError:
        pytest.skip("rliable is not installed (it needs pandas<3)")
    except TypeError as error:  # arch 7 and pandas 3: deprecate_kwarg() lost an argument
        pytest.skip(f"rliable is installed beside a pandas that it cannot use: {error}")
    scores, taus = np.random.default_rng(1).random((6, 4)).round(1), np.linspace(0.0, 1.0, 11)
    found = performance_profile(list(scores.T), taus, repetitions=5)
    assert found.share == pytest.approx([library.run_score_deviation(scores, tau) for tau in taus])
