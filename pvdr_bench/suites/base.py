"""The interface between environments and everything else.

Shapes: N environments, H = W image size in pixels, A action dimensions.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import UsageError
from pvdr_bench.suites.cameras import Camera
from pvdr_bench.suites.spaces import BoxSpace

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class EnvConfig:
    """All a worker process needs to build one environment; plain data, so that it can be sent to it."""

    suite: str
    env_id: str
    camera: Camera | None = None  # of those that the suite has; None where it has none
    image_size: int = 64
    renderer: str = "lean"  # stock | lean
    action_repeat: int = 4  # simulator steps per decision
    episode_steps: int = 200  # env_steps (simulator steps) until truncation
    frozen_instance: bool = True  # one task instance with one goal, or a new one per episode
    instance_seed: int = 0
    terminate_on_success: bool = False
    goal_settle_steps: int = 40  # simulator steps after the expert's first success before the goal image
    options: Mapping[str, Any] = field(default_factory=dict)  # the task's settings of the suite's own


@dataclass
class EnvStep:
    """What one decision (``action_repeat`` simulator steps) led to."""

    image: Image  # [H, W, 3], upright, the observation after the step
    dense_reward: float  # the suite's own reward, summed over the repeated simulator steps
    success: bool  # success in any of the repeated simulator steps
    terminated: bool
    truncated: bool
    env_steps: int  # simulator steps actually made
    truth: dict[str, float] = field(default_factory=dict)  # simulator's ground truth, for diagnostics only
    seconds: dict[str, float] = field(default_factory=dict, compare=False)  # of the decision: physics, render


def repeated(config: EnvConfig, begun: int, simulate: Callable[[], tuple[float, bool]],
             seen: Callable[[], tuple[Image, dict[str, float]]]) -> EnvStep:
    """A decision: up to ``action_repeat`` simulator steps with one action, fewer where the episode ends within them.

    Args:
        begun: simulator steps of the episode before it.
        simulate: one simulator step; its dense reward, and whether the task is solved in it.
        seen: asked once, after the last step: the image, and the ground truth.
    """
    reward, success, made, began = 0.0, False, 0, time.perf_counter()
    for _ in range(config.action_repeat):
        gained, solved = simulate()
        reward, success, made = reward + gained, success or solved, made + 1
        if begun + made >= config.episode_steps or (success and config.terminate_on_success):
            break
    terminated = success and config.terminate_on_success
    truncated = not terminated and begun + made >= config.episode_steps
    simulated = time.perf_counter()
    image, truth = seen()
    seconds = {"physics": simulated - began, "render": time.perf_counter() - simulated}
    return EnvStep(image, reward, success, terminated, truncated, made, truth, seconds)


class Env(ABC):
    """One visual robot task, built from an :class:`EnvConfig`. Not thread-safe; one renderer per process."""

    action_space: BoxSpace

    @property
    def action_dim(self) -> int:
        """Number of action dimensions A."""
        return self.action_space.dim

    @abstractmethod
    def reset(self, seed: int) -> Image:
        """Start an episode and return the first image [H, W, 3]. A frozen instance ignores ``seed``."""

    @abstractmethod
    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Apply an action [A] (clipped to the action space) for ``action_repeat`` steps: see :func:`repeated`."""

    def goal_image(self) -> Image:
        """Image [H, W, 3] of the current instance solved: the scripted expert has settled.

        Raises:
            UsageError: the suite has none (its ``SuiteInfo`` says so, and runs that need one are refused before).
        """
        raise UsageError(f"{type(self).__name__} has no goal images")

    def expert_action(self) -> NDArray[np.float32]:
        """The suite's scripted expert's action [A] in the current state.

        Raises:
            UsageError: the suite has none.
        """
        raise UsageError(f"{type(self).__name__} has no scripted expert")

    @abstractmethod
    def close(self) -> None:
        """Free the simulator and the renderer."""


class MujocoEnv(Env):
    """An environment that MuJoCo simulates, so that anybody can draw it."""

    @property
    @abstractmethod
    def simulation(self) -> tuple[Any, Any]:
        """The physics' ``MjModel`` and ``MjData``, to draw from."""


@dataclass
class VectorStep:
    """What one decision led to in N environments, with automatic reset.

    ``image`` is what to act on next: the first image of the next episode where one has just ended.
    ``final_image`` is the true observation after the step; it equals ``image`` where no episode ended.
    """

    image: Image  # [N, H, W, 3]
    final_image: Image  # [N, H, W, 3]
    dense_reward: NDArray[np.float32]  # [N]
    success: NDArray[np.bool_]  # [N]
    terminated: NDArray[np.bool_]  # [N]
    truncated: NDArray[np.bool_]  # [N]
    env_steps: NDArray[np.int64]  # [N] simulator steps made in this decision
    truth: dict[str, NDArray[np.float32]]  # each [N]
    seconds: dict[str, float] = field(default_factory=dict, compare=False)  # physics, render: of the busiest process
