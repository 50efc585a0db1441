"""``bench goals``: the summary against a loop, a seeing and a blind policy, the real command, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.algorithms.pvdr.probes import bootstrap_interval
from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.cli.main import main
from pvdr_bench.diagnostics import goals
from pvdr_bench.diagnostics.goals import summary
from pvdr_bench.errors import UsageError
from pvdr_bench.training.execute import execute
from pvdr_bench.training.stages import Stages

RNG = np.random.default_rng(0)
GOALS = RNG.uniform(-0.2, 0.2, (12, 3))


def way_to(places: np.ndarray) -> np.ndarray:
    """Straight paths [E, 40, 3] from the negative corner to places [E, 3], where they stay for a while."""
    part = np.minimum(np.linspace(0, 1.5, 40), 1)[:, None]
    return (1 - part) * -0.2 + part * places[:, None]


def test_the_summary_is_that_of_a_loop() -> None:
    paths = RNG.uniform(-0.2, 0.2, (12, 30, 3))
    near = [[any(np.sqrt(((hand - goal) ** 2).sum()) <= 0.1 for hand in path) for goal in GOALS] for path in paths]
    own = [near[k][k] for k in range(12)]
    other = [np.mean([near[k][j] for j in range(12) if j != k]) for k in range(12)]
    found = summary(paths, GOALS, 0.1)
    assert 0 < np.mean(own) < 1 and len(set(other)) > 2  # else nothing would have been compared
    assert found["reached_own"] == pytest.approx(np.mean(own))
    assert found["reached_other"] == pytest.approx(np.mean(other))
    assert found["own_minus_other"] == pytest.approx(np.mean(own) - np.mean(other))
    assert found["own_minus_other_low"] < found["own_minus_other"] < found["own_minus_other_high"]
    # of the other goals' mean, a goal's ease, and the mean of both: what is left of a path on its own goal
    ease = [np.mean([near[k][j] for k in range(12) if k != j]) for j in range(12)]
    left = [own[k] - other[k] - ease[k] + np.mean(ease) for k in range(12)]
    assert np.mean(left) == pytest.approx(found["own_minus_other"])
    assert (found["own_minus_other_low"], found["own_minus_other_high"]) == bootstrap_interval(np.array(left))
    last = paths[:, 27:].mean(1)
    assert [found[f"correlation_{axis}"] for axis in "xyz"] == pytest.approx(
        [np.corrcoef(last[:, k], GOALS[:, k])[0, 1] for k in range(3)])
    assert found["hand_std"] == pytest.approx(np.sqrt(np.mean(np.std(last, axis=0) ** 2)))


def test_a_policy_that_sees_its_goal_is_told_from_one_that_sweeps() -> None:
    way = np.linspace(0, 1, 40)[:, None]
    seeing = summary(way_to(GOALS), GOALS, 0.05)
    assert seeing["reached_own"] == 1 and seeing["own_minus_other_low"] > 0.3
    assert min(seeing[f"correlation_{axis}"] for axis in "xyz") > 0.99
    sweep = np.stack([way * 0.4 - 0.2, 0 * way, 0 * way], -1)[:, 0]
    blind = summary(np.repeat(sweep[None], 12, 0) + RNG.normal(0, 1e-3, (12, 1, 3)), GOALS, 0.15)
    assert blind["reached_own"] > 0.3 and blind["own_minus_other_low"] <= 0 <= blind["own_minus_other_high"]
    assert blind["hand_std"] < 0.02 * blind["goal_std"]


def test_the_interval_of_a_blind_policy_is_as_wide_as_its_difference_scatters() -> None:
    def draw(seed: int) -> dict[str, float | None]:
        rng = np.random.default_rng(seed)
        paths = way_to(np.zeros(3) + rng.normal(0, 0.008, (60, 3)))
        return summary(paths, rng.uniform(-0.1, 0.1, (60, 3)), 0.1)

    found = [draw(seed) for seed in range(60)]
    difference, low, high = (np.array([one[f"own_minus_other{end}"] for one in found]) for end in ("", "_low", "_high"))
    assert 0.8 < np.mean((high - low) / 2 / 1.96) / difference.std() < 1.3
    assert np.mean((low <= 0) & (high >= 0)) > 0.85


def test_an_axis_without_variation_has_no_correlation() -> None:
    flat = GOALS * [1, 1, 0]
    found = summary(way_to(GOALS), flat, 0.05)
    assert found["correlation_z"] is None and found["correlation_x"] == pytest.approx(1)
    assert json.loads(json.dumps(found))["correlation_z"] is None


def test_it_plays_a_run_and_agrees_with_its_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = load_catalog().resolve("scripted", "reach", 0, "smoke", "apv", overrides=["protocol.episode_steps=80"])
    assert execute(spec, tmp_path, Stages(spec).pieces, lambda: False)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "goals", "--json", "-o", f"run={spec.path(tmp_path)}", "-o", "episodes=3"])
    found = json.loads(capsys.readouterr().out)
    assert not ended.value.code and found["episodes"] == 3 and found["env_steps"] == 320
    assert found["goal_std"] > 0.02 and found["hand_std"] > 0
    assert found["success"] == found["reached_own"] > 0


def test_what_it_cannot_look_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="looks at a run"):
        goals.measure()
    with pytest.raises(UsageError, match="two or more"):
        goals.measure("somewhere", episodes=1)
    spec = load_catalog().resolve("random", "reach", 0, "smoke")
    assert execute(spec, tmp_path, Stages(spec).pieces, lambda: False)
    with pytest.raises(UsageError, match="one goal in all episodes"):
        goals.measure(str(spec.path(tmp_path)), episodes=2)
