"""A small RLBench of our own: the names of ``rlbench`` and ``pyrep`` that the adapter uses, with the quirks they have.

Written from how the real package behaves (version 1.2.0): what a step returns is a float and a ``numpy.bool``, nothing
ever truncates, ``action_bounds`` is not implemented, what a task draws comes from numpy's global state, a bad action
raises, a demonstration resets the task, stepping before a reset is an error, and a simulator dies. Nothing of RLBench's
code is in it. :func:`write` makes packages of it.
"""

from __future__ import annotations

import os
import sys
import types
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

START = np.array([0.3, 0.0, 1.4])
BUTTON = np.array([0.3, 0.0, 1.3])
STATIC = {"lamp_on", "push_button", "close_box"}  # only placed; the others draw more than their place


class InvalidActionError(Exception): ...
class BoundaryError(Exception): ...
class WaypointError(Exception): ...
class DemoError(Exception): ...
class TaskEnvironmentError(Exception): ...
class IKError(Exception): ...
class ConfigurationError(Exception): ...
class ConfigurationPathError(Exception): ...


class RenderMode(Enum):
    OPENGL = 0
    OPENGL3 = 1


class CameraConfig:
    def __init__(self) -> None:
        self.rgb = self.depth = True
        self.image_size, self.render_mode = (128, 128), RenderMode.OPENGL3


class ObservationConfig:
    def __init__(self) -> None:
        self.front_camera, self.wrist_camera = CameraConfig(), CameraConfig()
        self.gripper_pose = True

    def set_all(self, value: bool) -> None:
        for camera in (self.front_camera, self.wrist_camera):
            camera.rgb = camera.depth = value
        self.gripper_pose = value


class _Arm:
    def __init__(self, absolute_mode: bool = True) -> None:
        self.absolute_mode = absolute_mode


class EndEffectorPoseViaIK(_Arm):
    size = 7


class JointPosition(_Arm):
    size = 7


class JointVelocity(_Arm):
    size = 7


class Discrete: ...


class MoveArmThenGripper:
    def __init__(self, arm_action_mode: _Arm, gripper_action_mode: Discrete) -> None:
        self.arm, self.gripper = arm_action_mode, gripper_action_mode

    def action_bounds(self) -> None:
        raise NotImplementedError("You must define your own action bounds.")


class Observation:
    def __init__(self, front_rgb: np.ndarray | None, pose: np.ndarray | None) -> None:
        self.front_rgb, self.gripper_pose, self.wrist_rgb = front_rgb, pose, None


class Task:
    variations = 1

    def __init__(self) -> None:
        self.name = next(name for name, kind in TASKS.items() if kind is type(self))


class LampOn(Task): ...
class CloseBox(Task): ...
class PushButton(Task):
    variations = 18


class ReachTarget(Task):
    variations = 20


TASKS: dict[str, type[Task]] = {"lamp_on": LampOn, "close_box": CloseBox, "push_button": PushButton,
                                "reach_target": ReachTarget}


class TaskEnvironment:
    """A hand that moves by what an action says; solved within 2.5 cm of the button."""

    def __init__(self, task: Task, mode: MoveArmThenGripper, config: ObservationConfig, static: bool) -> None:
        self._task, self._mode, self._config, self._static = task, mode, config, static
        self._variation, self._hand, self._ready, self._steps = 0, START.copy(), False, 0
        self._offset, self._demos = np.zeros(3), 0

    def variation_count(self) -> int:
        return self._task.variations

    def set_variation(self, v: int) -> None:
        if v >= self.variation_count():  # and nothing of one below 0
            raise TaskEnvironmentError(f"Requested variation {v}, but there are only {self.variation_count()}")
        self._variation = v

    def reset(self, demo: Any = None) -> tuple[list[str], Observation]:
        _die("reset")
        if not self._static or self._task.name not in STATIC:
            self._offset = np.random.uniform(-0.1, 0.1, 3) * (1, 1, 0)
        if told := os.environ.get("FAKE_RLBENCH_WANDERS"):  # so many metres: what a planner that cannot be seeded does
            self._offset = float(told) * np.random.default_rng().uniform(0.75, 1.25, 3) * (1, 1, 0)
        if os.environ.get("FAKE_RLBENCH_UNPLACED"):
            raise TaskEnvironmentError("Could not place the task in the scene.")
        self._hand, self._ready, self._steps = START.copy(), True, 0
        return ["press it"], self._observe()

    def step(self, action: np.ndarray) -> tuple[Observation, float, np.bool_]:
        if not self._ready:
            raise RuntimeError("Call 'reset' before calling 'step' on a task.")
        self._steps += 1
        _die("step", self._steps)
        arm = np.asarray(action[:-1])
        if arm.shape != (self._mode.arm.size,):
            raise InvalidActionError(f"Expected the action shape to be: ({self._mode.arm.size},)")
        if isinstance(self._mode.arm, EndEffectorPoseViaIK):
            if not np.isclose(np.linalg.norm(arm[3:]), 1.0):
                raise InvalidActionError("Action contained non unit quaternion!")
            move = arm[:3]
        else:
            move = 0.1 * arm[:3] * (1.0 if isinstance(self._mode.arm, JointPosition) else 0.05)
        there = self._hand + move
        if there[2] > START[2] + 0.05:
            raise InvalidActionError("Could not perform IK via Jacobian") from IKError("too far")
        self._hand = there
        success = bool(np.linalg.norm(self._hand - BUTTON - self._offset) < 0.025)
        return self._observe(), float(success), np.bool_(success)

    def get_demos(self, amount: int, live_demos: bool = False) -> list[list[Observation]]:
        if not live_demos:
            raise RuntimeError("Can't ask for a stored demo when no dataset root provided.")
        _die("demo")
        if os.environ.get("FAKE_RLBENCH_NO_DEMO"):
            raise RuntimeError("Could not collect demos. Maybe a problem with the task?")
        _, first = self.reset()
        self._demos += 1
        if self._demos <= int(os.environ.get("FAKE_RLBENCH_BAD_PLANS", "0")):  # so many demos need a second attempt
            _, first = self.reset()
        self._hand = BUTTON + self._offset + np.random.normal(0, 1e-3, 3)  # another way each time
        return [[first, self._observe()]] * amount

    def _observe(self) -> Observation:
        config, camera = self._config, self._config.front_camera
        pose = np.append(self._hand, [0, 0, 0, 1]) if config.gripper_pose else None
        return Observation(_picture(self._hand, BUTTON + self._offset, self._variation, camera.image_size[0])
                           if camera.rgb else None, pose)


def _picture(hand: np.ndarray, button: np.ndarray, variation: int, size: int) -> np.ndarray:
    """Seen from the front: y to the right, z up, half a metre each way around (0, 1.3)."""
    across = (np.arange(size) + 0.5) / size - 0.5
    image = np.full((size, size, 3), 120, np.uint8)
    image[:, :] += (np.linspace(0, 60, size)[:, None, None]).astype(np.uint8)
    for point, colour, radius in ((button, (200, 10 * variation, 30), 0.06), (hand, (20, 20, 220), 0.1)):
        near = (across[None, :] - point[1]) ** 2 + (-across[:, None] - (point[2] - 1.3) + 0.3 * (point[0] - 0.3)) ** 2
        image[near < radius**2] = colour
    return image


class Environment:
    def __init__(self, action_mode: MoveArmThenGripper, dataset_root: str = "", obs_config: Any = None,
                 headless: bool = False, static_positions: bool = False) -> None:
        self._mode, self._config, self._static, self._running = action_mode, obs_config, static_positions, False

    def launch(self) -> None:
        if self._running:
            raise RuntimeError("Already called launch!")
        if not os.environ.get("COPPELIASIM_ROOT"):
            raise RuntimeError("COPPELIASIM_ROOT not defined.")
        self._running = True

    def get_task(self, task_class: type[Task]) -> TaskEnvironment:
        return TaskEnvironment(task_class(), self._mode, self._config, self._static)

    def shutdown(self) -> None:
        self._running = False


def _die(where: str, step: int = 0) -> None:
    """``FAKE_RLBENCH_DIES=step:3:exit``: at an episode's third step, as many times as ``FAKE_RLBENCH_DEATHS`` says;
    ``reset:0:`` and ``demo:0:``: where one begins."""
    told = os.environ.get("FAKE_RLBENCH_DIES")
    if not told:
        return
    place, at, how = told.split(":")
    if place != where or (where == "step" and step != int(at)):
        return
    if not _one_more_death():
        return
    if how == "exit":
        os._exit(139)
    raise RuntimeError("The call failed on the V-REP side. Return value: -1")


def _one_more_death() -> bool:
    """Whether a death is left: each is a file that one process alone can make, as several workers die at once."""
    for number in range(int(os.environ.get("FAKE_RLBENCH_DEATHS", "1"))):
        try:
            Path(f"{os.environ['FAKE_RLBENCH_COUNT']}-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return True
    return False


_MODULES: dict[str, tuple[str, ...]] = {
    "rlbench": (), "rlbench.tasks": (), "rlbench.backend": (), "rlbench.action_modes": (), "pyrep": (),
    "pyrep.backend": (),
    "pyrep.backend._sim_cffi": (), "rlbench.environment": ("Environment",),
    "rlbench.observation_config": ("ObservationConfig", "CameraConfig"),
    "rlbench.action_modes.action_mode": ("MoveArmThenGripper",),
    "rlbench.action_modes.arm_action_modes": ("EndEffectorPoseViaIK", "JointPosition", "JointVelocity"),
    "rlbench.action_modes.gripper_action_modes": ("Discrete",),
    "rlbench.backend.exceptions": ("InvalidActionError", "BoundaryError", "WaypointError", "TaskEnvironmentError",
                                   "DemoError"),
    "pyrep.errors": ("IKError", "ConfigurationError", "ConfigurationPathError"), "pyrep.const": ("RenderMode",),
    "rlbench.tasks.lamp_on": ("LampOn",), "rlbench.tasks.close_box": ("CloseBox",),
    "rlbench.tasks.push_button": ("PushButton",), "rlbench.tasks.reach_target": ("ReachTarget",),
}


def write(folder: Path) -> None:
    """Packages in ``folder`` that hold the names above, as if installed, and the files of a simulator."""
    for name, names in _MODULES.items():
        path = folder / "site" / Path(*name.split("."))
        is_package = any(other.startswith(f"{name}.") for other in _MODULES)
        file = path / "__init__.py" if is_package else path.with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"from tests.fake_rlbench import {', '.join(names)}  # noqa: F401\n" if names else "")
    for name, version in (("rlbench", "1.2.0"), ("PyRep", "4.1.0.3")):
        info = folder / "site" / f"{name}-{version}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "coppelia" / "platforms").mkdir(parents=True, exist_ok=True)
    for name in ("libcoppeliaSim.so", "platforms/libqxcb.so"):
        (folder / "coppelia" / name).write_text("")


def forget() -> None:
    """Drop the fake's modules from this process."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("rlbench", "pyrep"):
            del sys.modules[name]


def is_fake(module: types.ModuleType) -> bool:
    """Whether an imported ``rlbench`` is this one."""
    return "site/rlbench" in str(module.__file__)
