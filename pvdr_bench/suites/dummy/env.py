"""A pixel task without a simulator, for tests of everything around the environment: a dot moves to a square.

``env_id`` is ``point``. A frozen instance has one start and one goal, else both come from the seed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.suites.base import Env, EnvConfig, EnvStep, Image, repeated
from pvdr_bench.suites.dummy.info import DUMMY

SPEED = 0.02  # of the picture's width in one simulator step
RADIUS = 0.08  # a success is a dot this near to the goal
_BACKGROUND, _DOT, _SQUARE = (40, 40, 40), (230, 60, 60), (60, 200, 90)


class DummyEnv(Env):
    """A dot at ``position`` [2] in [0, 1]; an action [2] is its velocity in units of :data:`SPEED`."""

    action_space = DUMMY.action_space

    def __init__(self, config: EnvConfig) -> None:
        self.config = config
        self._draw(np.random.default_rng(config.instance_seed))
        self._position = self._start.copy()
        self._steps = 0

    def _draw(self, rng: np.random.Generator) -> None:
        self._start, self._goal = rng.uniform(0.1, 0.35, 2), rng.uniform(0.6, 0.9, 2)

    def reset(self, seed: int) -> Image:
        """First image; a frozen instance ignores ``seed``."""
        if not self.config.frozen_instance:
            self._draw(np.random.default_rng(seed))
        self._position, self._steps = self._start.copy(), 0
        return self._image(self._position)

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Move the dot; see :class:`~pvdr_bench.suites.base.Env`."""
        move = SPEED * np.clip(np.asarray(action, np.float64), -1.0, 1.0)

        def simulate() -> tuple[float, bool]:
            self._position = np.clip(self._position + move, 0.0, 1.0)
            return -self._distance(), self._distance() < RADIUS

        step = repeated(self.config, self._steps, simulate, lambda: (self._image(self._position), self._truth()))
        self._steps += step.env_steps
        return step

    def goal_image(self) -> Image:
        """The dot in the middle of the square."""
        return self._image(self._goal)

    def expert_action(self) -> NDArray[np.float32]:
        """Straight to the goal, without overshooting."""
        reach = SPEED * self.config.action_repeat
        return np.clip((self._goal - self._position) / reach, -1.0, 1.0).astype(np.float32)

    def close(self) -> None:
        """Nothing to free."""

    def _distance(self) -> float:
        return float(np.linalg.norm(self._goal - self._position))

    def _truth(self) -> dict[str, float]:
        (hx, hy), (gx, gy) = self._position, self._goal
        return {"hand_x": float(hx), "hand_y": float(hy), "hand_z": 0.0, "goal_x": float(gx), "goal_y": float(gy),
                "goal_z": 0.0, "goal_distance": self._distance()}

    def _image(self, position: NDArray[np.float64]) -> Image:
        size = self.config.image_size
        axis = (np.arange(size) + 0.5) / size
        x, y = axis[None, :], axis[::-1, None]
        image = np.full((size, size, 3), _BACKGROUND, np.uint8)
        image[(np.abs(x - self._goal[0]) < 0.06) & (np.abs(y - self._goal[1]) < 0.06)] = _SQUARE
        image[(x - position[0]) ** 2 + (y - position[1]) ** 2 < 0.05**2] = _DOT
        return image
