"""``bench goals``: the summary against a loop, a seeing and a blind policy, the real command, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.bench import goals
from pvdr_bench.bench.goals import summary
from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.cli.main import main
from pvdr_bench.errors import UsageError
from pvdr_bench.training.execute import execute
from pvdr_bench.training.stages import Stages

RNG = np.random.default_rng(0)
GOALS = RNG.uniform(-0.2, 0.2, (12, 3))


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
    last = paths[:, 27:].mean(1)
    assert [found[f"correlation_{axis}"] for axis in "xyz"] == pytest.approx(
        [np.corrcoef(last[:, k], GOALS[:, k])[0, 1] for k in range(3)])
    assert found["hand_std"] == pytest.approx(np.sqrt(np.mean(np.std(last, axis=0) ** 2)))


def test_a_policy_that_sees_its_goal_is_told_from_one_that_sweeps() -> None:
    way = np.linspace(0, 1, 40)[:, None]
    seeing = summary(way * GOALS[:, None], GOALS, 0.05)
    assert seeing["reached_own"] == 1 and seeing["own_minus_other_low"] > 0.3
    assert min(seeing[f"correlation_{axis}"] for axis in "xyz") > 0.99
    sweep = np.stack([way * 0.4 - 0.2, 0 * way, 0 * way], -1)[:, 0]
    blind = summary(np.repeat(sweep[None], 12, 0) + RNG.normal(0, 1e-3, (12, 1, 3)), GOALS, 0.15)
    assert blind["reached_own"] > 0.3 and blind["own_minus_other_low"] <= 0 <= blind["own_minus_other_high"]
    assert blind["hand_std"] < 0.02 * blind["goal_std"]


def test_it_plays_a_run_and_agrees_with_its_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = load_catalog().resolve("random", "reach", 0, "smoke", "apv")
    assert execute(spec, tmp_path, Stages(spec).pieces, lambda: False)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "goals", "--json", "-o", f"run={spec.path(tmp_path)}", "-o", "episodes=3"])
    found = json.loads(capsys.readouterr().out)
    assert not ended.value.code and found["episodes"] == 3 and found["env_steps"] == 320
    assert found["goal_std"] > 0.02 and found["hand_std"] > 0 and found["success"] == found["reached_own"]


def test_what_it_cannot_look_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="looks at a run"):
        goals.measure()
    with pytest.raises(UsageError, match="two or more"):
        goals.measure("somewhere", episodes=1)
    spec = load_catalog().resolve("random", "reach", 0, "smoke")
    assert execute(spec, tmp_path, Stages(spec).pieces, lambda: False)
    with pytest.raises(UsageError, match="one goal in all episodes"):
        goals.measure(str(spec.path(tmp_path)), episodes=2)
