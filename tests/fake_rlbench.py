"""A small RLBench of our own: the names of ``rlbench`` and ``pyrep`` that the adapter uses, with the quirks they have.

Written from how the real package behaves (version 1.2.0): what a step returns is a float and a ``numpy.bool``, nothing
ever truncates, ``action_bounds`` is not implemented, what a task draws comes from numpy's global state, a bad action
raises, a demonstration resets the task, stepping before a reset is an error, and a simulator dies. Nothing of RLBench's
code is in it. :func:`write` makes packages of it.
"""

from __future__ import annotations

import os
import sys
import time
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
class TaskEnvironmentError(Exception): ...


class WaypointError(Exception):
    """Tells its task as well."""

    def __init__(self, message: str, task: Any) -> None:
        super().__init__(message)
        self.task = task


class DemoError(WaypointError): ...


class PyRepError(Exception): ...
class IKError(Exception): ...
class ConfigurationError(Exception): ...
class ConfigurationPathError(Exception): ...
class PyRep: ...


class RenderMode(Enum):
    OPENGL = 0
    OPENGL3 = 1


class CameraConfig:
    def __init__(self) -> None:
        self.rgb = self.depth = self.point_cloud = self.mask = True
        self.image_size, self.render_mode = (128, 128), RenderMode.OPENGL3


CAMERAS = ("left_shoulder", "right_shoulder", "overhead", "wrist", "front")
LOW_DIM = ("joint_velocities", "joint_positions", "joint_forces", "gripper_open", "gripper_pose", "gripper_matrix",
           "gripper_joint_positions", "gripper_touch_forces", "task_low_dim_state")


class ObservationConfig:
    def __init__(self) -> None:
        for camera in CAMERAS:
            setattr(self, f"{camera}_camera", CameraConfig())
        for name in LOW_DIM:
            setattr(self, name, name not in ("gripper_matrix", "task_low_dim_state"))

    def set_all(self, value: bool) -> None:
        self.set_all_high_dim(value)
        self.set_all_low_dim(value)

    def set_all_high_dim(self, value: bool) -> None:
        for camera in CAMERAS:
            config = getattr(self, f"{camera}_camera")
            config.rgb = config.depth = config.point_cloud = config.mask = value

    def set_all_low_dim(self, value: bool) -> None:
        for name in LOW_DIM:
            setattr(self, name, value)


def _expect(action: np.ndarray, size: int) -> None:
    if np.shape(action) != (size,):
        raise InvalidActionError(f"Expected the action shape to be: ({size},), but was shape: {np.shape(action)}")


class _Arm:
    size, planned = 7, False

    def __init__(self, absolute_mode: bool = True) -> None:
        self.absolute_mode = absolute_mode


class EndEffectorPoseViaIK(_Arm):
    def __init__(self, absolute_mode: bool = True, frame: str = "world", collision_checking: bool = False) -> None:
        super().__init__(absolute_mode)


class JointPosition(_Arm): ...


class JointVelocity(_Arm):
    def __init__(self) -> None:
        super().__init__()


class Discrete:
    size = 1

    def __init__(self, attach_grasped_objects: bool = True, detach_before_open: bool = True) -> None: ...


class MoveArmThenGripper:
    def __init__(self, arm_action_mode: _Arm, gripper_action_mode: Discrete) -> None:
        self.arm, self.gripper = arm_action_mode, gripper_action_mode

    def action_bounds(self) -> None:
        raise NotImplementedError("You must define your own action bounds.")


class Observation:
    """Everything that was not asked for is None."""

    def __init__(self, **seen: np.ndarray | None) -> None:
        for name in (*(f"{camera}_{kind}" for camera in CAMERAS for kind in ("rgb", "depth", "mask", "point_cloud")),
                     *LOW_DIM):
            setattr(self, name, seen.get(name))
        self.misc = {"variation_index": 0}


class Demo:
    """Observations, and numpy's random state before the reset that it begins with; not a list."""

    def __init__(self, observations: list[Observation], random_seed: Any) -> None:
        self._observations, self.random_seed = observations, random_seed

    def __len__(self) -> int:
        return len(self._observations)

    def __getitem__(self, i: int) -> Observation:
        return self._observations[i]


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
        self._offset, self._demos, self._wandered, self._planned_control = np.zeros(3), 0, 0, False

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
            self._wandered += 1
            self._offset = float(told) * (0.75 + 0.5 * (0.618 * self._wandered % 1.0)) * np.array([1, 1, 0])
        if os.environ.get("FAKE_RLBENCH_UNPLACED"):
            raise TaskEnvironmentError("Could not place the task in the scene.")
        self._hand, self._ready, self._steps = START.copy(), True, 0
        return ["press it"], self._observe()

    def step(self, action: np.ndarray) -> tuple[Observation, float, np.bool_]:
        if not self._ready:
            raise RuntimeError("Call 'reset' before calling 'step' on a task.")
        self._steps += 1
        _die("step", self._steps)
        size = self._mode.arm.size
        arm, gripper = np.array(action[:size]), np.array(action[size:])
        _expect(arm, size)
        if self._planned_control:
            move = np.zeros(3)  # joints that a planner still holds do not follow
        elif isinstance(self._mode.arm, EndEffectorPoseViaIK):
            if not np.isclose(np.linalg.norm(arm[3:]), 1.0):
                raise InvalidActionError("Action contained non unit quaternion!")
            move = arm[:3]
        else:
            move = 0.1 * arm[:3] * (1.0 if isinstance(self._mode.arm, JointPosition) else 0.05)
        there = self._hand + move
        if there[2] > START[2] + 0.05:
            _refuse()
        self._hand = there
        _expect(gripper, self._mode.gripper.size)
        if gripper[0] < 0.0 or gripper[0] > 1.0:
            raise InvalidActionError("Gripper action expected to be within 0 and 1.")
        success = bool(np.linalg.norm(self._hand - BUTTON - self._offset) < 0.025)
        return self._observe(), float(success), np.bool_(success)

    def get_demos(self, amount: int, live_demos: bool = False, image_paths: bool = False,
                  callable_each_step: Any = None, max_attempts: int = 10, random_selection: bool = True,
                  from_episode_number: int = 0) -> list[Demo]:
        if not live_demos:
            raise RuntimeError("Can't ask for a stored demo when no dataset root provided.")
        _die("demo")
        self._planned_control = True  # and put back at the end alone
        if os.environ.get("FAKE_RLBENCH_NO_DEMO"):
            raise RuntimeError("Could not collect demos. Maybe a problem with the task?")
        drawn = np.random.get_state()
        self.reset()
        self._demos += 1
        if self._demos <= int(os.environ.get("FAKE_RLBENCH_BAD_PLANS", "0")):  # so many demos need a second attempt
            drawn = np.random.get_state()
            self.reset()
        self._hand[2] -= float(os.environ.get("FAKE_RLBENCH_SETTLES", "0"))  # a step of simulation comes first
        first = self._observe()
        self._hand = BUTTON + self._offset + np.random.normal(0, 1e-3, 3)  # another way each time
        self._planned_control = False
        return [Demo([first, self._observe()], drawn)] * amount

    def get_observation(self) -> Observation:
        return self._observe()

    def _observe(self) -> Observation:
        config, seen = self._config, {}
        if config.front_camera.rgb:
            seen["front_rgb"] = _picture(self._hand, BUTTON + self._offset, self._variation,
                                         config.front_camera.image_size[0])
        if config.gripper_pose:
            seen["gripper_pose"] = np.append(self._hand, [0, 0, 0, 1])
        return Observation(**seen)


def _refuse() -> None:
    """``FAKE_RLBENCH_REFUSES``: the way in which an action that cannot be done is told."""
    told = os.environ.get("FAKE_RLBENCH_REFUSES", "jacobian")
    if told == "jacobian":
        raise InvalidActionError("Could not perform IK via Jacobian") from IKError("too far")
    raise {"path": InvalidActionError("A path could not be found"), "ik": IKError("no joints"),
           "configuration": ConfigurationError("none"), "configurations": ConfigurationPathError("none")}[told]


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
                 headless: bool = False, static_positions: bool = False, robot_setup: str = "panda",
                 randomize_every: Any = None, frequency: int = 1, visual_randomization_config: Any = None,
                 dynamics_randomization_config: Any = None, attach_grasped_objects: bool = True,
                 shaped_rewards: bool = False, arm_max_velocity: float = 1.0, arm_max_acceleration: float = 4.0,
                 ) -> None:
        self._mode, self._config, self._static, self._running = action_mode, obs_config, static_positions, False

    def launch(self) -> None:
        if self._running:
            raise RuntimeError("Already called launch!")
        if not os.path.isdir(os.environ.get("COPPELIASIM_ROOT", "")):  # noqa: PTH112 - as PyRep asks
            raise PyRepError("COPPELIASIM_ROOT not defined. See installation instructions.")
        _die("launch")
        self._running = True

    @property
    def action_shape(self) -> tuple[np.int64]:
        if not self._running:
            raise RuntimeError("No scene before launch.")
        more = int(os.environ.get("FAKE_RLBENCH_LARGER", "0"))
        return (np.int64(self._mode.arm.size + self._mode.gripper.size + more),)

    def get_task(self, task_class: type[Task]) -> TaskEnvironment:
        return TaskEnvironment(task_class(), self._mode, self._config, self._static)

    def shutdown(self) -> None:
        self._running = False


def _die(where: str, step: int = 0) -> None:
    """``FAKE_RLBENCH_DIES=step:3:exit``: at an episode's third step, as many times as ``FAKE_RLBENCH_DEATHS`` says;
    ``launch:0:``, ``reset:0:`` and ``demo:0:``: where one begins."""
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
    if how == "hang":
        time.sleep(600)
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
    "rlbench": (), "rlbench.tasks": (), "rlbench.backend": (), "rlbench.action_modes": (), "pyrep": ("PyRep",),
    "pyrep.backend": (),
    "pyrep.backend._sim_cffi": (), "rlbench.environment": ("Environment",),
    "rlbench.observation_config": ("ObservationConfig", "CameraConfig"),
    "rlbench.action_modes.action_mode": ("MoveArmThenGripper",),
    "rlbench.action_modes.arm_action_modes": ("EndEffectorPoseViaIK", "JointPosition", "JointVelocity"),
    "rlbench.action_modes.gripper_action_modes": ("Discrete",),
    "rlbench.backend.exceptions": ("InvalidActionError", "BoundaryError", "WaypointError", "TaskEnvironmentError",
                                   "DemoError"),
    "pyrep.errors": ("PyRepError", "IKError", "ConfigurationError", "ConfigurationPathError"),
    "pyrep.const": ("RenderMode",),
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
    with (folder / "site" / "pyrep" / "__init__.py").open("a") as file:
        file.write("import pyrep.backend._sim_cffi\n")
    (folder / "site" / "rlbench" / "__init__.py").write_text('__version__ = "1.2.0"\nimport pyrep  # as the real one\n')
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
