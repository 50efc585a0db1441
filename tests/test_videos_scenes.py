"""The real generators: what they film, and that an episode depends on its seed alone."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

from pvdr_bench.suites.corpora import Generator
from pvdr_bench.videos.generate import check_frames
from pvdr_bench.videos.readers.base import Reader
from pvdr_bench.videos.sources import source, sources

pytest.importorskip("mujoco")


def made(corpus: str, scene: str) -> Generator:
    return source(corpus).load()(scene, 32)


def rng(number: int) -> np.random.Generator:
    return np.random.default_rng([0, number])


@pytest.mark.parametrize("corpus", ["metaworld", "fetch-push"])
def test_episodes(corpus: str) -> None:
    pytest.importorskip("metaworld" if corpus == "metaworld" else "mujoco")
    kind = source(corpus).load()
    generator = made(corpus, kind.sources[0])
    clips = [generator.episode(rng(i)) for i in range(3)]
    for clip in clips:
        length = len(clip.frames)
        assert 40 <= length <= 60 and clip.frames.shape == (length, 32, 32, 3)
        check_frames(clip.frames, corpus)
        assert {n: v.shape for n, v in clip.truth.items()} == {n: (length, w) for n, w in kind.truth_columns.items()}
        steps = np.linalg.norm(np.diff(clip.truth["hand"], axis=0), axis=1)
        assert 0.003 < steps.mean() < 0.06  # metres per frame
        assert (np.abs(np.diff(clip.frames.astype(int), axis=0)).sum((1, 2, 3)) > 0).mean() > 0.7
        assert not clip.truth["action"][-1].any()
    again = made(corpus, kind.sources[0])
    np.random.seed(99)  # numpy's global generator must play no part
    for i, clip in enumerate(clips):
        repeated = again.episode(rng(i))
        assert np.array_equal(repeated.frames, clip.frames)
        assert all(np.array_equal(repeated.truth[n], clip.truth[n]) for n in clip.truth)
    generator.close()
    again.close()


def test_actions_tell_the_motion_that_follows() -> None:
    pytest.importorskip("metaworld")
    generator = made("metaworld", "reach")
    commands, motions = [], []
    for i in range(6):
        truth = generator.episode(rng(i)).truth
        commands.append(truth["action"][:-1, :3])
        motions.append(np.diff(truth["hand"], axis=0))
    a, m = np.concatenate(commands), np.concatenate(motions)
    assert all(np.corrcoef(a[:, k], m[:, k])[0, 1] > 0.4 for k in range(3))


def test_instances_differ_between_episodes() -> None:
    pytest.importorskip("metaworld")
    generator = made("metaworld", "drawer-open")
    places = {tuple(np.round(generator.episode(rng(i)).truth["object"][0], 4)) for i in range(4)}
    assert len(places) == 4


def _fetch_push(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real environment, loaded past its package's __init__ (which wants packages that this project does not)."""
    spec = importlib.util.find_spec("gymnasium_robotics")
    if spec is None:
        pytest.skip("gymnasium-robotics is not installed")
    package = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", package)
    return importlib.import_module("gymnasium_robotics.envs.fetch.push").MujocoFetchPushEnv(reward_type="dense")


def test_physics_is_that_of_fetch_push(monkeypatch: pytest.MonkeyPatch) -> None:
    from pvdr_bench.suites.fetch.corpus import FetchScene

    real, ours = _fetch_push(monkeypatch), FetchScene()
    real.reset(seed=0)
    ours.reset(rng(0))
    block = slice(real.data.qpos.size - 7, None)
    ours.data.qpos[block] = real.data.qpos[block]
    assert np.array_equal(ours.data.qpos, real.data.qpos)
    for action in rng(1).uniform(-1, 1, (30, 4)).astype(np.float32):
        real.step(action)
        ours.step(action)
        assert np.allclose(ours.data.qpos, real.data.qpos, atol=1e-9)


def test_fetch_moves_as_commanded_and_blocks_lie_around_the_hand() -> None:
    from pvdr_bench.suites.fetch.corpus import FetchScene

    scene = FetchScene()
    scene.reset(rng(0))
    assert 0.1 <= np.linalg.norm(scene.block[:2] - scene.hand[:2]) <= 0.15 * 2**0.5 + 1e-6
    for axis in range(3):
        for sign in (1.0, -1.0):
            scene.reset(rng(0))
            action = np.array([0.0, 0.0, 1.0, 0.0], np.float32)
            for _ in range(4):  # away from the table, so that there is room to go down
                scene.step(action)
            action[:3] = 0.0
            action[axis] = sign
            before = scene.hand
            for _ in range(3):
                scene.step(action)
            moved = scene.hand - before
            assert np.argmax(np.abs(moved)) == axis and np.sign(moved[axis]) == sign
            assert 0.03 < abs(moved[axis]) < 0.2


def test_fetch_pushes_the_block() -> None:
    generator = made("fetch-push", "fetch-push")
    moved = []
    for i in range(6):
        block = generator.episode(rng(i)).truth["object"]
        moved.append(float(np.linalg.norm(block[-1, :2] - block[0, :2])))
    assert sum(m > 0.03 for m in moved) >= 2


def test_the_registry_loads() -> None:
    """Generators say what they draw on; real videos have readers, and an own test (test_videos_readers)."""
    for entry in sources():
        kind = entry.load()
        if not issubclass(kind, Generator):
            assert issubclass(kind, Reader)
            continue
        assert kind.sources and kind.packages and entry.episodes >= len(kind.sources)
