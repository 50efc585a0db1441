"""Gymnasium's own checker on the tasks, alone and in numbers, without the harness."""

from __future__ import annotations

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pvdr_bench.errors import CatalogError
from pvdr_bench.gym import register
from pvdr_bench.gym.ids import task_names
from pvdr_bench.suites.registry import suites

SMALL = {"image_size": 32, "episode_steps": 40}


register()  # done by the import already, and does no harm twice


@pytest.mark.parametrize("task", ["reach", "tabletop-push-button"])
def test_gymnasiums_checker_finds_nothing(task: str) -> None:
    env = gymnasium.make(f"pvdr_bench/{task}-v0", render_mode="rgb_array", **SMALL)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=True)
    assert [str(one.message) for one in caught if "WARN" in str(one.message)] == [], "gymnasium's own"
    env.close()


def test_an_episode_has_the_protocols_reward_and_end() -> None:
    env = gymnasium.make("pvdr_bench/tabletop-push-button-v0", **SMALL)
    first, info = env.reset(seed=0)
    assert first.shape == (32, 32, 3) and info == {}
    goal = env.unwrapped.goal_image
    rewards, truncated = [], False
    while not truncated:
        image, reward, terminated, truncated, info = env.step(np.zeros(4, np.float32))
        rewards.append(reward)
        assert not terminated and reward == pytest.approx(-np.abs(image / 255 - goal / 255).mean(), abs=1e-6)
    assert len(rewards) == 20 and info["env_steps"] == 2 and not info["success"] and "goal_distance" in info
    env.close()


def test_many_are_stepped_together_and_begin_again_in_the_same_step() -> None:
    envs = gymnasium.make_vec("pvdr_bench/reach-v0", num_envs=2, workers=1, **{**SMALL, "episode_steps": 8})
    assert envs.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.SAME_STEP
    first, _ = envs.reset(seed=3)
    assert first.shape == (2, 32, 32, 3) == envs.observation_space.shape
    for step in range(1, 5):
        images, rewards, terminated, truncated, infos = envs.step(np.full((2, 4), 0.5, np.float32))
        assert truncated.all() == (step == 4) and rewards.shape == (2,)
    assert infos["_final_obs"].all() and not np.array_equal(infos["final_obs"][0], images[0])
    np.testing.assert_array_equal(images, first, "the first picture of a frozen instance")
    assert infos["final_info"]["env_steps"].tolist() == [2, 2]
    envs.close()


def test_gymnasiums_own_vectors_take_them_too() -> None:
    envs = gymnasium.make_vec("pvdr_bench/tabletop-push-button-v0", num_envs=2, vectorization_mode="sync", **SMALL)
    images, _ = envs.reset(seed=0)
    again, *_ = envs.step(envs.action_space.sample())
    assert images.shape == again.shape == (2, 32, 32, 3)
    envs.close()


def test_every_task_of_every_suite_has_an_id_and_a_wrong_key_is_told() -> None:
    known = {name for name in gymnasium.registry if name.startswith("pvdr_bench/")}
    assert known == {f"pvdr_bench/{name}-v0" for name in task_names()}
    assert {task.name for info in suites().values() for task in info.tasks()} <= set(task_names())
    with pytest.raises(CatalogError, match="did you mean 'image_size'"):
        gymnasium.make("pvdr_bench/reach-v0", imagesize=32)
    with pytest.raises(CatalogError, match="needs a tokenizer"):
        gymnasium.make("pvdr_bench/tabletop-push-button-v0", scale="smoke").reset(seed=0)


def test_ids_are_made_without_loading_what_is_heavy() -> None:
    code = ("import sys, gymnasium; from gymnasium.envs.registration import _find_spec; "
            "assert _find_spec('pvdr_bench.gym:pvdr_bench/reach-v0').name == 'reach'; import pvdr_bench.gym; "
            "sys.exit(len({'torch', 'mujoco', 'pvdr_bench.gym.envs'} & set(sys.modules)))")
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
