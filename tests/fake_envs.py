"""A vector environment inside this process: a bright blob is pushed to a corner of a dark picture.

Shapes: N environments, H = W image size. For tests of the loop alone; it starts no process.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.suites.base import EnvConfig, Image, VectorStep

START, GOAL, RADIUS, SPEED = np.array([0.2, 0.2]), np.array([0.7, 0.6]), 0.08, 0.1


class PointEnvs:
    """``n`` points; ``seen_seeds`` records every seed an episode was started with."""

    action_dim = 2
    seen_seeds: list[int] = []  # of all instances, for tests

    def __init__(self, config: EnvConfig, n: int) -> None:
        self.config, self.n = config, n
        axis = (np.arange(config.image_size) + 0.5) / config.image_size
        self.x, self.y = np.meshgrid(axis, axis)
        self.closed = False

    def _render(self, position: NDArray[np.float64]) -> Image:
        blob = np.exp(-((self.x - position[0]) ** 2 + (self.y - position[1]) ** 2) / 0.1)
        image: Image = np.repeat((255 * blob).astype(np.uint8)[..., None], 3, -1)
        return image

    def reset(self, seeds: Sequence[int]) -> Image:
        PointEnvs.seen_seeds += seeds
        self.position = np.repeat(START[None], self.n, 0)
        self.steps = np.zeros(self.n, np.int64)
        return np.stack([self._render(p) for p in self.position])

    def step(self, actions: NDArray[np.float32]) -> VectorStep:
        assert np.abs(actions).max() <= 1
        self.position = np.clip(self.position + SPEED * actions, 0, 1)
        self.steps += self.config.action_repeat
        distance = np.linalg.norm(self.position - GOAL, axis=1)
        success = distance < RADIUS
        terminated = success & self.config.terminate_on_success
        truncated = (self.steps >= self.config.episode_steps) & ~terminated
        final = np.stack([self._render(p) for p in self.position])
        image, ended = final.copy(), terminated | truncated
        for i in np.flatnonzero(ended):
            self.position[i], self.steps[i] = START, 0
            image[i] = self._render(START)
        return VectorStep(image, final, -distance.astype(np.float32), success, terminated, truncated,
                          np.full(self.n, self.config.action_repeat), {"goal_distance": distance.astype(np.float32)})

    def goal_image(self) -> Image:
        return self._render(GOAL)

    def expert_action(self) -> NDArray[np.float32]:
        return np.clip((GOAL - self.position) / SPEED, -1, 1).astype(np.float32)

    def close(self) -> None:
        self.closed = True


def make_envs(config: EnvConfig, n: int) -> PointEnvs:
    """The factory that the loop is given."""
    return PointEnvs(config, n)
