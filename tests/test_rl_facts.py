"""What a learner is told of its task: spaces, goal, reward and budget, the same in the loop as in the protocol."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pvdr_bench.rl.contract import Learner, LearnerContext, TaskFacts
from pvdr_bench.suites.spaces import BoxSpace, ImageSpace
from pvdr_bench.training.execute import execute
from tests.dummies import ENVS, IMAGE, REPEAT, SYNC, make_envs, make_pieces, make_spec


def told(tmp_path: Path, **changes: Any) -> TaskFacts:
    """The facts that the loop gives to the learner of a run."""
    spec, seen = make_spec(**changes), []
    pieces = make_pieces(spec)

    def make_learner(context: LearnerContext) -> Learner:
        seen.append(context.task)
        return pieces.make_learner(context)

    execute(spec, tmp_path, lambda: (dataclasses.replace(pieces, make_learner=make_learner), {}), lambda: False)
    (facts,) = seen
    return facts


def test_facts_are_those_of_environments_and_protocol(tmp_path: Path) -> None:
    facts = told(tmp_path)
    assert facts.observation == ImageSpace(IMAGE, IMAGE) and facts.action == BoxSpace(2, names=("right", "up"))
    assert (facts.action.low, facts.action.high) == (-1.0, 1.0)
    assert facts.num_envs == ENVS and facts.budget_decisions == 2 * SYNC // REPEAT
    assert facts.reward.success_bonus == 10.0 and facts.reward.ends_on_success
    assert facts.goal is not None
    envs = make_envs(make_spec().env_config(), 1)
    np.testing.assert_array_equal(facts.goal.start, envs.reset([0])[0])
    np.testing.assert_array_equal(facts.goal.image, envs.goal_image())
    envs.close()


@pytest.mark.parametrize("reward", ["dense", "goal_distance"])
def test_a_bonus_that_nobody_pays_is_none(reward: str, tmp_path: Path) -> None:
    facts = told(tmp_path, reward=reward, terminate_on_success=False)
    assert facts.reward.success_bonus == (10.0 if reward == "goal_distance" else 0.0)
    assert not facts.reward.ends_on_success


def test_episodes_with_goals_of_their_own_have_no_goal_image(tmp_path: Path) -> None:
    assert told(tmp_path, reward="dense", frozen_instance=False).goal is None


def test_facts_are_frozen_and_need_no_torch() -> None:
    facts = TaskFacts(ImageSpace(4, 4), BoxSpace(2), 1, budget_decisions=10)
    with pytest.raises(dataclasses.FrozenInstanceError):
        facts.num_envs = 2  # type: ignore[misc]
    program = "import sys, pvdr_bench.rl.facts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
