"""How hands move in generated corpora: random way-points, time-correlated noise. No simulator in here.

The planner must have seen motion in every direction, not only the experts' towards their goals; therefore a large
share of all frames is way-point play.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

PLAYERS = ("waypoint", "mixed", "expert", "noise")
SHARES = (0.45, 0.30, 0.15, 0.10)


@dataclass(frozen=True)
class Box:
    """An axis-aligned box of the hand's workspace, metres."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def draw(self, rng: np.random.Generator) -> Vector:
        """A uniform point."""
        return rng.uniform(self.low, self.high)

    def clip(self, point: Vector) -> Vector:
        """The nearest point of the box."""
        return np.clip(point, self.low, self.high)


class OUNoise:
    """A stationary Ornstein-Uhlenbeck process in discrete time (AR(1)).

    Args:
        rng: source of randomness.
        size: number of dimensions.
        sd: standard deviation of each value.
        decay: correlation of values one frame apart, in [0, 1).
    """

    def __init__(self, rng: np.random.Generator, size: int, sd: float, decay: float = 0.8) -> None:
        self._rng, self._sd, self._decay = rng, sd, decay
        self._value = rng.normal(0.0, sd, size)

    def step(self) -> Vector:
        """The present value [size]; then move on."""
        value = self._value
        fresh = self._rng.normal(0.0, self._sd, value.shape)
        self._value = self._decay * value + np.sqrt(1.0 - self._decay**2) * fresh
        return value


@dataclass
class WaypointPlay:
    """Drives the hand in straight lines to random points, resting and opening or closing the gripper on the way.

    Each point is uniform in the box, or (``near`` of them) close to an object, so that objects get touched.
    Speed is drawn per point; a point counts as reached within ``reached`` metres, or is given up after ``patience``
    frames (an object may stand in the way).
    """

    rng: np.random.Generator
    box: Box
    near: float = 0.3
    near_sd: float = 0.04
    slowdown: float = 0.04  # metres from the point where the hand begins to slow down
    reached: float = 0.025
    patience: int = 25
    _target: Vector | None = field(default=None, init=False)
    _speed: float = field(default=1.0, init=False)
    _frames: int = field(default=0, init=False)
    _rest: int = field(default=0, init=False)
    _gripper: float = field(default=-1.0, init=False)

    def action(self, hand: Vector, objects: list[Vector]) -> Vector:
        """Action [4] in [-1, 1]: hand velocity x, y, z and gripper (-1 open, 1 closed).

        Args:
            hand: position [3], metres.
            objects: positions [3] of objects worth touching.
        """
        if self._target is None or self._frames > self.patience or self._distance(hand) < self.reached:
            self._next(objects)
        self._frames += 1
        if self._rest > 0:
            self._rest -= 1
            return np.array([0.0, 0.0, 0.0, self._gripper])
        assert self._target is not None
        delta = self._target - hand
        distance = float(np.linalg.norm(delta))
        # the largest component gets the full speed, so that all directions are about equally fast in the commands
        velocity = delta / max(float(np.abs(delta).max()), 1e-9) * self._speed * min(1.0, distance / self.slowdown)
        return np.append(velocity, self._gripper)

    def _distance(self, hand: Vector) -> float:
        assert self._target is not None
        return float(np.linalg.norm(self._target - hand))

    def _next(self, objects: list[Vector]) -> None:
        rng = self.rng
        if objects and rng.random() < self.near:
            chosen = objects[rng.integers(len(objects))]
            self._target = self.box.clip(chosen + rng.normal(0.0, self.near_sd, 3))
        else:
            self._target = self.box.draw(rng)
        self._speed = float(rng.uniform(0.5, 1.0))
        self._frames = 0
        self._rest = int(rng.integers(1, 4)) if rng.random() < 0.2 else 0
        if rng.random() < 0.5:
            self._gripper = -self._gripper


class Conductor:
    """Decides at every frame of an episode of ``length`` frames who acts: way-point play, a scripted expert, noise.

    ======== ===== ================================================================================================
    player   share what the hand does
    ======== ===== ================================================================================================
    waypoint 45 %  random way-points anywhere in the box, some near objects; gripper opened and closed at random
    mixed    30 %  way-points, then the expert with noise, then way-points again, changing at random times
    expert   15 %  the expert with Ornstein-Uhlenbeck noise (sd 0.1 to 0.6)
    noise    10 %  Ornstein-Uhlenbeck noise alone
    ======== ===== ================================================================================================
    """

    def __init__(self, rng: np.random.Generator, box: Box, length: int) -> None:
        self.mode = int(rng.choice(len(PLAYERS), p=SHARES))  # a corpus's column of that name: who plays
        name = PLAYERS[self.mode]
        self._play = WaypointPlay(rng, box)
        noise_sd = {"waypoint": rng.uniform(0.0, 0.15), "noise": rng.uniform(0.5, 1.0)}.get(name, rng.uniform(0.1, 0.6))
        self._noise = OUNoise(rng, 4, float(noise_sd), 0.9 if name == "noise" else 0.8)
        first, second = sorted(rng.integers(0, length, size=2))
        self._expert = {"expert": (0, length), "mixed": (int(first), int(second))}.get(name, (0, 0))
        self._noise_only = name == "noise"

    def wants_expert(self, frame: int) -> bool:
        """Whether the expert is asked at this frame."""
        return self._expert[0] <= frame < self._expert[1]

    def action(self, hand: Vector, objects: list[Vector], expert: Vector | None) -> NDArray[np.float32]:
        """Action [4] in [-1, 1]: hand x, y, z and gripper (-1 open); ``expert`` is its action where it was asked."""
        if expert is not None:
            base = np.clip(expert, -1.0, 1.0)
        elif self._noise_only:
            base = np.zeros(4)
        else:
            base = self._play.action(hand, objects)
        return np.clip(base + self._noise.step(), -1.0, 1.0).astype(np.float32)
