"""``bench env``: simulator steps per second of a vector environment, by number of worker processes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from pvdr_bench.progress import told
from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.suites.registry import DEFAULT_SUITE
from pvdr_bench.suites.registry import suite as suite_of
from pvdr_bench.suites.vector import VectorEnv


def measure(
    env_id: str = "", num_envs: int = 8, workers: Sequence[int] | None = None, seconds: float = 3.0,
    image_size: int = 64, action_repeat: int = 4, renderer: str = "lean", suite: str = DEFAULT_SUITE,
) -> dict[str, Any]:
    """Step with random actions for ``seconds`` at each number of workers (default 1, 2, 4, ... up to the cores).

    Args:
        env_id: of the suite; default: the one that it names for probes.

    Returns:
        workers: a list of rows with ``workers``, ``env_steps_per_second`` (the simulator's, images of every decision
        included), ``decisions_per_second``, ``ms_per_decision`` (of one process: its steps and their frame) and
        ``start_seconds``; best: the largest env_steps_per_second; and the
        sizes.
    """
    cores = os.cpu_count() or 1
    if workers is None:
        workers = [count for count in (1, 2, 4, 8, 16, 32) if count == 1 or count <= min(cores, num_envs)]
    info = suite_of(suite)
    config = EnvConfig(
        suite, env_id or info.probe, info.first_camera, image_size=image_size, renderer=renderer,
        action_repeat=action_repeat, terminate_on_success=False,
    )
    rows = [_measure_workers(config, num_envs, count, seconds) for count in told(workers, "numbers of workers")]
    return {
        "best": max(row["env_steps_per_second"] for row in rows), "workers": rows, "suite": suite,
        "env_id": config.env_id, "num_envs": num_envs, "image_size": image_size, "action_repeat": action_repeat,
        "renderer": renderer, "cores": cores,
    }


def _measure_workers(config: EnvConfig, num_envs: int, workers: int, seconds: float) -> dict[str, float]:
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    with VectorEnv(config, num_envs, workers) as envs:
        envs.reset(range(num_envs))
        ready = time.perf_counter()
        steps = decisions = 0
        while time.perf_counter() - ready < seconds or not decisions:
            action = rng.uniform(-1, 1, (num_envs, envs.action_dim)).astype(np.float32)
            steps += int(envs.step(action).env_steps.sum())
            decisions += num_envs
        spent = time.perf_counter() - ready
        processes = max(1, len(envs.worker_pids))  # no more than there are environments; without workers, this one
    return {
        "workers": workers, "env_steps_per_second": steps / spent, "decisions_per_second": decisions / spent,
        "ms_per_decision": 1e3 * spent * processes / decisions, "start_seconds": ready - started,
    }
