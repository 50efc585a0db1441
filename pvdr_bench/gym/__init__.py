"""The suites' tasks as Gymnasium environments, for use without the harness. Importing this makes their ids known.

    >>> import gymnasium, pvdr_bench.gym
    >>> env = gymnasium.make("pvdr_bench/reach-v0")

``gymnasium.make("pvdr_bench.gym:pvdr_bench/reach-v0")`` imports it by itself.
"""

from pvdr_bench.gym.ids import register

register()

__all__ = ["register"]
