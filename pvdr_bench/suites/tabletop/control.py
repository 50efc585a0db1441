"""How actions move the tabletop's arm, and the kinematics behind it; the action modes are those of
``arm_actions.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.suites.arm_actions import CONTROL_STEP, HAND_STEP, JOINT_SPEED, JOINT_STEP
from pvdr_bench.suites.gl import import_mujoco
from pvdr_bench.suites.tabletop import panda

Vector = NDArray[np.float64]

LEASH = 0.05  # metres by which the command may run ahead of the hand, so that pressing does not wind up
REACH = ((-0.05, -0.45, 0.77), (0.6, 0.45, 1.5))  # metres: where the fingertips can be sent
_DAMPING, _REST = 0.03, 0.02  # of the inverse kinematics, and its pull towards the start's posture
_TURN = 0.15  # radians that a joint may turn in one control step of ``end_effector``


@dataclass(frozen=True)
class Command:
    """What the servos were last told: joints [7] in radians, fingertips [3] in metres."""

    joints: Vector
    tip: Vector


class Arm:
    """The Panda of one simulation.

    Args:
        model: a compiled scene. data: its state; the arm's servos are written there.
        mode: a name of :data:`~pvdr_bench.suites.arm_actions.MODES`.
    """

    def __init__(self, model: Any, data: Any, mode: str) -> None:
        self._mujoco = import_mujoco()
        self._model, self._data, self.mode = model, data, mode
        self._own = self._mujoco.MjData(model)  # for the kinematics of joints that the arm has not reached
        first = int(model.joint("joint1").qposadr[0])
        self._joints = slice(first, first + 7)
        dof = int(model.joint("joint1").dofadr[0])
        self._dofs = slice(dof, dof + 7)
        self._fingers = [int(model.joint(f"finger{side}").qposadr[0]) for side in (0, 1)]
        self._tip = model.site("tip").id
        self._low, self._high = (np.array(side) for side in zip(*panda.LIMITS, strict=True))
        self._jacobian = np.zeros((6, model.nv))
        self.reset()
        self._rotation = np.array(data.site_xmat[self._tip]).reshape(3, 3)

    def reset(self) -> None:
        """Put the arm at its start, at rest, the gripper open."""
        data = self._data
        data.qpos[self._joints] = data.ctrl[:7] = panda.START
        data.qpos[self._fingers] = data.ctrl[7:] = panda.FINGER_OPEN
        self._mujoco.mj_kinematics(self._model, data)
        self.command = Command(np.array(panda.START), self.tip)

    @property
    def tip(self) -> Vector:
        """Position [3] of the point between the fingertips."""
        return np.array(self._data.site_xpos[self._tip])

    def apply(self, action: Vector) -> None:
        """Set the servos for one control step from an action in [-1, 1], [4] or [8]."""
        now = self._data.qpos[self._joints]
        if self.mode == "end_effector":
            wanted = self.command.tip + HAND_STEP * action[:3]
            tip = self.tip
            wanted = np.clip(tip + np.clip(wanted - tip, -LEASH, LEASH), *REACH)
            joints = self.solve(self.command.joints, wanted)
            self.command = Command(joints, wanted)
        else:
            if self.mode == "joint_position":
                joints = now + JOINT_STEP * action[:7]
            else:
                joints = self.command.joints + CONTROL_STEP * JOINT_SPEED * action[:7]
                joints = now + np.clip(joints - now, -JOINT_STEP, JOINT_STEP)
            self.command = Command(np.clip(joints, self._low, self._high), self.tip)
        self._data.ctrl[:7] = self.command.joints
        self._data.ctrl[7:] = panda.FINGER_OPEN if action[-1] > 0.0 else 0.0

    def action(self, move: Vector, gripper: float, steps: int) -> NDArray[np.float32]:
        """The action of this mode that, held for ``steps`` control steps, moves the fingertips by ``move`` [3] metres.

        Joints that are sent from where they are lag behind and are asked for more; joints that turn run on, for less.
        """
        if self.mode == "end_effector":
            plan = move / (steps * HAND_STEP)
        else:
            now = np.array(self._data.qpos[self._joints])
            lead = 1.0 + 0.5 / steps if self.mode == "joint_position" else 0.8
            wanted = np.clip(self.tip + lead * move, *REACH)
            plan = (self.solve(now, wanted) - now) / (steps * JOINT_STEP)
        return np.asarray(np.clip(np.append(plan, gripper), -1.0, 1.0), np.float32)

    def solve(self, joints: Vector, tip: Vector, rounds: int = 2) -> Vector:
        """Joints [7] near ``joints`` that bring the fingertips nearer to ``tip`` [3], the hand turned as at the start.

        Damped least squares (Wampler 1986), with a pull towards the start's posture in its null space.
        """
        mujoco, own = self._mujoco, self._own
        found = joints.copy()
        jacobian = self._jacobian
        for _ in range(rounds):
            own.qpos[self._joints] = found
            mujoco.mj_kinematics(self._model, own)
            mujoco.mj_comPos(self._model, own)
            mujoco.mj_jacSite(self._model, own, jacobian[:3], jacobian[3:], self._tip)
            rotation = np.array(own.site_xmat[self._tip]).reshape(3, 3)
            error = np.concatenate([tip - own.site_xpos[self._tip], _turn(self._rotation @ rotation.T)])
            arm = jacobian[:, self._dofs]
            inverse = arm.T @ np.linalg.inv(arm @ arm.T + _DAMPING**2 * np.eye(6))
            rest = _REST * (np.array(panda.START) - found)
            step = inverse @ error + rest - inverse @ (arm @ rest)
            found = np.clip(found + step, self._low, self._high)
        return np.clip(found, joints - _TURN, joints + _TURN)


def _turn(rotation: Vector) -> Vector:
    """Axis times sine of the angle [3] of a rotation [3, 3]."""
    skew = rotation - rotation.T
    return 0.5 * np.array([skew[2, 1], skew[0, 2], skew[1, 0]])
