"""The adapter to RLBench: its contract against our own small fake, and against the real package where there is one."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.cli.describe import explain
from pvdr_bench.errors import DataError, SetupError, SimulatorError, TrainingError, UsageError
from pvdr_bench.launch.sbatch import script
from pvdr_bench.suites import make_env
from pvdr_bench.suites.base import Env, EnvConfig
from pvdr_bench.suites.info import _version_here
from pvdr_bench.suites.rlbench import health
from pvdr_bench.suites.rlbench.env import SAME, RLBenchEnv, difference
from pvdr_bench.suites.rlbench.goals import Goal, goal_file, keep_goal
from pvdr_bench.suites.rlbench.info import RLBENCH
from pvdr_bench.suites.rlbench.simulator import Simulator
from pvdr_bench.suites.vector import VectorEnv
from tests import fake_rlbench

CONFIG = EnvConfig("rlbench", "lamp_on", RLBENCH.first_camera, image_size=32, action_repeat=2, episode_steps=40,
                   options={"render_size": 64})
DOWN = np.array([0, 0, -1, -1], np.float32)
UP = -DOWN


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The fake on the path of this process and of workers, a simulator's folder, a display and a data folder."""
    fake_rlbench.forget()
    fake_rlbench.write(tmp_path)
    site = str(tmp_path / "site")
    monkeypatch.setattr(sys, "path", [site, *sys.path])
    root = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([site, root, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("COPPELIASIM_ROOT", str(tmp_path / "coppelia"))
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    monkeypatch.setenv("PVDR_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FAKE_RLBENCH_COUNT", str(tmp_path / "deaths"))
    yield tmp_path
    fake_rlbench.forget()


@pytest.fixture(params=["fake", "real"])
def rlbench(request: pytest.FixtureRequest) -> str:
    """Our fake, or the user's RLBench, skipped where there is none; which of them it is."""
    if request.param == "fake":
        request.getfixturevalue("fake")
        return "fake"
    if found := RLBENCH.problems():
        pytest.skip("no RLBench here: " + "; ".join(problem.message for problem in found))
    request.getfixturevalue("tmp_path")
    return "real"


def pixels(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def envs(config: EnvConfig = CONFIG) -> VectorEnv:
    """In a process of its own, as runs have it: one simulator each."""
    return VectorEnv(config, 1, workers=0)


# What holds for the real package as well ----------------------------------------


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


@pytest.fixture
def env(fake: Path) -> Iterator[Env]:
    built = make_env(CONFIG)
    yield built
    built.close()


def test_success_is_recorded_once_reached_and_the_episode_goes_on(env: Env) -> None:
    env.reset(0)
    steps = [env.step(DOWN) for _ in range(4)]
    assert [step.success for step in steps] == [False] * 3 + [True] and steps[-1].dense_reward == 1.0
    assert not steps[-1].terminated and not steps[-1].truncated, "RLBench says terminate and is not asked"
    assert type(steps[-1].dense_reward) is float and type(steps[-1].success) is bool
    ends = make_env(dataclasses.replace(CONFIG, terminate_on_success=True))
    ends.reset(0)
    last = [ends.step(DOWN) for _ in range(4)][-1]
    assert last.terminated and last.env_steps == 2


def test_global_randomness_is_put_back(fake: Path) -> None:
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


def test_what_a_task_draws_itself_is_frozen_by_its_seed(fake: Path) -> None:
    config = dataclasses.replace(CONFIG, env_id="reach_target")
    one, other = make_env(config), make_env(dataclasses.replace(config, instance_seed=1))
    assert pixels(one.reset(0), one.reset(9)) == 0 < pixels(one.reset(0), other.reset(0))


@pytest.mark.parametrize("metres", ["0.2", "0.02"])
def test_an_instance_that_does_not_come_back_is_told(env: Env, monkeypatch: pytest.MonkeyPatch, metres: str) -> None:
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


@pytest.mark.parametrize("frozen", [True, False])
def test_a_goal_is_of_the_instance_that_is_played(fake: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool) -> None:
    """A plan that fails makes RLBench draw another instance, and plan for that one."""
    config = dataclasses.replace(CONFIG, env_id="reach_target", frozen_instance=frozen)

    def goal(folder: str, bad_plans: int) -> np.ndarray:
        monkeypatch.setenv("PVDR_BENCH_DATA", str(fake / folder))
        monkeypatch.setenv("FAKE_RLBENCH_BAD_PLANS", str(bad_plans))
        env = make_env(config)
        env.reset(4)
        return env.goal_image()

    right = goal("right", 0)
    assert pixels(goal("second", 1), right) < 0.5 and pixels(goal("third", 2), right) < 0.5
    assert pixels(goal("tenth", 9), right) < 0.5
    with pytest.raises(TrainingError, match="no demonstration of this instance of reach_target: 10 of them"):
        goal("never", 10)
    assert not list((fake / "never").rglob("*.npz"))


def test_a_demonstration_may_begin_in_a_scene_that_has_settled(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_goal_of_a_task_that_does_not_hold_still_is_refused(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(dataclasses.replace(CONFIG, env_id="reach_target", frozen_instance=False))
    env.reset(4)
    monkeypatch.setenv("FAKE_RLBENCH_WANDERS", "0.2")
    monkeypatch.setattr("pvdr_bench.suites.rlbench.env.PLANS", 3)
    with pytest.raises(TrainingError, match="no demonstration of this instance of reach_target"):
        env.goal_image()


def test_a_demonstration_tells_what_went_wrong(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = Simulator("lamp_on", "end_effector", 64, "opengl3", 0, True)
    with monkeypatch.context() as patch:
        patch.setenv("FAKE_RLBENCH_UNPLACED", "1")
        with pytest.raises(TrainingError, match="cannot place the objects of lamp_on") as caught:
            simulator.demonstrate(0)
        assert not isinstance(caught.value, SimulatorError)
    monkeypatch.setenv("FAKE_RLBENCH_DIES", "demo:0:raise")
    with pytest.raises(SimulatorError, match="cannot be demonstrated: RuntimeError: The call failed on the V-REP side"):
        simulator.demonstrate(0)


def test_actions_of_another_size_are_refused_at_the_start(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RLBench tells a wrong size by the class by which it tells a pose out of reach: later, all steps would fail."""
    monkeypatch.setenv("FAKE_RLBENCH_LARGER", "1")
    with pytest.raises(SetupError, match=r"takes actions of shape \(9,\) .* and not \(8,\)"):
        Simulator("lamp_on", "joint_position", 64, "opengl3", 0, True)


@pytest.mark.parametrize("how", ["jacobian", "path", "ik", "configuration", "configurations"])
def test_whatever_a_bad_action_raises_is_a_failed_step(fake: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("FAKE_RLBENCH_REFUSES", how)
    env = make_env(CONFIG)
    env.reset(0)
    for _ in range(5):
        step = env.step(UP)
    assert step.truth["invalid_actions"] == 2 and step.env_steps == 2 and not step.success
    assert env.step(DOWN).truth["invalid_actions"] == 0


def test_after_a_demonstration_that_was_not_found_the_simulator_is_another(
        fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        fake: Path, monkeypatch: pytest.MonkeyPatch, variable: str, words: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(TrainingError, match=words) as caught:
        make_env(CONFIG).goal_image()
    assert not isinstance(caught.value, SimulatorError)


def test_a_goal_has_a_hash_and_a_damaged_one_is_refused(env: Env) -> None:
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


def test_of_two_goals_made_at_once_both_have_the_first(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_crop_is_cut_and_made_smaller_by_area(fake: Path) -> None:
    def seen(size: int, crop: list[float]) -> Env:
        return make_env(dataclasses.replace(CONFIG, image_size=size, options={"render_size": 64, "crop": crop}))

    whole, part = seen(64, [0.0, 0.0, 1.0, 1.0]), seen(16, [0.25, 0.5, 0.75, 1.0])
    picture = whole.reset(0)[32:, 16:48].astype(float).reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(part.reset(0) - picture).max() <= 0.5


def test_a_variation_that_there_is_not(fake: Path) -> None:
    make_env(dataclasses.replace(CONFIG, env_id="push_button", options={"variation": 17}))
    for number in (18, -1):
        with pytest.raises(SetupError, match=f"has 18 variations, counted from 0, and no {number}"):
            make_env(dataclasses.replace(CONFIG, env_id="push_button", options={"variation": number}))


def test_gymnasiums_checker_finds_nothing(fake: Path) -> None:
    import gymnasium
    from gymnasium.utils.env_checker import check_env

    import pvdr_bench.gym  # noqa: F401 - its ids

    env = gymnasium.make("pvdr_bench/rlbench-lamp-on-v0", render_mode="rgb_array", image_size=32, episode_steps=40)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=True)
    assert [str(one.message) for one in caught if "WARN" in str(one.message)] == []
    env.close()


# A simulator that dies ----------------------------------------


@pytest.mark.parametrize("how", ["exit", "raise"])
def test_a_dead_simulator_is_started_again_and_written_down(
        fake: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("FAKE_RLBENCH_DIES", f"step:3:{how}")
    with envs() as playing:
        pid, first = playing.worker_pids[0], playing.reset([0])
        seen = playing.step(DOWN[None])
        died = playing.step(DOWN[None])
        assert died.truncated[0] and not died.success[0] and died.env_steps[0] == 2 and died.dense_reward[0] == 0
        np.testing.assert_array_equal(died.final_image, seen.image, "what was seen last")
        np.testing.assert_array_equal(died.image, first)
        assert playing.worker_pids[0] != pid and not playing.step(DOWN[None]).truncated[0]
        assert [incident["worker"] for incident in playing.incidents] == [0]
        assert ("died with exit code 139" if how == "exit" else "V-REP side") in playing.incidents[0]["error"]


@pytest.mark.parametrize("how", ["exit", "raise"])
def test_one_that_dies_at_its_first_start_is_started_again(
        fake: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("FAKE_RLBENCH_DIES", f"launch:0:{how}")
    monkeypatch.setenv("FAKE_RLBENCH_DEATHS", "2")
    with VectorEnv(CONFIG, 2) as playing:
        assert playing.action_dim == 4 and playing.reset([0, 0]).std() > 5
        assert not playing.step(np.stack([DOWN, DOWN])).truncated.any()
        assert len(playing.incidents) == 2
        assert ("died with exit code 139" if how == "exit" else "cannot be started") in playing.incidents[0]["error"]
    monkeypatch.setenv("FAKE_RLBENCH_DEATHS", "100")
    with pytest.raises(SimulatorError, match="died with exit code 139" if how == "exit" else "cannot be started"):
        envs()
    assert len(list(fake.glob("deaths-*"))) == 2 + 1 + RLBENCH.restarts


def test_one_that_hangs_at_its_first_start_is_started_again(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvdr_bench.suites.vector.START_TIMEOUT", 10.0)
    monkeypatch.setenv("FAKE_RLBENCH_DIES", "launch:0:hang")
    with envs() as playing:
        assert playing.reset([0]).std() > 5
        assert "gave no answer in 10 s" in playing.incidents[0]["error"]


def test_one_that_dies_again_and_again_ends_the_run(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RLBENCH_DIES", "reset:0:exit")
    monkeypatch.setenv("FAKE_RLBENCH_DEATHS", "100")
    with envs() as playing, pytest.raises(SimulatorError, match="died with exit code 139"):
        playing.reset([0])
    assert len(playing.incidents) == RLBENCH.restarts == 5


def test_a_run_goes_on_and_has_it_in_its_folder(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pvdr_bench.cli.main import main

    monkeypatch.setenv("FAKE_RLBENCH_DIES", "step:5:exit")
    results = fake / "results"
    monkeypatch.setenv("FAKE_RLBENCH_DEATHS", "3")
    monkeypatch.setattr("pvdr_bench.bench.pace.measure", lambda *_: {})  # it would die there too
    with pytest.raises(SystemExit) as caught:
        main(["run", "--method", "random", "--task", "rlbench/lamp-on", "--seeds", "1", "--scale", "smoke",
              "--results", str(results), "-o", "protocol.goal_metric=pixel_l1", "--device", "cpu"])
    assert caught.value.code in (None, 0)
    (run,) = results.glob("random/rlbench-lamp-on/none/*/seed-0")
    rows = [json.loads(line) for line in (run / "incidents.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert all("died with exit code 139" in row["error"] for row in rows)
    assert rows[0]["phase"] == "grid"
    assert (run / "done.json").exists()


def test_a_run_whose_simulator_is_not_here_is_refused_before_anything_is_made(
        fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from pvdr_bench.cli.main import main

    monkeypatch.delenv("COPPELIASIM_ROOT")
    with pytest.raises(SystemExit) as caught:
        main(["run", "--method", "random", "--task", "rlbench/lamp-on", "--seeds", "1", "--scale", "smoke",
              "--results", str(fake / "results"), "--device", "cpu"])
    assert caught.value.code == SetupError.exit_code
    assert "the suite rlbench is not ready: COPPELIASIM_ROOT is not set" in capsys.readouterr().err
    assert not (fake / "results").exists() and not (fake / "data").exists()


# Words ----------------------------------------


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


def test_workers_are_told_where_the_libraries_lie(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/mine")
    told = RLBENCH.worker_environment()
    root = str(fake / "coppelia")
    assert told == {"LD_LIBRARY_PATH": f"{root}:{root}/platforms:/opt/mine", "QT_QPA_PLATFORM_PLUGIN_PATH": root}
    monkeypatch.delenv("COPPELIASIM_ROOT")
    assert RLBENCH.worker_environment() == {}


def test_nothing_is_missing_where_the_fake_is(fake: Path) -> None:
    assert RLBENCH.problems() == []


def _no_root(fake: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("COPPELIASIM_ROOT")


def _no_plugin(fake: Path, patch: pytest.MonkeyPatch) -> None:
    (fake / "coppelia" / "platforms" / "libqxcb.so").unlink()


def _no_display(fake: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("DISPLAY")


def _no_rlbench(fake: Path, patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(fake / "site" / "rlbench")
    shutil.rmtree(fake / "site" / "rlbench-1.2.0.dist-info")


def _pypis_pyrep(fake: Path, patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(fake / "site" / "pyrep" / "backend")
    (fake / "site" / "pyrep" / "__init__.py").write_text("def replace(): ...\n")


def _binding(text: str, library: bool = True) -> object:
    def change(fake: Path, patch: pytest.MonkeyPatch) -> None:
        if not library:
            (fake / "coppelia" / "libcoppeliaSim.so").unlink()
        (fake / "site" / "pyrep" / "backend" / "_sim_cffi.py").write_text(f"raise ImportError({text!r})\n")

    return change


@pytest.mark.parametrize(("change", "words", "mends"), [
    (_no_root, "COPPELIASIM_ROOT is not set", "export COPPELIASIM_ROOT="),
    (_no_plugin, "Qt plugin path", "unpack"),
    (_no_display, "no display", "xvfb-run -a"),
    (_no_rlbench, "licence (.*) has to be accepted", "pip install 'rlbench @ git+https"),
    (_pypis_pyrep, "another project of that name, PyPI's", "pip uninstall -y pyrep && pip install"),
    (_binding("/x/_sim_cffi.so: undefined symbol: simGetJointMode"), "built against another version", "builds it anew"),
    (_binding("libcoppeliaSim.so.1: cannot open shared object file"), "library path: PyRep", "LD_LIBRARY_PATH=$COPP"),
    (_binding("libcoppeliaSim.so.1: cannot open shared object file", library=False), "holds no libcoppeliaSim.so",
     "export COPPELIASIM_ROOT="),
    (_binding("anything else"), "PyRep cannot be loaded: ImportError: anything else", "builds it anew"),
])
def test_each_thing_that_is_missing_is_told_with_the_command_that_mends_it(
        fake: Path, monkeypatch: pytest.MonkeyPatch, change: object, words: str, mends: str) -> None:
    import re

    change(fake, monkeypatch)  # type: ignore[operator]
    found = RLBENCH.problems()
    assert len(found) == 1, found
    assert re.search(words, found[0].message) and mends in (found[0].hint or "")
    monkeypatch.setattr(health, "_load_apart", None)  # where a simulator is started no second process is
    with pytest.raises(SetupError, match=words) as caught:
        make_env(CONFIG)
    assert caught.value.hint == found[0].hint


def test_checkouts_on_the_path_will_do(fake: Path) -> None:
    installed = RLBENCH.version()
    for info in (fake / "site").glob("*.dist-info"):
        shutil.rmtree(info)
    _version_here.cache_clear()
    assert RLBENCH.problems() == []
    assert RLBENCH.version() == installed == "rlbench 1.2.0", "part of the protocol's hash"
    assert make_env(CONFIG).reset(0).std() > 5


def test_packages_that_are_no_files_will_do(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that a process made itself has no place that could be looked up."""
    import pyrep

    monkeypatch.delattr(pyrep, "__spec__")
    assert health.problems_here() == [] == RLBENCH.problems()


def test_a_library_that_lies_elsewhere_needs_neither_files_nor_a_display(
        fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyRep loads: what it is linked with is its own business."""
    shutil.rmtree(fake / "coppelia" / "platforms")
    (fake / "coppelia" / "libcoppeliaSim.so").unlink()
    monkeypatch.delenv("DISPLAY")
    assert RLBENCH.problems() == []
    assert make_env(CONFIG).reset(0).std() > 5


def test_who_tells_qt_where_to_draw_needs_no_display(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY")
    assert [problem.message[:10] for problem in RLBENCH.problems()] == ["no display"]
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    assert RLBENCH.problems() == []


def test_a_cluster_job_has_a_display() -> None:
    profile = load_catalog().profile("rlbench")
    text = script(profile, Path("/logs"), "runs", 1, Path("/code"), None)
    assert f"xvfb-run -a {sys.executable}" in text and "COPPELIASIM_ROOT" in text
