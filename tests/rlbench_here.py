"""RLBench as tests have it: our fake on the path of this process and of workers, and environments of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.suites.rlbench.info import RLBENCH
from pvdr_bench.suites.vector import VectorEnv
from tests import fake_rlbench

CONFIG = EnvConfig("rlbench", "lamp_on", RLBENCH.first_camera, image_size=32, action_repeat=2, episode_steps=40,
                   options={"render_size": 64})
DOWN = np.array([0, 0, -1, -1], np.float32)
UP = -DOWN


@pytest.fixture
def faked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
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


def pixels(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def envs(config: EnvConfig = CONFIG) -> VectorEnv:
    """In a process of its own, as runs have it: one simulator each."""
    return VectorEnv(config, 1, workers=0)
