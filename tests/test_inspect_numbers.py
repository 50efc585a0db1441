"""Numbers of ``inspect``: rank correlation, linear probe and baseline, CMYK; each against another computation."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr

from pvdr_bench.errors import SetupError
from pvdr_bench.inspection import numbers


def draw(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, *shape))


@pytest.mark.parametrize(("action", "color"), [
    ([-1, -1, -1, -1], [1, 1, 1]),  # no ink at all: white
    ([1, -1, -1, -1], [0, 1, 1]), ([-1, 1, -1, -1], [1, 0, 1]), ([-1, -1, 1, -1], [1, 1, 0]),  # cyan, magenta, yellow
    ([-1, -1, -1, 1], [0, 0, 0]), ([1, 1, 1, -1], [0, 0, 0]), ([1, 1, -1, -1], [0, 0, 1]),  # black, black, blue
    ([0, 0, 0, 0], [0.25, 0.25, 0.25]), ([0.5, -0.5, -1, -1], [0.25, 0.75, 1]),
    ([3, -3, -1, -1], [0, 1, 1]),  # beyond the box: cut
    ([1, -1, -1], [0, 1, 1]), ([1, -1], [0, 1, 1]), ([-1, -1, -1, 1, 1, 1, 1], [0, 0, 0]),  # fewer and more numbers
])
def test_an_action_is_taken_for_inks(action: list[float], color: list[float]) -> None:
    assert numbers.cmyk_to_rgb(np.array([action], np.float32))[0] == pytest.approx(color)


def test_the_rank_correlation_is_that_of_all_pairs_of_distances() -> None:
    z, action = draw(30, 5), draw(30, 2, seed=1)
    action[:, 0] += z[:, 0]
    pairs = list(itertools.combinations(range(30), 2))
    ours, theirs = ([float(np.sqrt(((x[i] - x[j]) ** 2).sum())) for i, j in pairs] for x in (z, action))
    assert numbers.rank_correlation(z, action) == pytest.approx(spearmanr(ours, theirs).statistic, abs=1e-12)
    assert numbers.rank_correlation(z, 3 * z) == pytest.approx(1)
    assert numbers.rank_correlation(z, np.zeros((30, 2))) is None


def test_a_linear_action_is_found_and_a_permuted_one_is_not() -> None:
    z = draw(400, 12)
    action = z @ draw(12, 4, seed=2) + 0.01 * draw(400, 4, seed=3)
    probe = numbers.linear_probe(z, action)
    assert probe.r2 is not None and probe.permuted is not None and probe.permuted_highest is not None
    assert probe.r2 > 0.999
    assert -0.2 < probe.permuted < 0.02 and probe.permuted <= probe.permuted_highest < 0.1


def test_what_is_not_linear_is_not_found() -> None:
    z = draw(400, 12)
    probe = numbers.linear_probe(z, np.abs(z[:, :2]))
    assert probe.r2 is not None and probe.r2 < 0.1
    nothing = numbers.linear_probe(z, np.full((400, 2), 0.3))
    assert nothing.r2 is None and nothing.permuted is None


@pytest.mark.parametrize(("n", "d", "each"), [(50, 7, 1), (30, 60, 1), (60, 30, 5)])
def test_a_fifth_is_predicted_by_ridge_regression_on_the_others_whose_penalty_leaves_groups_out(
        n: int, d: int, each: int) -> None:
    group = np.repeat(np.arange(n // each), each)
    z = draw(n // each, d, seed=1)[group] + draw(n, d)
    action = z[:, :3] + draw(n // each, 3, seed=4)[group]
    probe = numbers.linear_probe(z, action, seed=5, permutations=1, group=None if each == 1 else group)
    fold = (np.random.default_rng(5).permutation(n // each) % 5)[group]
    error = 0.0
    for one in range(5):
        fit, test = np.flatnonzero(fold != one), np.flatnonzero(fold == one)
        x = (z - z[fit].mean(0)) / z[fit].std(0)

        def guess(rows: np.ndarray, at: np.ndarray, penalty: float, x: np.ndarray = x,
                  count: int = len(fit)) -> np.ndarray:
            a, mean = x[rows] - x[rows].mean(0), action[rows].mean(0)
            weights = np.linalg.solve(a.T @ a + penalty * count * np.eye(d), a.T @ (action[rows] - mean))
            out: np.ndarray = (x[at] - x[rows].mean(0)) @ weights + mean
            return out

        parts = [(fit[group[fit] != name], fit[group[fit] == name]) for name in np.unique(group[fit])]
        left_out = {penalty: sum(float(((guess(rest, out, penalty) - action[out]) ** 2).sum()) for rest, out in parts)
                    for penalty in 10.0 ** np.arange(-4, 5)}
        best = min(left_out, key=left_out.__getitem__)
        error += float(((guess(fit, test, best) - action[test]) ** 2).sum())
    assert probe.r2 == pytest.approx(1 - error / ((action - action.mean(0)) ** 2).sum(), abs=1e-9)


def test_clips_of_one_episode_are_not_fitted_to_and_judged_on() -> None:
    episode = np.repeat(np.arange(40), 10)  # what z knows of an action is only which episode it is of
    z, action = (draw(40, 60, seed=1)[episode] + 0.1 * draw(400, 60), draw(40, 3, seed=2)[episode])
    leaking, apart = (numbers.linear_probe(z, action, 0, 2, each) for each in (None, episode))
    assert leaking.r2 is not None and leaking.r2 > 0.9
    assert apart.r2 is not None and apart.r2 < 0.2
    few = numbers.linear_probe(z[:90], action[:90], group=episode[:90])
    assert few.r2 is None and few.permuted is None
    found = numbers.linear_probe(z, z[:, :3], 0, 2, 100 - 2 * episode)  # names do not matter
    assert found.r2 is not None and found.r2 > 0.99


def test_the_same_seed_gives_the_same_numbers_and_the_same_plane() -> None:
    pytest.importorskip("sklearn")
    z = np.concatenate([draw(30, 6), draw(30, 6, seed=1) + 20])
    action = z[:, :4] / 30
    assert numbers.measured(z, action, 3) == numbers.measured(z, action, 3)
    plane = numbers.in_the_plane(z, 3)
    assert plane.shape == (60, 2) and np.array_equal(plane, numbers.in_the_plane(z, 3))
    away = np.linalg.norm(plane - plane[:30].mean(0), axis=1)
    assert away[:30].max() < away[30:].min()  # two heaps stay two heaps


def test_a_missing_library_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    monkeypatch.setitem(__import__("sys").modules, "sklearn.manifold", None)
    with pytest.raises(SetupError, match=r"t-SNE needs .*\n.*pvdr-bench\[inspect\]"):
        numbers.in_the_plane(draw(40, 3))


def test_cmyk_and_the_lines_of_numbers_do_not_depend_on_the_type() -> None:
    found = SimpleNamespace(a=np.float32, b=np.float64)
    colors = [numbers.cmyk_to_rgb(np.array([[0.2, -0.4, 0.1, 0.9]], kind)) for kind in (found.a, found.b)]
    assert colors[0] == pytest.approx(colors[1], abs=1e-6)
