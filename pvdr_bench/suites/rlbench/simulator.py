"""One running CoppeliaSim with one RLBench task in it: how it is started, asked, and what its errors mean.

Only this module imports ``rlbench``, and it alone uses ``pyrep``. A process can hold one simulator, and it must be
started in the process that uses it. What RLBench and PyRep raise where an action cannot be done (no joints reach the
pose, no path leads there) is a failed action; that actions have the right size is asked once, at the start, since
RLBench tells that by the same class. Any other error that is not RLBench's own is a simulator that cannot be used any
longer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import BenchError, SetupError, SimulatorError, TrainingError
from pvdr_bench.needed import need
from pvdr_bench.suites.arm_actions import HAND_STEP, JOINT_SPEED, JOINT_STEP, MODES
from pvdr_bench.suites.base import Image
from pvdr_bench.suites.rlbench.health import problems_here
from pvdr_bench.suites.rlbench.names import INSTALL

_NO_TURN = (0.0, 0.0, 0.0, 1.0)  # a quaternion x, y, z, w
_NO_DEMO = "Could not collect demos"  # what get_demos says after ten attempts that failed; it has no class for it


@dataclass(frozen=True)
class Seen:
    """What the simulator shows after a step or reset.

    Attributes:
        image: front camera [S, S, 3]. hand: position [3] of the gripper's tip, metres; NaN where it is not told.
    """

    image: Image
    hand: NDArray[np.float64]
    success: bool = False
    invalid: bool = False  # the action could not be done; nothing has moved


@dataclass(frozen=True)
class Demonstration:
    """What is seen at its start and end, and whether RLBench found it ``at_once``, of what a reset draws as well."""

    start: Seen
    end: Seen
    at_once: bool


class Simulator:
    """RLBench's environment and task.

    Args:
        task: name of the task's module, such as ``lamp_on``. mode: a name of ``arm_actions.MODES``.
        size: side of the front camera's picture. render: ``opengl3`` or ``opengl``.
        variation: of the task, from 0. static: the task stands at its modelled place.

    Raises:
        SetupError: something is missing, or RLBench has no such variation. SimulatorError: CoppeliaSim does not start.
    """

    def __init__(self, task: str, mode: str, size: int, render: str, variation: int, static: bool) -> None:
        if found := problems_here():
            raise found[0]
        self.name, self._mode, self._spoiled = task, mode, ""
        package = need("rlbench.environment", "the suite rlbench", INSTALL)
        with _simulating(f"{task} cannot be started"):
            self._environment = package.Environment(_action_mode(mode), obs_config=_observations(size, render),
                                                    headless=True, static_positions=static)
            self._environment.launch()
            self._check_actions()
            self._task = self._environment.get_task(_task_class(task))
            count = int(self._task.variation_count())
        if not 0 <= variation < count:
            self.close()
            raise SetupError(f"RLBench's {task} has {count} variations, counted from 0, and no {variation}",
                             hint="change the option variation of the task")
        with _simulating(f"{task} cannot be set up"):
            self._task.set_variation(variation)

    def _check_actions(self) -> None:
        """Raises: SetupError: they have another size than ours."""
        expected = tuple(int(size) for size in self._environment.action_shape)
        ours = self._command(np.zeros(MODES[self._mode].dim)).shape
        if expected != ours:
            self.close()
            raise SetupError(f"the installed RLBench takes actions of shape {expected} in the action mode "
                             f"{self._mode}, and not {ours}", hint=f"install version 1.2: {INSTALL}")

    def reset(self, seed: int) -> Seen:
        """Start an episode; what is random in it comes from ``seed``.

        Raises:
            TrainingError: the task's objects cannot be placed. SimulatorError: the simulator is of no use, as after a
                demonstration that was not found.
        """
        if self._spoiled:
            raise SimulatorError(f"CoppeliaSim: {self.name} cannot be reset: {self._spoiled}")
        with _simulating(f"{self.name} cannot be reset"), seeded(seed), self._placing():
            _, observation = self._task.reset()
        return _seen(observation)

    def step(self, action: NDArray[np.float64], before: Seen) -> Seen:
        """One step of RLBench with an action [4] or [8] in [-1, 1]; ``before`` is what was seen last.

        Raises:
            SimulatorError: the simulator is of no use.
        """
        from pyrep.errors import ConfigurationError, ConfigurationPathError, IKError
        from rlbench.backend.exceptions import InvalidActionError

        with _simulating(f"{self.name} cannot be stepped"):
            try:
                observation, reward, _ = self._task.step(self._command(action))
            except (InvalidActionError, IKError, ConfigurationError, ConfigurationPathError):
                return Seen(before.image, before.hand, success=False, invalid=True)
            return _seen(observation, success=float(reward) >= 1.0)

    def demonstrate(self, seed: int) -> Demonstration:
        """A demonstration that RLBench plans now. It resets the task.

        After a plan that fails RLBench resets the task again, with whatever is drawn next: then only the picture of the
        start tells which instance was demonstrated.

        Raises:
            TrainingError: no demonstration was found, or the task's objects cannot be placed.
            SimulatorError: the simulator is of no use.
        """
        with _simulating(f"{self.name} cannot be demonstrated"), seeded(seed), self._placing():
            drawn = np.random.get_state()
            try:
                demos = self._task.get_demos(1, live_demos=True)
            except RuntimeError as error:
                if _NO_DEMO not in str(error):
                    raise
                # RLBench then leaves the arm's joints controlled as its planner wants them, in every action mode
                self._spoiled = "a demonstration failed in it, and left the arm as no action mode has it"
                raise TrainingError(f"RLBench found no demonstration of {self.name}, so no goal image: {error}",
                                    hint="choose another instance_seed or variation") from error
            demo = demos[0]
            return Demonstration(_seen(demo[0]), _seen(demo[-1], success=True), _same_state(demo.random_seed, drawn))

    @contextmanager
    def _placing(self) -> Iterator[None]:
        """A task whose objects do not fit into the scene is no dead simulator."""
        from rlbench.backend.exceptions import TaskEnvironmentError

        try:
            yield
        except TaskEnvironmentError as error:
            raise TrainingError(f"RLBench cannot place the objects of {self.name}: {error}",
                                hint="choose another instance_seed or variation") from error

    def close(self) -> None:
        """End CoppeliaSim; one that is dead already is left alone."""
        with suppress(Exception):
            self._environment.shutdown()

    def _command(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        """An action in RLBench's units: metres and a quaternion, radians, or radians a second; and the gripper."""
        gripper = 1.0 if action[-1] > 0.0 else 0.0
        if self._mode == "end_effector":
            return np.array([*(HAND_STEP * action[:3]), *_NO_TURN, gripper])
        return np.append((JOINT_STEP if self._mode == "joint_position" else JOINT_SPEED) * action[:-1], gripper)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random states that RLBench draws from, numpy's and Python's global ones, set for a while and put back after."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    np.random.seed(np.random.SeedSequence(seed).generate_state(1))
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _same_state(one: Any, other: Any) -> bool:
    """Whether two states of numpy's generator are the same."""
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@contextmanager
def _simulating(what: str) -> Iterator[None]:
    """Errors that nothing explains are the simulator's; our own pass as they are."""
    try:
        yield
    except BenchError:
        raise
    except Exception as error:  # PyRep raises RuntimeError and classes of its own where a call of the library fails
        raise SimulatorError(f"CoppeliaSim: {what}: {type(error).__name__}: {error}",
                             hint="the same command continues from the last checkpoint") from error


def _action_mode(mode: str) -> Any:
    from rlbench.action_modes.action_mode import MoveArmThenGripper
    from rlbench.action_modes.arm_action_modes import EndEffectorPoseViaIK, JointPosition, JointVelocity
    from rlbench.action_modes.gripper_action_modes import Discrete

    arms = {"end_effector": lambda: EndEffectorPoseViaIK(absolute_mode=False),
            "joint_position": lambda: JointPosition(absolute_mode=False), "joint_velocity": JointVelocity}
    return MoveArmThenGripper(arms[mode](), Discrete())


def _observations(size: int, render: str) -> Any:
    """The front camera alone; RLBench leaves cameras out of the scene that nobody looks through."""
    from pyrep.const import RenderMode
    from rlbench.observation_config import ObservationConfig

    config = ObservationConfig()
    config.set_all(False)
    config.front_camera.rgb = True
    config.front_camera.image_size = (size, size)
    config.front_camera.render_mode = RenderMode.OPENGL3 if render == "opengl3" else RenderMode.OPENGL
    config.gripper_pose = True
    return config


def _task_class(name: str) -> Any:
    """``lamp_on`` is the class ``LampOn`` of the module ``rlbench.tasks.lamp_on``."""
    module = need(f"rlbench.tasks.{name}", "the suite rlbench", INSTALL)
    return getattr(module, "".join(part.capitalize() for part in name.split("_")))


def _seen(observation: Any, success: bool = False) -> Seen:
    pose = observation.gripper_pose
    hand = np.full(3, np.nan) if pose is None else np.array(pose[:3], np.float64)
    return Seen(np.array(observation.front_rgb, np.uint8), hand, success)
