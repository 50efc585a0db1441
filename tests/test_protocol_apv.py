"""The protocol apv: its numbers, Meta-World's own reward and camera, goals drawn by seeds, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pandas as pd
import pytest
import torch

from pvdr_bench.bench.render import ssim
from pvdr_bench.catalog import Catalog, Protocol
from pvdr_bench.catalog.folders import builtin_root
from pvdr_bench.catalog.scales import SCALES
from pvdr_bench.errors import CatalogError, UsageError
from pvdr_bench.results.collect import collect
from pvdr_bench.results.figures import plot_curves
from pvdr_bench.results.paper import beside, reported
from pvdr_bench.results.tables import build_table, to_frame, to_markdown
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.suites import make_env
from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.suites.cameras import CameraPose
from pvdr_bench.suites.group import next_seed
from pvdr_bench.suites.metaworld.cameras import CAMERAS
from pvdr_bench.suites.metaworld.env import MetaWorldEnv
from pvdr_bench.suites.vector import VectorEnv
from pvdr_bench.training.checks import check_protocol
from pvdr_bench.training.evaluation import SEED_SPAN, train_seeds
from pvdr_bench.training.execute import execute
from pvdr_bench.training.reward import GoalReward
from pvdr_bench.training.stages import Stages
from tests.dummies import SYNC, do_run
from tests.dummies import make_spec as dummy_spec
from tests.results_runs import make_run

TASKS = ("lever-pull", "drawer-open", "door-lock", "button-press-topdown-wall", "reach", "dial-turn")
PAPER = builtin_root() / "results" / "paper"
GOAL_KEYS = ("goal_metric", "goal_blur", "normalise_distance", "success_bonus", "instance_seed", "goal_settle_steps")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog([builtin_root()])


def config(catalog: Catalog, task: str, **changes: Any) -> EnvConfig:
    """What a run at paper scale builds."""
    return dataclasses.replace(catalog.resolve("random", task, 0, "paper", "apv").env_config(), **changes)


def play(env: MetaWorldEnv, seed: int, steps: int = 40) -> tuple[list[float], np.ndarray, dict[str, float]]:
    """Rewards, images and truth of an episode of random actions."""
    rng, images, rewards = np.random.default_rng(seed), [env.reset(seed)], []
    for _ in range(steps):
        step = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
        rewards.append(step.dense_reward)
        images.append(step.image)
    return rewards, np.stack(images), step.truth


# Numbers ----------------------------------------------------------------------------------------------------------


def test_the_published_numbers_of_the_protocol(catalog: Catalog) -> None:
    for scale in ("paper", "gpu", "cpu"):
        apv = catalog.protocol("apv", scale)
        assert (apv.image_size, apv.camera, apv.action_repeat, apv.episode_steps) == (64, "corner", 1, 500)
        assert (apv.reward, apv.frozen_instance, apv.terminate_on_success, apv.success_rule) == (
            "dense", False, False, "any")
        assert (apv.eval_every, apv.eval_episodes, apv.eval_final_episodes) == (10_000, 10, 100)
    budgets = [catalog.protocol("apv", scale).env_steps for scale in SCALES]
    assert budgets == [256_000, 150_000, 45_000, 4_800, 320]
    paper = catalog.protocol("apv", "paper")
    assert paper.num_envs == 1 and paper.sync_every % paper.episode_steps == 0, "episodes are whole at sync points"
    pvdr = catalog.protocol("pvdr", "smoke")
    assert catalog.protocol("apv", "smoke").image_size == pvdr.image_size, "both share the smoke tokenizer"


def test_hashes_of_pvdr_are_those_of_the_runs_that_are_published(catalog: Catalog) -> None:
    version = {"suite_version": "metaworld 3.1.1", "terminate_on_success": True}  # as they were made
    hashes = [catalog.protocol("pvdr", scale).model_copy(update=version).hash()
              for scale in SCALES if scale != "quick"]  # whose numbers are never published
    assert hashes == ["686ae2e5af8b", "2a97a101c9db", "9b1efb82f31e", "576687f5058b"]
    runs = pd.read_csv(builtin_root() / "results" / "reference" / "reach-cpu" / "runs.csv")
    assert set(runs["protocol_hash"]) == {hashes[2]}


def test_the_six_tasks_are_known_by_name(catalog: Catalog) -> None:
    for task in TASKS:
        spec = catalog.resolve("ppo", task, 0, "cpu", "apv")
        assert spec.task.env_id == f"{task}-v3"
        assert spec.path("R") == Path(f"R/ppo/{task}/none/apv-cpu/seed-0")
        check_protocol(spec)


def test_what_nothing_reads_is_null_or_refused(catalog: Catalog) -> None:
    apv = catalog.protocol("apv", "cpu")
    assert all(getattr(apv, key) is None for key in GOAL_KEYS)
    for key, value in (("success_bonus", "10"), ("goal_metric", "pixel_l1"), ("instance_seed", "1")):
        with pytest.raises(CatalogError, match=f"{key} must be null.*protocol.{key}=null"):
            catalog.resolve("random", "reach", 0, "cpu", "apv", overrides=[f"protocol.{key}={value}"])
    with pytest.raises(CatalogError, match="goal_blur must be set with reward goal_distance"):
        catalog.resolve("random", "reach", 0, overrides=["protocol.goal_blur=null"])
    with pytest.raises(CatalogError, match="goal_metric, goal_blur, normalise_distance, success_bonus must be null"):
        catalog.resolve("pvdr", "reach", 0, overrides=["protocol.reward=dense"])


@pytest.mark.parametrize("method", ["pvdr", "pvdr-scratch"])
def test_methods_that_need_a_goal_image_are_refused_before_anything_starts(
        catalog: Catalog, tmp_path: Path, method: str) -> None:
    spec = catalog.resolve(method, "reach", 0, "smoke", "apv")

    def never() -> Any:
        raise AssertionError("started")

    with pytest.raises(CatalogError, match=f"{method} .*needs a goal image, and protocol apv has none") as caught:
        execute(spec, tmp_path, never, lambda: False)
    assert "--protocol pvdr" in str(caught.value.hint) and "ppo" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())
    check_protocol(catalog.resolve(method, "reach", 0, "smoke", "pvdr"))


# Seeds ------------------------------------------------------------------------------------------------------------


def test_no_training_episode_has_a_seed_of_evaluation(catalog: Catalog) -> None:
    apv = catalog.protocol("apv", "paper")
    first = {seed for run in range(5) for at in range(0, apv.env_steps, apv.sync_every)
             for seed in train_seeds(apv.train_seed_base, run, at, apv.num_envs)}
    later = {next_seed(seed, episode) for seed in first for episode in range(1, apv.sync_every // apv.episode_steps)}
    evaluation = {apv.eval_seed_base + episode for episode in range(apv.eval_final_episodes)}
    assert not (first | later) & evaluation
    assert max(first) < SEED_SPAN <= min(evaluation) and min(later) > max(evaluation)
    assert len(later | first) > 0.98 * 5 * apv.env_steps / apv.episode_steps, "hardly two episodes share a goal"


def test_goals_differ_between_resets_and_repeat_with_their_seed(catalog: Catalog) -> None:
    def goals() -> np.ndarray:
        with VectorEnv(config(catalog, "reach", image_size=16, episode_steps=2), 2, workers=0) as envs:
            envs.reset([3, 4])
            steps = [envs.step(np.zeros((2, 4), np.float32)) for _ in range(6)]
        return np.stack([[step.truth[f"goal_{axis}"] for axis in "xyz"] for step in steps[::2]])  # [episode, xyz, env]

    seen = goals()
    np.testing.assert_array_equal(seen, goals())
    places = seen.transpose(0, 2, 1).reshape(-1, 3)
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)[np.triu_indices(6, 1)]
    assert gaps.min() > 1e-3, "six episodes, six goals"


# Meta-World's own -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_reward_is_the_suites_own_and_episodes_forget_the_ones_before(catalog: Catalog, task: str) -> None:
    import metaworld

    plain = metaworld.ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    plain._set_task_called, plain._freeze_rand_vec, plain.seeded_rand_vec = True, False, True
    plain.seed(7)
    plain.reset()
    env = make_env(config(catalog, task, image_size=16))
    assert isinstance(env, MetaWorldEnv)
    rewards, images, truth = play(env, 7)
    rng = np.random.default_rng(7)
    own = [float(plain.step(rng.uniform(-1, 1, 4).astype(np.float32))[1]) for _ in rewards]
    assert rewards == own and len(set(own)) > 10
    np.testing.assert_array_equal([truth[f"goal_{axis}"] for axis in "xyz"], plain._target_pos)
    play(env, 8)
    again, repeated, _ = play(env, 7)
    assert again == rewards
    np.testing.assert_array_equal(repeated, images)


def test_dense_reward_of_the_loop_is_passed_on_without_a_goal_image(catalog: Catalog) -> None:
    reward = GoalReward(catalog.protocol("apv", "smoke"), None, None, torch.device("cpu"))
    with VectorEnv(config(catalog, "reach", image_size=16), 2, workers=0) as envs:
        envs.reset([1, 2])
        reward.begin(2)
        step = envs.step(np.zeros((2, 4), np.float32))
    rewards, distances = reward.reward(step)
    np.testing.assert_array_equal(rewards, step.dense_reward)
    assert distances is None and (rewards > 0).all()
    with pytest.raises(CatalogError, match="needs one goal image"):
        GoalReward(catalog.protocol("pvdr", "paper"), None, None, torch.device("cpu"))


def camera_axes(pose: CameraPose) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(position, right, up) of a free camera, by MuJoCo's formulas."""
    azimuth, elevation = np.radians([pose.azimuth, pose.elevation])
    forward = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    return np.array(pose.lookat) - pose.distance * forward, right, np.cross(right, forward)


def test_the_camera_is_metaworlds_corner_upright(catalog: Catalog) -> None:
    env = make_env(config(catalog, "drawer-open", renderer="stock"))
    assert isinstance(env, MetaWorldEnv)
    image = env.reset(5)
    model, data = env.simulation
    number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "corner")
    position, right, up = camera_axes(CAMERAS["corner"])
    np.testing.assert_allclose(data.cam_xpos[number], position, atol=1e-9)
    axes = data.cam_xmat[number].reshape(3, 3)
    np.testing.assert_allclose(axes[:, 0], -right, atol=1e-9)  # the same line of sight, turned by 180 degrees
    np.testing.assert_allclose(axes[:, 1], -up, atol=1e-9)
    assert up[2] > 0.9 and model.cam_fovy[number] == model.vis.global_.fovy
    with mujoco.Renderer(model, 64, 64) as renderer:
        renderer.update_scene(data, "corner")
        own = renderer.render()
    assert ssim(np.ascontiguousarray(own[::-1, ::-1]), image) > 0.97 > 0.7 > ssim(own, image)


def test_the_lean_picture_differs_from_stock_by_shadows_mostly(catalog: Catalog) -> None:
    lean, stock = (make_env(config(catalog, "drawer-open", renderer=kind)).reset(5) for kind in ("lean", "stock"))
    assert ssim(lean, stock) > 0.9


# Runs -------------------------------------------------------------------------------------------------------------


def test_a_whole_run_of_random(catalog: Catalog, tmp_path: Path) -> None:
    spec = catalog.resolve("random", "dial-turn", 0, "smoke", "apv")
    pieces = Stages(spec, env_workers=0).pieces
    assert execute(spec, tmp_path, pieces, lambda: False)
    run = RunDir(spec.path(tmp_path))
    rows = run.read_episodes()
    assert all(row["length"] == spec.protocol.episode_steps for row in rows), "episodes are played to the full length"
    base = spec.protocol.eval_seed_base
    assert {row["eval_seed"] for row in rows} == {base + episode for episode in range(4)}
    assert all(0 < row["return"] < 10 * spec.protocol.episode_steps for row in rows)
    assert run.done()["env_steps"] == 320


@pytest.mark.parametrize("kind", ["onpolicy", "recurrent"])
def test_runs_with_random_goals_extend_to_the_same_bytes(tmp_path: Path, kind: str) -> None:
    def spec(budget: int) -> Any:
        return dummy_spec(kind, env_steps=budget, reward="dense", frozen_instance=False, terminate_on_success=False)

    do_run(spec(2 * SYNC), tmp_path / "whole")
    do_run(spec(SYNC), tmp_path / "parts")
    do_run(spec(2 * SYNC), tmp_path / "parts")
    files = []
    for folder in ("whole", "parts"):
        run = RunDir(spec(SYNC).path(tmp_path / folder))
        newest = run.checkpoints.path(run.checkpoints.steps()[-1])
        last = [row for row in run.read_episodes() if row["point"] == "final" and row["env_steps"] == 2 * SYNC]
        files.append([run.train.path.read_bytes(), (newest / "state.safetensors").read_bytes(), last])
    assert files[0] == files[1]


# Published numbers ------------------------------------------------------------------------------------------------

# methods.md 2.3: the repository's raw data, 8 seeds, success in percent after 45k, 95k, 145k, 195k and 245k env_steps
CURVES = {
    ("lever-pull", "dreamerv2"): (0, 0, 0, 0, 10.0), ("lever-pull", "apv"): (1.2, 10.0, 32.5, 47.5, 67.5),
    ("drawer-open", "dreamerv2"): (0, 25.0, 50.0, 83.7, 81.2), ("drawer-open", "apv"): (22.5, 58.8, 100, 100, 100),
    ("door-lock", "dreamerv2"): (31.2, 57.5, 80.0, 86.2, 87.5), ("door-lock", "apv"): (48.8, 85.0, 97.5, 95.0, 98.8),
    ("button-press-topdown-wall", "dreamerv2"): (6.2, 20.0, 76.2, 91.2, 97.5),
    ("button-press-topdown-wall", "apv"): (0, 73.8, 77.5, 95.0, 100),
    ("reach", "dreamerv2"): (31.2, 38.8, 52.5, 68.8, 70.0), ("reach", "apv"): (42.5, 70.0, 82.5, 85.0, 90.0),
    ("dial-turn", "dreamerv2"): (17.5, 12.5, 8.8, 15.0, 11.3), ("dial-turn", "apv"): (16.2, 33.8, 46.2, 47.5, 57.5),
}


def test_the_published_curves_are_whole() -> None:
    frame = reported(list(TASKS), folder=PAPER, protocol="apv", curves=True)
    got = {key: tuple(group["success"]) for key, group in frame.groupby(["task", "method"])}
    assert got == CURVES
    assert (frame["seeds"] == 8).all() and (frame["beside"] == "apv").all() and (frame["source"] != "").all()
    assert set(frame["env_steps"]) == {45_000, 95_000, 145_000, 195_000, 245_000}
    last = reported(list(TASKS), folder=PAPER, protocol="apv")
    assert len(last) == 12 and (last["env_steps"] == 245_000).all() and last["spread"].notna().all()


def test_published_numbers_belong_to_one_protocol() -> None:
    assert set(beside("pvdr", PAPER)["paper"]) == {"pvdr"} and set(beside("apv", PAPER)["paper"]) == {"apv"}
    assert set(reported(["reach"], folder=PAPER)["paper"]) == {"pvdr"}
    assert beside("mine", PAPER).empty


APV = {"name": "apv", "reward": "dense", "frozen_instance": False, "terminate_on_success": False,
       **dict.fromkeys(GOAL_KEYS)}


def test_curves_and_tables_show_apvs_numbers_beside_rows_of_apv(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path, [0.1, 0.4], variant="dreamerv2", seed=seed, algorithm="dreamer", **APV)
    results = collect(tmp_path)
    numbers = reported(["reach"], folder=PAPER, protocol="apv", curves=True)
    plot = plot_curves(results, repetitions=50, reported=numbers)
    ax = plot.figure.axes[0]
    drawn = [tuple(np.round(100 * np.asarray(line.get_ydata()), 6)) for line in ax.lines
             if list(line.get_xdata()) == [45_000, 95_000, 145_000, 195_000, 245_000]]
    assert sorted(drawn) == sorted([CURVES["reach", "dreamerv2"], CURVES["reach", "apv"]])
    assert ax.get_xlim()[1] > 245_000 and "245,000 env_steps" in plot.caption and "reward dense." in plot.caption
    table = build_table(results, reported=reported(["reach"], folder=PAPER, protocol="apv"), repetitions=50)
    assert "apv (rlbench), reach: 90.0 +- 11.2, 8 seeds, curves, after 245,000 env_steps" in to_markdown(table)
    assert sorted(to_frame(table).query("kind == 'reported'")["env_steps"]) == [245_000, 245_000]


def test_the_command_line_never_mixes_published_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pvdr_bench.cli.selection import published_numbers

    make_run(tmp_path, [0.1], variant="ppo")
    make_run(tmp_path, [0.1], variant="random", **APV)
    results = collect(tmp_path)
    for protocol, papers in (("pvdr", {"pvdr"}), ("apv", {"apv"})):
        found = published_numbers(None, True, results.select(protocol=[protocol]))
        assert found is not None and set(found["paper"]) == papers
    with pytest.raises(UsageError, match="rows of one protocol.*apv, pvdr"):
        published_numbers(None, True, results)
    with pytest.raises(UsageError, match="no number is reported for ficc on reach under a protocol like apv") as caught:
        published_numbers("ficc", False, results.select(protocol=["apv"]))
    assert "apv, dreamerv2" in str(caught.value.hint)


def test_a_protocol_file_keeps_its_nulls(catalog: Catalog) -> None:
    apv = catalog.protocol("apv", "cpu")
    assert Protocol(**json.loads(json.dumps(apv.model_dump(mode="json")))) == apv
