"""Our environments beside gymnasium's over the stock ones, for ``bench rivals``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.algorithms.registry import load_object
from pvdr_bench.errors import UsageError
from pvdr_bench.needed import need
from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.suites.registry import suite
from pvdr_bench.suites.vector import VectorEnv

CAMERA = "corner"  # the suite's package has it too


def measure_environments(config: EnvConfig, n: int, seconds: float) -> dict[str, Any]:
    """Ours in this process beside gymnasium's ``SyncVectorEnv`` of the stock ones with their own renderer: random
    actions, one frame a decision from the same camera at the same size, episodes that start anew.

    Returns:
        ours, stock: env_steps_per_second. ratio.

    Raises:
        UsageError: the suite has no stock environments.
    """
    info = suite(config.suite)
    if not info.stock:
        raise UsageError(f"the suite {info.name} has no stock environments to set ours beside")
    make = load_object(info.stock)
    config = replace(config, camera=info.cameras[CAMERA])
    with VectorEnv(config, n, workers=0) as envs:
        envs.reset(range(n))
        ours = _pace(lambda action: int(envs.step(action).env_steps.sum()), n, envs.action_dim, seconds)
    stock_envs = need("gymnasium", "bench rivals").vector.SyncVectorEnv([partial(make, config, CAMERA)] * n)
    try:
        stock_envs.reset(seed=list(range(n)))
        dim = stock_envs.single_action_space.shape[0]
        stock = _pace(lambda action: n * config.action_repeat if stock_envs.step(action) else 0, n, dim, seconds)
    finally:
        stock_envs.close()
    return {"ours": ours, "stock": stock, "ratio": ours / stock}


def _pace(step: Callable[[NDArray[np.float32]], int], n: int, actions: int, seconds: float) -> float:
    """env_steps a second of decisions with random actions, after one to warm up."""
    rng, made = np.random.default_rng(0), 0
    step(rng.uniform(-1, 1, (n, actions)).astype(np.float32))
    began = time.process_time()
    while time.process_time() - began < seconds or not made:
        made += step(rng.uniform(-1, 1, (n, actions)).astype(np.float32))
    return made / (time.process_time() - began)
