"""Actions of a seven-joint arm by name, each scaled to [-1, 1]; what suites with such an arm have in common.

==================== ======================================================================= ===========================
mode                 an action of 1                                                          RLBench's
==================== ======================================================================= ===========================
``end_effector``     moves the fingertips by 1 cm along x, y, z; inverse kinematics keeps    ``EndEffectorPoseViaIK``,
                     the hand's rotation                                                     relative, without rotation
``joint_position``   moves a joint by 0.1 rad from where it is                               ``JointPosition``, relative
``joint_velocity``   turns a joint by 2 rad/s                                                ``JointVelocity``
==================== ======================================================================= ===========================

The last dimension is the gripper: above 0 it opens, else it closes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pvdr_bench.errors import UsageError
from pvdr_bench.suites.info import Option
from pvdr_bench.suites.spaces import BoxSpace

CONTROL_STEP = 0.05  # seconds: RLBench's simulation step
HAND_STEP = 0.01  # metres
JOINT_STEP = 0.1  # radians, the bound of RLBench's own Gymnasium environments
JOINT_SPEED = 2.0  # radians a second

_JOINTS = (*(f"joint{i}" for i in range(1, 8)), "gripper")
MODES = {
    "end_effector": BoxSpace(4, names=("x", "y", "z", "gripper")),
    "joint_position": BoxSpace(8, names=_JOINTS),
    "joint_velocity": BoxSpace(8, names=_JOINTS),
}
ACTION_MODE = Option("action_mode", "end_effector", "what an action moves: the fingertips by up to 1 cm (inverse "
                     "kinematics keeps the hand's rotation), the joints by up to 0.1 rad, or the joints at up to "
                     "2 rad/s",
                     tuple(MODES))
CROP = Option("crop", [0.06, 0.0, 0.94, 0.88], "left, top, right and bottom edge of what is seen of the front camera's "
              "picture, in parts of its side; square")


def action_mode(options: Mapping[str, Any]) -> tuple[str, BoxSpace]:
    """The name of the action mode that a task's options ask for, and its actions.

    Raises:
        UsageError: there is no such mode.
    """
    mode = str(options.get(ACTION_MODE.name, ACTION_MODE.default))
    if mode not in MODES:
        raise UsageError(f"unknown action mode {mode!r}", hint=f"allowed: {', '.join(MODES)}")
    return mode, MODES[mode]
