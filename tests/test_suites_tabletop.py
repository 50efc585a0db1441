"""The tabletop: experts solve what chance does not, seeds mean what they say, and a picture is what the state says."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.catalog.scales import SCALES
from pvdr_bench.errors import UsageError
from pvdr_bench.nets.blur import box_blur
from pvdr_bench.results.collect import collect
from pvdr_bench.results.series import caption_facts
from pvdr_bench.results.tables import build_table
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.suites import make_env
from pvdr_bench.suites.arm_actions import ACTION_MODE, MODES
from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.suites.cameras import CameraPose
from pvdr_bench.suites.filming import REST
from pvdr_bench.suites.tabletop import panda, scenes
from pvdr_bench.suites.tabletop.corpus import TabletopGenerator
from pvdr_bench.suites.tabletop.env import TabletopEnv, advance, build
from pvdr_bench.suites.tabletop.info import NOTE, TABLETOP
from tests.results_runs import finish, make_run, write_episodes

LAMP = EnvConfig("tabletop", "lamp_on", TABLETOP.first_camera, image_size=32, goal_settle_steps=4)
RANDOM = dataclasses.replace(LAMP, frozen_instance=False)
Policy = Callable[[TabletopEnv, np.random.Generator], np.ndarray]


def expert(env: TabletopEnv, rng: np.random.Generator) -> np.ndarray:
    return env.expert_action()


def chance(env: TabletopEnv, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-1, 1, env.action_dim).astype(np.float32)


def successes(config: EnvConfig, policy: Policy, episodes: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Episodes of seeds 0, 1, ... with a success; nothing is drawn."""
    env = TabletopEnv(config)
    monkeypatch.setattr(env, "_render", lambda: np.zeros((1, 1, 3), np.uint8))
    found = 0
    for seed in range(episodes):
        env.reset(seed)
        rng = np.random.default_rng(seed)
        while not (step := env.step(policy(env, rng))).truncated and not step.success:
            pass
        found += step.success
    return found


@pytest.mark.parametrize("env_id", TABLETOP.environments)
def test_the_expert_solves_every_instance_and_chance_none(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(RANDOM, env_id=env_id)
    assert successes(config, expert, 6, monkeypatch) == 6
    assert successes(config, chance, 4, monkeypatch) == 0


@pytest.mark.long
@pytest.mark.parametrize("repeat", [2, 4])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", TABLETOP.environments)
def test_a_hundred_episodes(env_id: str, mode: str, repeat: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-rP` shows the counts, which docs/tabletop.md tells."""
    config = dataclasses.replace(RANDOM, env_id=env_id, action_repeat=repeat, options={"action_mode": mode})
    skilled, lucky = (successes(config, policy, 100, monkeypatch) for policy in (expert, chance))
    print(f"{env_id} {mode}, action repeat {repeat}: of 100 episodes the expert solves {skilled}, chance {lucky}")
    assert skilled >= 98
    # Joints that turn at random carry the hand to the table: 0 to 9 times here, and 15 is three standard deviations
    # above 7 of 100. In the default mode it stays in the air.
    assert lucky <= (2 if mode == ACTION_MODE.default else 15)


@pytest.mark.parametrize("env_id", TABLETOP.environments)
def test_same_seed_same_frames_and_a_fresh_env_gives_them_too(env_id: str) -> None:
    for config in (dataclasses.replace(LAMP, env_id=env_id), dataclasses.replace(RANDOM, env_id=env_id)):
        one, two = make_env(config), make_env(config)
        rng = np.random.default_rng(0)
        actions = rng.uniform(-1, 1, (5, one.action_dim)).astype(np.float32)
        first = one.reset(3)
        early = [one.step(action).image for action in actions]
        one.goal_image()  # goes on where it was
        assert isinstance(one, TabletopEnv) and isinstance(two, TabletopEnv)
        np.testing.assert_array_equal(one.reset(3), first)
        np.testing.assert_array_equal(two.reset(3), first)
        for action, image in zip(actions, early, strict=True):
            np.testing.assert_array_equal(one.step(action).image, image)
            np.testing.assert_array_equal(two.step(action).image, image)
            np.testing.assert_array_equal(one.physics_state(), two.physics_state())
        assert (first == one.reset(4)).all() == config.frozen_instance


def test_a_goal_image_does_not_touch_the_episode() -> None:
    one, two = make_env(LAMP), make_env(LAMP)
    assert isinstance(one, TabletopEnv) and isinstance(two, TabletopEnv)
    for env in (one, two):
        env.reset(0)
        for _ in range(3):
            env.step(np.full(4, 0.5, np.float32))
    goal = one.goal_image()
    np.testing.assert_array_equal(one.physics_state(), two.physics_state())
    np.testing.assert_array_equal(one.step(np.zeros(4, np.float32)).image, two.step(np.zeros(4, np.float32)).image)
    assert np.abs(goal.astype(int) - one.reset(0)).mean() > 5, "the arm is elsewhere, and the lamp is lit"


@pytest.mark.parametrize(("env_id", "plain", "blurred"), [
    ("lamp_on", 1.15, 1.0), ("close_box", 1.63, 1.73), ("push_button", 1.15, 1.0)])
def test_how_far_from_its_goal_image_the_experts_way_leads(env_id: str, plain: float, blurred: float) -> None:
    """The numbers of docs/tabletop.md: the largest distance on the way, in parts of the start's."""
    env = make_env(dataclasses.replace(LAMP, env_id=env_id, image_size=64))
    images = [env.reset(0)]
    goal = env.goal_image()
    while not (step := env.step(env.expert_action())).success:
        images.append(step.image)
    pixels = torch.from_numpy(np.stack([*images, step.image, goal])).float()
    cells = pixels.unfold(1, 8, 8).unfold(2, 8, 8).mean((-2, -1))
    for features, largest in ((pixels, plain), (box_blur(cells, 3), blurred)):
        away = (features[:-1] - features[-1]).abs().mean((1, 2, 3))
        assert float(away.max() / away[0]) == pytest.approx(largest, abs=0.1)
        assert away[-1] < 0.8 * away[0]


def test_the_lamp_is_lit_while_its_button_is_down() -> None:
    env = make_env(dataclasses.replace(LAMP, image_size=64))
    assert isinstance(env, TabletopEnv)
    env.reset(0)
    while not (step := env.step(env.expert_action())).success:
        pass
    assert (env.goal_image() >= 250).all(-1).sum() > 4, "white pixels of the bulb"
    up = np.array([0, 0, 1, -1], np.float32)
    for _ in range(4):
        step = env.step(up)
    assert not step.success and not env.task.solved()


def test_the_arm_starts_where_rlbench_has_it_and_reaches_what_it_is_told() -> None:
    model, data, task, arm = build("push_button", "end_effector")
    np.testing.assert_allclose(arm.tip, [0.283, -0.005, 1.453], atol=2e-3)  # RLBench's, by its own kinematics
    assert (panda.LIMITS[3], panda.START[3]) == ((-3.0718, -0.0698), -0.873)
    goal = np.array([0.35, 0.2, 1.0])
    for _ in range(80):
        arm.apply(arm.action(np.clip(goal - arm.tip, -0.01, 0.01), -1.0, 1).astype(float))
        advance(model, data)
    np.testing.assert_allclose(arm.tip, goal, atol=3e-3)
    pointing = np.array(data.site("tip").xmat).reshape(3, 3)[:, 2]
    np.testing.assert_allclose(pointing, [np.sin(0.174), 0, -np.cos(0.174)], atol=0.02)  # 10 degrees, as at the start
    assert data.qpos[model.joint("finger0").qposadr[0]] < 1e-3, "closed"


@pytest.mark.parametrize(("mode", "moved"), [("joint_position", 0.1), ("joint_velocity", 0.1)])
def test_a_joint_action_moves_its_joint_alone(mode: str, moved: float) -> None:
    model, data, _, arm = build("push_button", mode)
    action = np.zeros(8)
    action[4] = 1.0
    before = data.qpos.copy()
    arm.apply(action)
    first = int(model.joint("joint1").qposadr[0])
    np.testing.assert_allclose(data.ctrl[:7] - before[first:first + 7], np.eye(7)[4] * moved, atol=1e-9)
    advance(model, data)
    change = data.qpos[first:first + 7] - before[first:first + 7]
    assert 0.02 < change[4] <= 0.1 and np.abs(np.delete(change, 4)).max() < 0.01


def test_a_crop_is_the_middle_of_the_picture_drawn_sharper() -> None:
    whole = make_env(dataclasses.replace(LAMP, image_size=128, options={"crop": [0.0, 0.0, 1.0, 1.0]})).reset(0)
    part = make_env(dataclasses.replace(LAMP, image_size=64, options={"crop": [0.25, 0.5, 0.75, 1.0]})).reset(0)
    difference = np.abs(whole[64:, 32:96].astype(int) - part)
    assert difference.mean() < 2 and (difference > 20).mean() < 0.03
    with pytest.raises(UsageError, match="no square inside the picture"):
        make_env(dataclasses.replace(LAMP, options={"crop": [0.0, 0.0, 1.0, 0.5]}))


def test_rlbenchs_front_camera_sees_a_point_where_its_matrices_say() -> None:
    camera = TABLETOP.first_camera
    assert isinstance(camera, CameraPose)
    place = np.array([1.35, 0.0, 1.58])
    forward, up = np.array([-0.9063, 0, -0.4226]), np.array([-0.4226, 0, 0.9063])
    azimuth, elevation = np.radians([camera.azimuth, camera.elevation])
    look = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    np.testing.assert_allclose(look, forward, atol=1e-3)
    np.testing.assert_allclose(np.array(camera.lookat) - camera.distance * look, place, atol=2e-3)
    assert camera.fovy == pytest.approx(2 * np.degrees(np.arctan(64 / 175.8386)), abs=0.1)
    button = np.array([0.25, 0.0, scenes.TABLE + 0.054]) - place  # its top
    row = 0.5 - 0.5 * (button @ up) / (button @ forward) / np.tan(np.radians(20))
    env = make_env(dataclasses.replace(LAMP, env_id="push_button", image_size=128, options={"crop": [0., 0., 1., 1.]}))
    image = env.reset(0).astype(int)
    red = np.argwhere((image[..., 0] > 120) & (image[..., 1] < 60) & (image[..., 2] < 60))
    assert abs(red[:, 0].mean() / 128 - row) < 0.02 and abs(red[:, 1].mean() / 128 - 0.5) < 0.02


def test_tasks_have_their_own_protocol_and_say_what_they_are_not() -> None:
    catalog = load_catalog()
    spec = catalog.resolve("ppo", "tabletop/lamp-on", 0, "cpu")
    assert (spec.protocol.name, spec.tokenizer, spec.task.note) == ("tabletop", "tokenizer-tabletop", NOTE)
    assert (spec.protocol.camera, spec.protocol.episode_steps, spec.scale_label) == ("front", 200, "cpu")
    assert catalog.resolve("pvdr", "tabletop/lamp-on", 0, "cpu").corpus == "tabletop"
    paper = catalog.resolve("pvdr", "tabletop/close-box", 0, "paper")
    assert (paper.protocol.success_bonus, paper.protocol.action_repeat) == (100, 2)
    assert (paper.config["online"]["lambda2"], paper.config["online"]["lambda3"]) == (2.5, 4.5)
    assert (paper.config["online"]["clip"], paper.config["online"]["entropy_coef"]) == (0.4, 3e-4)
    assert paper.protocol.env_steps == 500 * 2 * (400 + 400), "the paper's 500 epochs"
    joints = spec.task.model_copy(update={"options": {"action_mode": "joint_position"}})
    assert TABLETOP.version_of(spec.task.options) == "tabletop 1"
    assert TABLETOP.version_of(joints.options) == "tabletop 1 (action_mode joint_position)"


def test_its_protocol_is_rlbenchs_but_for_the_name() -> None:
    catalog = load_catalog()
    for scale in SCALES:
        ours, theirs = (catalog.protocol(name, scale).model_dump() for name in ("tabletop", "rlbench"))
        assert {key for key in ours if ours[key] != theirs[key]} <= {"name", "suite_version"}, scale


def test_every_caption_says_it(tmp_path: Path) -> None:
    make_run(tmp_path, [0.5], title="PPO")
    assert NOTE not in build_table(collect(tmp_path)).caption
    spec = load_catalog().resolve("random", "tabletop/push-button", 0, "smoke")
    run = RunDir(spec.path(tmp_path))
    with run.lock():
        run.open(spec)
        run.write_provenance()
        write_episodes(run, spec, spec.protocol.eval_every, "grid", 0.5)
        finish(run, spec.protocol.env_steps)
    results = collect(tmp_path)
    assert results.notes == {"tabletop-push-button": NOTE}
    assert caption_facts(results)[-1] == f"tabletop-push-button: {NOTE}"
    alone = results.select(task=["tabletop-push-button"])
    assert caption_facts(alone)[-1] == NOTE and NOTE in build_table(alone).caption
    assert NOTE not in build_table(results.select(task=["reach"])).caption


@pytest.mark.parametrize("env_id", TABLETOP.environments)
def test_videos_show_every_object_and_no_evaluated_instance(env_id: str) -> None:
    assert set(TabletopGenerator.sources) == set(TABLETOP.environments)
    generator = TabletopGenerator(env_id, 32)
    one, again, other = (generator.episode(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.frames, again.frames)
    assert one.frames.shape[1:] == (32, 32, 3) and 40 <= len(one.frames) <= 60
    assert set(one.truth) == {"action", "hand", "object", "mode"}
    modelled = make_env(dataclasses.replace(LAMP, env_id=env_id))
    modelled.reset(0)
    place = modelled.step(REST).truth
    places = [[place["goal_x"], place["goal_y"]], *(clip.truth["object"][0, :2] for clip in (one, other))]
    apart = [float(np.abs(np.subtract(a, b)).max()) for a, b in itertools.combinations(places, 2)]
    assert min(apart) > 0.005, "two places, and neither is the modelled one"
    assert np.ptp(one.truth["hand"], 0).max() > 0.1 and one.frames.std(0).max() > 20, "and the arm at work"
    generator.close()


def test_a_rest_leaves_hand_and_gripper_as_they_are() -> None:
    env = make_env(LAMP)
    assert isinstance(env, TabletopEnv)
    env.reset(0)
    before = env.arm.tip
    env.step(REST)
    model, data = env.simulation
    assert np.abs(env.arm.tip - before).max() < 1e-3
    assert data.qpos[model.joint("finger0").qposadr[0]] > 0.95 * panda.FINGER_OPEN
