"""The suites' tasks as Gymnasium environments, for use without the harness: ``gymnasium.make("pvdr_bench/reach-v0")``.

An installed package is found by ``import gymnasium`` (entry point ``gymnasium.envs``); elsewhere call :func:`register`.
"""

from pvdr_bench.gym.ids import register

__all__ = ["register"]
