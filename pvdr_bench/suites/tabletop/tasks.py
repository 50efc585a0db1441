"""What the three environments ask for, and the scripted experts that do it.

Conditions and thresholds are those of RLBench's tasks of the same names: a button pressed by more than 3 mm, a lid
turned by more than 2.6 rad. An expert keeps no state: it looks at the scene and says where the hand goes next, so that
it can be asked at any time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.suites.tabletop.scenes import BOX_HEIGHT, BOX_SIDE, LAMP_OFF, LAMP_ON, LID, LID_OPEN

Vector = NDArray[np.float64]

OPEN, CLOSED = 1.0, -1.0  # gripper
PRESSED = 0.003  # metres
TURNED = 2.6  # radians


@dataclass(frozen=True)
class Placement:
    """Where an object stands on the table: metres and radians away from its modelled place."""

    x: float = 0.0
    y: float = 0.0
    yaw: float = 0.0


class Task(ABC):
    """One environment's object.

    Attributes:
        spread: the largest x, y and yaw of a placement.
    """

    spread: ClassVar[Placement]
    start: ClassVar[float] = 0.0  # of the object's joint

    def __init__(self, model: Any, data: Any) -> None:
        self._model, self._data = model, data
        self.joint = int(model.joint("object").qposadr[0])
        self._target = model.site("target").id

    @property
    def moved(self) -> float:
        """How far the object's joint has moved from its start: metres or radians."""
        return abs(float(self._data.qpos[self.joint]) - self.start)

    @property
    def target(self) -> Vector:
        """Position [3] of what the hand has to touch."""
        return np.array(self._data.site_xpos[self._target])

    @abstractmethod
    def solved(self) -> bool:
        """Whether the task's condition holds now."""

    @abstractmethod
    def goal(self) -> Vector:
        """Where (:attr:`target`, [3]) ends when the task is solved."""

    @abstractmethod
    def distance(self, tip: Vector) -> float:
        """Metres that are left: hand to button, or lid's edge to its place."""

    @abstractmethod
    def next(self, tip: Vector) -> tuple[Vector, float]:
        """Where the expert sends fingertips [3] that are at ``tip`` [3], and the gripper's command."""

    def show(self) -> None:  # noqa: B027 - most objects look the same
        """Colour what looks otherwise once the task is solved, before a picture is drawn; nothing does by default."""


class Press(Task):
    """A button that has to go down; the expert comes from above, over whatever stands beside it."""

    spread = Placement(0.06, 0.12, 0.6)
    hover = 0.06  # metres above the button

    def solved(self) -> bool:
        """Pressed by more than 3 mm."""
        return self.moved > PRESSED

    def goal(self) -> Vector:
        """The button's top, at the threshold."""
        return self.target + (0.0, 0.0, self.moved - PRESSED)

    def distance(self, tip: Vector) -> float:
        """Hand to the button's top."""
        return float(np.linalg.norm(self.target - tip))

    def next(self, tip: Vector) -> tuple[Vector, float]:
        """Above the button, then down."""
        over = self.target + (0.0, 0.0, self.hover)
        beside = float(np.linalg.norm(tip[:2] - over[:2]))
        if beside > (0.01 if tip[2] > over[2] - 0.02 else 0.018):
            return (over if beside < 0.05 or tip[2] > over[2] else np.array([*tip[:2], over[2] + 0.02])), CLOSED
        return self.target - (0.0, 0.0, 0.01), CLOSED


class LampPress(Press):
    """A lamp's button, beside its neck: down to it only once the hand is over it."""

    hover = 0.12

    def show(self) -> None:
        """The bulb is lit while the button is down."""
        self._model.geom("bulb").rgba = LAMP_ON if self.solved() else LAMP_OFF


class CloseBox(Task):
    """A lid that hangs outwards; the expert hooks its edge from outside, lifts it past upright and lets it fall."""

    spread = Placement(0.06, 0.06, 0.3)
    start = LID_OPEN
    below, ahead, clear = 0.03, 0.35, 0.022  # of the edge: metres below it, radians of lead, metres outside it

    def __init__(self, model: Any, data: Any) -> None:
        super().__init__(model, data)
        self._body = model.body("task").id

    def solved(self) -> bool:
        """Turned by more than 2.6 rad."""
        return self.moved > TURNED

    def goal(self) -> Vector:
        """Where the lid's edge is when it is shut."""
        return self._world(-LID, 0.0)

    def distance(self, tip: Vector) -> float:
        """The lid's edge to its place."""
        return float(np.linalg.norm(self.target - self.goal()))

    def next(self, tip: Vector) -> tuple[Vector, float]:
        """Beyond the edge, down, along the edge's way, and up out of the way."""
        angle = float(self._data.qpos[self.joint])
        out, high = self._local(tip)
        if angle < 1.2:
            if angle < 0.5 and self.moved < TURNED:  # it lies on something: press it shut
                return self._world(-LID / 2, -0.02 if abs(out + LID / 2) < 0.03 else 0.12), CLOSED
            return self._world(max(out, 0.0), 0.28), CLOSED
        edge_out, edge_high = -LID * math.cos(angle), LID * math.sin(angle)
        if out > edge_out - 0.015 and high < edge_high - 0.012:  # behind the edge: push
            lead = max(angle - self.ahead, 0.9)
            return self._world(self.clear - LID * math.cos(lead), edge_high - self.below), CLOSED
        outside = edge_out + 0.05
        if out > edge_out + 0.025:
            return self._world(outside, edge_high - self.below), CLOSED
        return self._world(outside, max(edge_high + 0.08, min(high, 0.35))), CLOSED

    def _frame(self) -> tuple[Vector, Vector]:
        """The hinge's middle [3], and the direction [3] away from the box."""
        outward = np.array(self._data.xmat[self._body]).reshape(3, 3)[:, 1]
        return self._data.xpos[self._body] + BOX_SIDE * outward + (0.0, 0.0, BOX_HEIGHT), outward

    def _world(self, out: float, high: float) -> Vector:
        """The point [3] in the middle of the hinge's length, so far outwards and above it."""
        hinge, outward = self._frame()
        return np.asarray(hinge + out * outward + (0.0, 0.0, high), np.float64)

    def _local(self, point: Vector) -> tuple[float, float]:
        """How far a point [3] is outwards of the hinge and above it."""
        hinge, outward = self._frame()
        return float((point - hinge) @ outward), float(point[2] - hinge[2])


TASKS: dict[str, type[Task]] = {"lamp_on": LampPress, "close_box": CloseBox, "push_button": Press}
