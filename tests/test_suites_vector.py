"""Vector environments: the same with any number of workers, honest about dead ones, and nothing left behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pvdr_bench.errors import SetupError, TrainingError, UsageError
from pvdr_bench.suites import make_env, registry
from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.suites.cameras import CameraPose
from pvdr_bench.suites.dummy.info import DUMMY
from pvdr_bench.suites.group import next_seed
from pvdr_bench.suites.info import SuiteInfo
from pvdr_bench.suites.spaces import ImageSpace
from pvdr_bench.suites.vector import VectorEnv

CAMERA = CameraPose((0.0, 0.0, 0.0), 1.0, 0.0, 0.0)
POINT = EnvConfig("dummy", "point", CAMERA, image_size=16, action_repeat=4, episode_steps=40, frozen_instance=False,
                  terminate_on_success=True)
SEEDS = [3, 1, 4, 1, 5]


def record(envs: VectorEnv, decisions: int = 25) -> list[np.ndarray]:
    """Everything that a caller sees: experts first, then random actions."""
    rng = np.random.default_rng(0)
    seen = [envs.reset(SEEDS), envs.goal_image()]
    for i in range(decisions):
        action = envs.expert_action() if i < 12 else rng.uniform(-1, 1, (5, 2)).astype(np.float32)
        step = envs.step(action)
        seen += [step.image, step.final_image, step.dense_reward, step.success, step.terminated, step.truncated,
                 step.env_steps, *step.truth.values()]
    return seen


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_gone(pids: list[int], seconds: float = 15.0) -> list[int]:
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(alive(pid) for pid in pids):
        time.sleep(0.05)
    return [pid for pid in pids if alive(pid)]


def test_any_number_of_workers_gives_the_same() -> None:
    with VectorEnv(POINT, 5, workers=0) as envs:
        reference = record(envs)
    for workers in (1, 2, 9):
        with VectorEnv(POINT, 5, workers=workers) as envs:
            assert len(envs.worker_pids) == min(workers, 5)
            for a, b in zip(record(envs), reference, strict=True):
                np.testing.assert_array_equal(a, b)


def test_automatic_reset_keeps_the_final_image() -> None:
    with VectorEnv(POINT, 2, workers=0) as envs:
        envs.reset([7, 8])
        steps = [envs.step(np.zeros((2, 2), np.float32)) for _ in range(10)]
        assert all((step.image == step.final_image).all() for step in steps[:9])
        last = steps[9]
        assert last.truncated.all() and not last.terminated.any()
        np.testing.assert_array_equal(last.final_image, steps[8].image)
        for i, seed in enumerate((7, 8)):
            np.testing.assert_array_equal(last.image[i], make_env(POINT).reset(next_seed(seed, 1)))
            assert not np.array_equal(last.image[i], last.final_image[i])
    seeds = {next_seed(seed, episode) for seed in range(50) for episode in range(50)}
    assert len(seeds) == 2500 and min(seed for seed in seeds if seed >= 50) >= 2**32


def test_termination_on_success() -> None:
    with VectorEnv(POINT, 3, workers=0) as envs:
        envs.reset([0, 1, 2])
        ended = [envs.step(envs.expert_action()) for _ in range(10)]
    for step in ended:
        np.testing.assert_array_equal(step.terminated, step.success)
    assert any(step.terminated.any() for step in ended)


def test_returned_arrays_are_the_callers_own() -> None:
    with VectorEnv(POINT, 2, workers=1) as envs:
        first = envs.reset([0, 1])
        kept = first.copy()
        step = envs.step(np.ones((2, 2), np.float32))
        np.testing.assert_array_equal(first, kept)
        image = step.image.copy()
        envs.step(np.ones((2, 2), np.float32))
        np.testing.assert_array_equal(step.image, image)


@pytest.mark.parametrize("moment", ["step", "reset", "expert_action", "goal_image"])
def test_dead_worker_is_reported(moment: str) -> None:
    calls = {"step": lambda envs: envs.step(np.zeros((4, 2), np.float32)), "reset": lambda envs: envs.reset(range(4)),
             "expert_action": lambda envs: envs.expert_action(), "goal_image": lambda envs: envs.goal_image()}
    with VectorEnv(POINT, 4, workers=2) as envs:
        envs.reset(range(4))
        os.kill(envs.worker_pids[0], signal.SIGKILL)
        with pytest.raises(TrainingError, match=r"worker 0 .* exit code -9 \(SIGKILL\)(.|\n)*memory"):
            calls[moment](envs)
        pids = envs.worker_pids
    assert wait_gone(pids) == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_with_fewer_seeds_the_first_environments_play_alone(workers: int) -> None:
    """They do what as many environments would do that are all there are; afterwards all play again."""
    def seen(envs: VectorEnv) -> list[np.ndarray]:
        frames = [envs.reset([3, 1])]
        for _ in range(12):
            step = envs.step(envs.expert_action())
            frames += [step.image, step.final_image, step.dense_reward, step.truncated, *step.truth.values()]
        return frames

    with VectorEnv(POINT, 2, workers=0) as two, VectorEnv(POINT, 5, workers=workers) as five:
        assert len(five.reset(SEEDS)) == 5
        for ours, theirs in zip(seen(five), seen(two), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        with pytest.raises(UsageError, match="shape"):
            five.step(np.zeros((5, 2), np.float32))
        assert len(five.reset(SEEDS)) == 5
        assert five.step(five.expert_action()).image.shape[0] == 5
    with VectorEnv(POINT, 5, workers=workers) as fresh, VectorEnv(POINT, 5, workers=workers) as used:
        used.reset([9])
        used.step(np.ones((1, 2), np.float32))
        for ours, theirs in zip(record(used), record(fresh), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    with VectorEnv(POINT, 2, workers=0) as envs, pytest.raises(UsageError, match="0 seeds"):
        envs.reset([])


def test_errors_inside_a_worker_come_out_as_they_are() -> None:
    with pytest.raises(UsageError, match="did you mean 'point'"):
        VectorEnv(dataclasses.replace(POINT, env_id="pint"), 2, workers=1)
    with VectorEnv(POINT, 2, workers=1) as envs:
        envs.reset([0, 1])
        with pytest.raises(TrainingError, match="worker 0: AttributeError"):
            envs._ask([("no_such_call",)])
        envs.step(np.zeros((2, 2), np.float32))  # it goes on serving


def test_bad_calls() -> None:
    with pytest.raises(UsageError):
        VectorEnv(POINT, 0)
    envs = VectorEnv(POINT, 2, workers=0)
    with pytest.raises(UsageError, match="3 seeds for 2"):
        envs.reset([1, 2, 3])
    envs.reset([1, 2])
    with pytest.raises(UsageError, match="shape"):
        envs.step(np.zeros((3, 2), np.float32))
    with pytest.raises(TrainingError, match="finite"):
        envs.step(np.full((2, 2), np.nan, np.float32))
    envs.close()
    envs.close()
    with pytest.raises(UsageError, match="closed"):
        envs.reset([1, 2])


def test_workers_leave_a_signal_to_the_parent() -> None:
    with VectorEnv(POINT, 2, workers=1) as envs:
        before = envs.reset([0, 1])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(envs.worker_pids[0], number)
        np.testing.assert_array_equal(envs.reset([0, 1]), before)
        pids = envs.worker_pids
    assert wait_gone(pids) == []


def test_a_signal_does_not_kill_a_worker_that_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster signals the whole tree, at any moment."""
    real = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> Any:
        process = real(*arguments, **options)
        process.send_signal(signal.SIGTERM)
        return process

    monkeypatch.setattr("pvdr_bench.suites.processes.subprocess.Popen", start)
    with VectorEnv(POINT, 2, workers=2) as envs:
        assert len(envs.reset([0, 1])) == 2
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # this process hears them still


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("where", ["main thread", "second thread"])
def test_nothing_is_left_after_kill_9_of_the_parent(where: str) -> None:
    code = f"""
import sys, threading, time
from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.suites.cameras import CameraPose
from pvdr_bench.suites.vector import VectorEnv
def main():
    envs = VectorEnv(EnvConfig("dummy", "point", CameraPose((0, 0, 0), 1, 0, 0), image_size=16), 4, workers=2)
    envs.reset(range(4))
    print(*envs.worker_pids, flush=True)
    time.sleep(600)
if {where!r} == "main thread": main()
else: threading.Thread(target=main).start()
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    for pid in pids:
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "pvdr-bench-frames" in maps and "/dev/shm" not in maps, "the frames' memory has no name to leave behind"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_gone(pids) == []


def test_workers_run_on_one_thread() -> None:
    with VectorEnv(POINT, 1, workers=1) as envs:
        environment = Path(f"/proc/{envs.worker_pids[0]}/environ").read_bytes().decode().split("\0")
    assert "OMP_NUM_THREADS=1" in environment and "LP_NUM_THREADS=1" in environment


def test_metaworld_in_a_worker_equals_metaworld_here() -> None:
    from pvdr_bench.suites.metaworld.cameras import CAMERAS

    config = EnvConfig("metaworld", "reach-v3", CAMERAS["metaworld"], image_size=32, episode_steps=16)
    seen = []
    for workers in (0, 1):
        with VectorEnv(config, 2, workers) as envs:
            rows = [envs.reset([0, 1]), envs.goal_image()]
            for _ in range(6):
                step = envs.step(envs.expert_action())
                rows += [step.image, step.final_image, step.dense_reward, step.truth["goal_distance"]]
            seen.append(rows)
            assert np.array_equal(rows[0][0], rows[0][1]), "a frozen instance"
    for a, b in zip(*seen, strict=True):
        np.testing.assert_array_equal(a, b)


def test_suites_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"metaworld", "dummy"} <= set(registry.suites())
    with pytest.raises(UsageError, match="did you mean 'metaworld'"):
        make_env(dataclasses.replace(POINT, suite="metawolrd"))
    mine = dataclasses.replace(DUMMY, name="mine", factory="no_such_package.envs:Mine")
    monkeypatch.setattr(registry, "_found", lambda path: ({"mine": mine}, {}))
    with pytest.raises(SetupError, match="no_such_package"):
        make_env(dataclasses.replace(POINT, suite="mine"))


def test_dummy_is_solved_by_its_expert_and_shows_it() -> None:
    env = make_env(dataclasses.replace(POINT, frozen_instance=True, episode_steps=200))
    start, goal = env.reset(0), env.goal_image()
    np.testing.assert_array_equal(env.reset(5), start)
    for _ in range(40):
        step = env.step(env.expert_action())
        if step.terminated:
            break
    assert step.success and step.truth["goal_distance"] < 0.08
    assert np.abs(step.image.astype(int) - goal).sum() < np.abs(start.astype(int) - goal).sum()


@pytest.mark.parametrize(("limit", "asked", "processes"), [(None, 0, 0), (None, 2, 2), (1, 0, 5), (2, 1, 3), (9, 0, 1)])
def test_a_suite_says_how_many_environments_a_process_may_hold(monkeypatch: pytest.MonkeyPatch, limit: int | None,
                                                               asked: int, processes: int) -> None:
    """A simulator that can exist once in a process gets processes of its own, and the numbers are the same."""
    with VectorEnv(POINT, 5, workers=0) as envs:
        reference = record(envs, 4)
    limited = dataclasses.replace(DUMMY, envs_per_process=limit)
    monkeypatch.setattr(registry, "_found", lambda path: ({"dummy": limited}, {}))
    with VectorEnv(POINT, 5, workers=asked) as envs:
        assert len(envs.worker_pids) == processes
        assert all(worker.part.stop - worker.part.start <= (limit or 5) for worker in envs._workers)
        for a, b in zip(record(envs, 4), reference, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_worker_starts_with_the_variables_of_its_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read when a process begins, such as a library path, cannot be set inside it."""
    class Needy(SuiteInfo):
        def worker_environment(self) -> dict[str, str]:
            return {"NEEDY_ROOT": "/opt/needy"}

    needy = Needy(**{field.name: getattr(DUMMY, field.name) for field in dataclasses.fields(DUMMY)})
    monkeypatch.setattr(registry, "_found", lambda path: ({"dummy": needy}, {}))
    with VectorEnv(POINT, 1, workers=1) as envs:
        environment = Path(f"/proc/{envs.worker_pids[0]}/environ").read_text().split("\0")
    assert "NEEDY_ROOT=/opt/needy" in environment and "NEEDY_ROOT" not in os.environ


def test_spaces_of_environments_are_those_that_the_suite_declares() -> None:
    with VectorEnv(POINT, 2, workers=1) as envs:
        assert envs.action_space == DUMMY.action_space and envs.action_dim == 2
        assert envs.observation_space == ImageSpace(16, 16)
        assert envs.reset([0, 1]).shape[1:] == envs.observation_space.shape
