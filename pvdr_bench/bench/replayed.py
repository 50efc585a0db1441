"""Updates of a learner that searches and learns from replay, on random pictures: for ``bench gpu-check``."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pvdr_bench.algorithms.efficientzero.config import EfficientZeroConfig
from pvdr_bench.algorithms.efficientzero.learner import EfficientZeroLearner
from pvdr_bench.bench.memory import device_peak_bytes, reset_peaks
from pvdr_bench.catalog import load_catalog
from pvdr_bench.rl.config import config_as
from pvdr_bench.rl.contract import LearnerContext, Transition
from pvdr_bench.rl.facts import TaskFacts
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.suites.registry import DEFAULT_SUITE, suite
from pvdr_bench.suites.spaces import BoxSpace, ImageSpace
from pvdr_bench.training.reward import reward_facts

UPDATES = 3  # the first warms up
EPISODE = 50


def measure(method: str, scale: str, device: str, seed: int = 0) -> Iterator[dict[str, Any]]:
    """After each update: seconds of the first and the fastest of the others, losses, and a GPU's peak memory."""
    catalog, place = load_catalog(), torch.device(device)
    config = config_as(EfficientZeroConfig, catalog.config(method, scale).value)
    protocol = catalog.protocol(scale=scale)
    size, actions = protocol.image_size, suite(DEFAULT_SUITE).action_space.dim
    with tempfile.TemporaryDirectory(prefix="pvdr-bench-") as name:
        replay = EpisodeReplay(Path(name), protocol.num_envs, size, actions)
        try:
            task = TaskFacts(ImageSpace(size, size), BoxSpace(actions), num_envs=protocol.num_envs,
                             budget_decisions=protocol.env_steps // protocol.action_repeat,
                             reward=reward_facts(protocol))
            learner = EfficientZeroLearner(LearnerContext(config=config, task=task, seed=seed, device=place,
                                                          replay=replay))
            fill(learner, replay, 2 * config.train.batch, seed)
            reset_peaks(place)
            seconds: list[float] = []
            while len(seconds) < UPDATES:
                started = time.perf_counter()
                metrics = learner.update()
                if place.type == "cuda":
                    torch.cuda.synchronize(place)
                seconds.append(time.perf_counter() - started)
                yield {"first_seconds": seconds[0], "seconds": min(seconds[1:], default=None), "metrics": metrics,
                       "batch": config.train.batch, "peak_device_bytes": device_peak_bytes(place)}
        finally:
            replay.close()


def fill(learner: EfficientZeroLearner, replay: EpisodeReplay, decisions: int, seed: int) -> None:
    """At least ``decisions`` evenly drawn ones on random pictures, in episodes of :data:`EPISODE`."""
    n, size = len(replay.streams), replay.image_size
    generator, carry = torch.Generator().manual_seed(seed), learner.initial(n)
    never = torch.zeros(n, dtype=torch.bool)
    for step in range(math.ceil(decisions / n)):
        image = torch.randint(256, (n, size, size, 3), dtype=torch.uint8, generator=generator)
        first, ends = (torch.full((n,), step % EPISODE == place) for place in (0, EPISODE - 1))
        action, carry, extras = learner.act(image, first, carry, "train", generator)
        reward = -torch.rand(n, generator=generator)
        made = Transition(image, first, action, reward, never, ends, image, extras)
        replay.add(made)
        learner.observe(made)
