"""Configs of the policies without learning, the floor and the ceiling of every table. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pvdr_bench.rl.config import AlgorithmConfig, key


class RandomConfig(AlgorithmConfig):
    """Actions that look at nothing: the floor."""

    distribution: Literal["uniform", "gaussian"] = key(
        "uniform", "uniform in [-1, 1], or a Gaussian clipped by the environment: PPO's policy before any update",
        "benchmark: the usual random policy")
    std: float = key(0.6065, "standard deviation of the Gaussian", "benchmark: exp(-0.5), PPO's initial one", gt=0)


class ScriptedConfig(AlgorithmConfig):
    """The suite's scripted expert, which sees the simulator's state: the ceiling."""

    noise: float = key(0.0, "standard deviation of Gaussian noise added to its actions", "benchmark: none", ge=0)
