"""A corpus of any suite with a scripted expert whose actions move a hand along x, y and z and open a gripper.

Episodes are played through the interface of ``suites/base.py``, at instances drawn anew each time, so what is filmed
is what runs see. Who moves the hand is told by :class:`~pvdr_bench.suites.play.Conductor`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.suites.base import Env, EnvConfig, EnvStep, Image
from pvdr_bench.suites.corpora import Clip, Generator
from pvdr_bench.suites.play import Box, Conductor, Vector, WaypointPlay

FRAMES = (40, 60)  # shortest and longest episode
WARM_UP = 10  # decisions, at most, before half of the episodes
REST = np.array([0, 0, 0, 1], np.float32)  # where it is, the gripper open as it begins
_NO_END = 10**9


class EnvGenerator(Generator):
    """Episodes of one environment, a frame a decision.

    Attributes:
        box: where way-points are drawn, metres; what the camera sees of the hand's range.
        action_repeat: simulator steps between two frames.
    """

    truth_columns: ClassVar[dict[str, int]] = {"action": 4, "hand": 3, "object": 3, "mode": 1}
    box: ClassVar[Box]
    action_repeat: ClassVar[int] = 4

    def __init__(self, source: str, image_size: int) -> None:
        self._env = self.build(EnvConfig(
            "", source, image_size=image_size, action_repeat=self.action_repeat, episode_steps=_NO_END,
            frozen_instance=False))

    @abstractmethod
    def build(self, config: EnvConfig) -> Env:
        """The environment; ``config`` still lacks suite, camera and options."""

    def episode(self, rng: np.random.Generator) -> Clip:
        """One episode; the instance, who plays and the noise all come from ``rng``."""
        env = self._env
        env.reset(int(rng.integers(1, 2**31)))  # 0 is the instance that runs are evaluated on
        length = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
        here = env.step(REST)
        if rng.random() < 0.5:
            here = self._warm_up(rng, here, int(rng.integers(0, WARM_UP + 1)))
        image = here.image
        conductor = Conductor(rng, self.box, length)
        frames: list[Image] = []
        rows: list[tuple[NDArray[np.float32], Vector, Vector, int]] = []
        for frame in range(length):
            frames.append(image)
            hand, target = _point(here, "hand"), _point(here, "goal")
            expert = _turned(env.expert_action()) if conductor.wants_expert(frame) else None
            last = frame == length - 1
            action = np.zeros(4, np.float32) if last else _turned(conductor.action(hand, [target], expert))
            rows.append((action.astype(np.float32), hand, target, conductor.mode))
            if not last:
                here = env.step(action.astype(np.float32))
                image = here.image
        return Clip(np.stack(frames), {
            name: np.array([np.ravel(row[i]) for row in rows], np.float32) for i, name in enumerate(self.truth_columns)
        })

    def _warm_up(self, rng: np.random.Generator, here: EnvStep, decisions: int) -> EnvStep:
        play = WaypointPlay(rng, self.box)
        for _ in range(decisions):
            action = _turned(play.action(_point(here, "hand"), [_point(here, "goal")]))
            here = self._env.step(action.astype(np.float32))
        return here

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()


def _point(step: EnvStep, what: str) -> Vector:
    return np.array([step.truth[f"{what}_{axis}"] for axis in "xyz"])


def _turned(action: NDArray[np.floating]) -> Vector:
    """An action [4] with the gripper's sense turned: play closes it above 0, these suites open it."""
    return np.asarray([*action[:3], -action[3]], np.float64)
