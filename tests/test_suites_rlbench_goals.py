"""RLBench's demonstrations: the goal image is of the instance that is played, kept once, and its errors are told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.errors import DataError, SimulatorError, TrainingError, UsageError
from pvdr_bench.suites import make_env
from pvdr_bench.suites.rlbench.env import SAME, RLBenchEnv
from pvdr_bench.suites.rlbench.goals import Goal, goal_file, keep_goal
from pvdr_bench.suites.rlbench.simulator import Simulator
from tests.rlbench_here import CONFIG, DOWN, envs, pixels


@pytest.mark.parametrize("frozen", [True, False])
def test_a_goal_is_of_the_instance_that_is_played(faked: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool) -> None:
    """A plan that fails makes RLBench draw another instance, and plan for that one."""
    config = dataclasses.replace(CONFIG, env_id="reach_target", frozen_instance=frozen)

    def goal(folder: str, bad_plans: int) -> np.ndarray:
        monkeypatch.setenv("PVDR_BENCH_DATA", str(faked / folder))
        monkeypatch.setenv("FAKE_RLBENCH_BAD_PLANS", str(bad_plans))
        env = make_env(config)
        env.reset(4)
        return env.goal_image()

    right = goal("right", 0)
    assert pixels(goal("second", 1), right) < 0.5 and pixels(goal("third", 2), right) < 0.5
    assert pixels(goal("tenth", 9), right) < 0.5
    with pytest.raises(TrainingError, match="no demonstration of this instance of reach_target: 10 of them"):
        goal("never", 10)
    assert not list((faked / "never").rglob("*.npz"))


def test_a_demonstration_may_begin_in_a_scene_that_has_settled(faked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins a step of simulation after a reset's picture; of another draw that would not be told from its place."""
    config = dataclasses.replace(CONFIG, env_id="reach_target", frozen_instance=False, options={"render_size": 256})

    def goal() -> np.ndarray:
        env = make_env(config)
        env.reset(4)
        return env.goal_image()

    right = goal()
    monkeypatch.setenv("FAKE_RLBENCH_SETTLES", "0.006")
    assert pixels(goal(), right) < 0.5, "not at another place"
    monkeypatch.setattr("pvdr_bench.suites.rlbench.env.SETTLED", SAME)
    with pytest.raises(TrainingError, match="no demonstration of this instance"):
        goal()


def test_a_goal_of_a_task_that_does_not_hold_still_is_refused(faked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(dataclasses.replace(CONFIG, env_id="reach_target", frozen_instance=False))
    env.reset(4)
    monkeypatch.setenv("FAKE_RLBENCH_WANDERS", "0.2")
    monkeypatch.setattr("pvdr_bench.suites.rlbench.env.PLANS", 3)
    with pytest.raises(TrainingError, match="no demonstration of this instance of reach_target"):
        env.goal_image()


def test_a_demonstration_tells_what_went_wrong(faked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = Simulator("lamp_on", "end_effector", 64, "opengl3", 0, True)
    with monkeypatch.context() as patch:
        patch.setenv("FAKE_RLBENCH_UNPLACED", "1")
        with pytest.raises(TrainingError, match="cannot place the objects of lamp_on") as caught:
            simulator.demonstrate(0)
        assert not isinstance(caught.value, SimulatorError)
    monkeypatch.setenv("FAKE_RLBENCH_DIES", "demo:0:raise")
    with pytest.raises(SimulatorError, match="cannot be demonstrated: RuntimeError: The call failed on the V-REP side"):
        simulator.demonstrate(0)


def test_after_a_demonstration_that_was_not_found_the_simulator_is_another(
        faked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed one leaves the arm controlled as the planner wants it: actions of the next episode would do nothing."""
    with envs() as playing:
        first = playing.reset([0])
        playing.step(DOWN[None])
        moved = playing.step(DOWN[None]).image
        playing.reset([0])
        monkeypatch.setenv("FAKE_RLBENCH_NO_DEMO", "1")
        playing._workers[0].kill()  # its environment is of its start: the next one has the variable
        with pytest.raises(TrainingError, match="no demonstration of lamp_on"):
            playing.goal_image()
        np.testing.assert_array_equal(playing.reset([0]), first)
        playing.step(DOWN[None])
        np.testing.assert_array_equal(playing.step(DOWN[None]).image, moved)
        assert "a demonstration failed in it" in playing.incidents[-1]["error"]


@pytest.mark.parametrize(("variable", "words"), [
    ("FAKE_RLBENCH_UNPLACED", "cannot place the objects of lamp_on"),
    ("FAKE_RLBENCH_NO_DEMO", "no demonstration of lamp_on")])
def test_what_rlbench_cannot_do_is_told_and_is_no_dead_simulator(
        faked: Path, monkeypatch: pytest.MonkeyPatch, variable: str, words: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(TrainingError, match=words) as caught:
        make_env(CONFIG).goal_image()
    assert not isinstance(caught.value, SimulatorError)


def test_a_goal_has_a_hash_and_a_damaged_one_is_refused(faked: Path) -> None:
    env = make_env(CONFIG)
    assert isinstance(env, RLBenchEnv)
    env.reset(0)
    env.step(DOWN)
    with pytest.raises(UsageError, match="at the start of an episode"):
        env.goal_image()
    env.reset(0)
    goal = env.goal_image()
    path = goal_file(env._key())
    with np.load(path, allow_pickle=False) as file:
        kept = dict(file)
    assert json.loads(str(kept["about"]))["key"]["task"] == "lamp_on"
    np.testing.assert_array_equal(kept["image"], goal)
    kept["image"] = kept["image"] ^ 1
    np.savez(path, **kept)
    with pytest.raises(DataError, match="does not fit its hash"):
        make_env(CONFIG)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="cannot be read"):
        make_env(CONFIG)


def test_of_two_goals_made_at_once_both_have_the_first(faked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = {"task": "lamp_on", "size": 8}
    mine, theirs = (Goal(*np.full((2, 8, 8, 3), level, np.uint8)) for level in (1, 2))
    real, others = np.savez_compressed, []

    def meanwhile(*args: object, **arrays: np.ndarray) -> None:
        if not others:  # somebody else comes between the look and the writing
            others.append(None)
            others[0] = keep_goal(key, theirs)
        real(*args, **arrays)

    monkeypatch.setattr(np, "savez_compressed", meanwhile)
    kept = keep_goal(key, mine)
    assert others[0] is theirs and kept.hash == theirs.hash != mine.hash
    np.testing.assert_array_equal(kept.image, theirs.image)
    assert keep_goal(key, mine).hash == theirs.hash, "nor later"
    assert [path.name for path in goal_file(key).parent.iterdir()] == [goal_file(key).name], "nothing is left over"
