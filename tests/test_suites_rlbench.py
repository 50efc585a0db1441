"""The adapter to RLBench: its contract against our own small fake, and against the real package where there is one."""

from __future__ import annotations

import dataclasses
import random
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.cli.describe import explain
from pvdr_bench.errors import SetupError, TrainingError
from pvdr_bench.launch.sbatch import script
from pvdr_bench.suites import make_env
from pvdr_bench.suites.base import Env
from pvdr_bench.suites.rlbench.env import SAME, difference
from pvdr_bench.suites.rlbench.info import RLBENCH
from pvdr_bench.suites.rlbench.simulator import Simulator
from tests.rlbench_here import CONFIG, DOWN, UP, envs, pixels

# What holds for the real package as well ----------------------------------------


@pytest.fixture(params=["fake", "real"])
def rlbench(request: pytest.FixtureRequest) -> str:
    """Our fake, or the user's RLBench, skipped where there is none; which of them it is."""
    if request.param == "fake":
        request.getfixturevalue("faked")
        return "fake"
    if found := RLBENCH.problems():
        pytest.skip("no RLBench here: " + "; ".join(problem.message for problem in found))
    request.getfixturevalue("tmp_path")
    return "real"


@pytest.mark.parametrize("mode", ["end_effector", "joint_position", "joint_velocity"])
def test_an_episode_in_each_action_mode(rlbench: str, mode: str) -> None:
    down = DOWN if mode == "end_effector" else np.array([0, 0, -1, 0, 0, 0, 0, -1], np.float32)
    with envs(dataclasses.replace(CONFIG, options={**CONFIG.options, "action_mode": mode})) as playing:
        assert playing.action_space.dim == (4 if mode == "end_effector" else 8) and len(playing.worker_pids) == 1
        first = playing.reset([0])
        assert first.shape == (1, 32, 32, 3) and first.dtype == np.uint8 and first.std() > 5
        steps = [playing.step(down[None]) for _ in range(20)]
        assert [bool(step.truncated[0]) for step in steps] == [False] * 19 + [True]
        assert all(step.env_steps[0] == 2 and not step.terminated[0] for step in steps)
        assert set(steps[0].truth) == set(RLBENCH.truth)
        moved = pixels(steps[8].image, first)
        assert pixels(steps[-1].image, first) < min(2, moved / 2), "the frozen instance again, after a hand that moved"


def test_frozen_poses_come_back_and_goals_are_the_same_for_all(rlbench: str) -> None:
    with envs() as one:
        first = one.reset([0])
        goal = one.goal_image()
        assert pixels(goal, first[0]) > 0.5, "the arm is elsewhere"
        one.step(DOWN[None])
        assert pixels(one.reset([7]), first) < 2
        np.testing.assert_array_equal(one.goal_image(), goal)
    with envs() as two:
        two.reset([1])
        np.testing.assert_array_equal(two.goal_image(), goal, "from the file, not planned anew")
        assert pixels(two.reset([1]), first) < 2
        while not (step := two.step(DOWN[None])).success[0] and not step.truncated[0]:
            pass
        assert step.success[0] or rlbench == "real", "straight down leads to the lamp's button in the fake"
        if step.success[0]:
            assert pixels(step.final_image, goal) < pixels(first, goal)


def test_an_action_that_cannot_be_done_ends_its_step_and_not_the_run(rlbench: str) -> None:
    with envs() as playing:
        playing.reset([0])
        steps = [playing.step(UP[None]) for _ in range(19)]
        assert not any(step.success.any() or step.truncated.any() or step.dense_reward.any() for step in steps)
        assert all(step.env_steps[0] == 2 for step in steps), "they count"
        refused = [i for i in range(1, 19) if steps[i].truth["invalid_actions"][0] == 2]
        assert refused, "far above the robot's reach"
        for i in refused:
            np.testing.assert_array_equal(steps[i].image, steps[i - 1].image)
            assert steps[i].truth["hand_z"][0] == steps[i - 1].truth["hand_z"][0]
        before = steps[-1].truth["hand_z"][0]
        down = playing.step(DOWN[None])
        assert down.truth["hand_z"][0] < before - 5e-3 and down.truth["invalid_actions"][0] == 0 and down.truncated[0]


# The fake's quirks ----------------------------------------


def test_success_is_recorded_once_reached_and_the_episode_goes_on(faked: Path) -> None:
    env = make_env(CONFIG)
    env.reset(0)
    steps = [env.step(DOWN) for _ in range(4)]
    assert [step.success for step in steps] == [False] * 3 + [True] and steps[-1].dense_reward == 1.0
    assert not steps[-1].terminated and not steps[-1].truncated, "RLBench says terminate and is not asked"
    assert type(steps[-1].dense_reward) is float and type(steps[-1].success) is bool
    ends = make_env(dataclasses.replace(CONFIG, terminate_on_success=True))
    ends.reset(0)
    last = [ends.step(DOWN) for _ in range(4)][-1]
    assert last.terminated and last.env_steps == 2


def test_global_randomness_is_put_back(faked: Path) -> None:
    np.random.seed(5)
    random.seed(5)
    expected = np.random.uniform(size=3), random.random()
    np.random.seed(5)
    random.seed(5)
    env = make_env(dataclasses.replace(CONFIG, frozen_instance=False))
    images = [env.reset(seed) for seed in (1, 2, 1, 1 + 2**32)]
    env.goal_image()
    np.testing.assert_array_equal(np.random.uniform(size=3), expected[0])
    assert random.random() == expected[1]
    assert pixels(images[0], images[2]) == 0 and min(pixels(images[0], images[i]) for i in (1, 3)) > 0.5


def test_what_a_task_draws_itself_is_frozen_by_its_seed(faked: Path) -> None:
    config = dataclasses.replace(CONFIG, env_id="reach_target")
    one, other = make_env(config), make_env(dataclasses.replace(config, instance_seed=1))
    assert pixels(one.reset(0), one.reset(9)) == 0 < pixels(one.reset(0), other.reset(0))


@pytest.mark.parametrize("metres", ["0.2", "0.02"])
def test_an_instance_that_does_not_come_back_is_told(faked: Path, monkeypatch: pytest.MonkeyPatch, metres: str) -> None:
    env = make_env(CONFIG)
    env.reset(0)
    monkeypatch.setenv("FAKE_RLBENCH_WANDERS", metres)
    with pytest.raises(TrainingError, match="does not come back as it was: 3 resets differ"):
        env.reset(0)


@pytest.mark.parametrize("size", [64, 100, 128])
def test_a_small_object_that_moved_is_seen_and_noise_is_not(size: int) -> None:
    """3 cm wide, seen from RLBench's front camera: a metre is about the picture's side."""
    across = (np.arange(size) + 0.5) / size

    def picture(left: float, seed: int) -> np.ndarray:
        image = np.full((size, size, 3), (120, 130, 140), np.int64)
        image[(across[None, :] - left) ** 2 + (across[:, None] - 0.6) ** 2 < 0.015**2] = (200, 30, 30)
        return (image + np.random.default_rng(seed).integers(-1, 1, image.shape)).astype(np.uint8)

    assert difference(picture(0.5, 0), picture(0.5, 1)) < SAME
    assert difference(picture(0.5, 0), picture(0.53, 1)) > 2 * SAME
    assert pixels(picture(0.5, 0), picture(0.53, 0)) < SAME / 2, "a mean over the whole does not tell"


def test_actions_of_another_size_are_refused_at_the_start(faked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RLBench tells a wrong size by the class by which it tells a pose out of reach: later, all steps would fail."""
    monkeypatch.setenv("FAKE_RLBENCH_LARGER", "1")
    with pytest.raises(SetupError, match=r"takes actions of shape \(9,\) .* and not \(8,\)"):
        Simulator("lamp_on", "joint_position", 64, "opengl3", 0, True)


@pytest.mark.parametrize("how", ["jacobian", "path", "ik", "configuration", "configurations"])
def test_whatever_a_bad_action_raises_is_a_failed_step(faked: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("FAKE_RLBENCH_REFUSES", how)
    env = make_env(CONFIG)
    env.reset(0)
    for _ in range(5):
        step = env.step(UP)
    assert step.truth["invalid_actions"] == 2 and step.env_steps == 2 and not step.success
    assert env.step(DOWN).truth["invalid_actions"] == 0


def test_a_crop_is_cut_and_made_smaller_by_area(faked: Path) -> None:
    def seen(size: int, crop: list[float]) -> Env:
        return make_env(dataclasses.replace(CONFIG, image_size=size, options={"render_size": 64, "crop": crop}))

    whole, part = seen(64, [0.0, 0.0, 1.0, 1.0]), seen(16, [0.25, 0.5, 0.75, 1.0])
    picture = whole.reset(0)[32:, 16:48].astype(float).reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(part.reset(0) - picture).max() <= 0.5


def test_a_variation_that_there_is_not(faked: Path) -> None:
    make_env(dataclasses.replace(CONFIG, env_id="push_button", options={"variation": 17}))
    for number in (18, -1):
        with pytest.raises(SetupError, match=f"has 18 variations, counted from 0, and no {number}"):
            make_env(dataclasses.replace(CONFIG, env_id="push_button", options={"variation": number}))


def test_gymnasiums_checker_finds_nothing(faked: Path) -> None:
    import gymnasium
    from gymnasium.utils.env_checker import check_env

    import pvdr_bench.gym  # noqa: F401 - its ids

    env = gymnasium.make("pvdr_bench/rlbench-lamp-on-v0", render_mode="rgb_array", image_size=32, episode_steps=40)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=True)
    assert [str(one.message) for one in caught if "WARN" in str(one.message)] == []
    env.close()


def test_the_protocol_is_the_papers_for_rlbench() -> None:
    catalog = load_catalog()
    spec = catalog.resolve("pvdr", "rlbench/lamp-on", 0, "paper")
    protocol = spec.protocol
    assert (protocol.name, protocol.image_size) == ("rlbench", 128)
    assert (protocol.episode_steps, protocol.action_repeat) == (200, 2)
    assert (protocol.success_bonus, protocol.camera, protocol.frozen_instance) == (100, "front", True)
    assert protocol.hash() != catalog.resolve("pvdr", "tabletop/lamp-on", 0, "paper").protocol.hash()
    assert spec.task.note == ""
    for name in ("close-box", "push-button"):
        note = catalog.task(f"rlbench/{name}").note
        assert note.startswith("Assumed to be one of the paper's")
        keys = explain(catalog, "task", f"rlbench/{name}", "cpu", None, [])["keys"]
        assert {row["key"]: row["value"] for row in keys}["note"] == note
    assert catalog.task("rlbench/turn-tap").env_id == "turn_tap"


def test_a_cluster_job_has_a_display() -> None:
    profile = load_catalog().profile("rlbench")
    text = script(profile, Path("/logs"), "runs", 1, Path("/code"), None)
    assert f"xvfb-run -a {sys.executable}" in text and "COPPELIASIM_ROOT" in text
