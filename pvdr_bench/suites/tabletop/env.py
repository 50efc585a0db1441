"""The three tasks behind the interface of ``suites/base.py``.

One env_step is a control step of 0.05 s, RLBench's simulation step. A frozen instance stands at its modelled place
where ``instance_seed`` is 0 (RLBench's ``static_positions``), elsewhere where the seed puts it; instances that are not
frozen are drawn by the episode's seed. The reward is RLBench's: 1 in a step in which the condition holds, else 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import TrainingError, UsageError
from pvdr_bench.suites.arm_actions import CONTROL_STEP, CROP, HAND_STEP, action_mode
from pvdr_bench.suites.base import EnvConfig, EnvStep, Image, MujocoEnv, repeated
from pvdr_bench.suites.cameras import CameraPose, check_crop
from pvdr_bench.suites.gl import import_mujoco
from pvdr_bench.suites.tabletop.control import Arm, Command, Vector
from pvdr_bench.suites.tabletop.scenes import TIMESTEP, compiled
from pvdr_bench.suites.tabletop.tasks import TASKS, Placement, Task

EXPERT_LIMIT = 400  # control steps in which the scripted expert must succeed
CELL = 0.015  # metres: the arm is further away here than the renderer's default was chosen for
_SUBSTEPS = round(CONTROL_STEP / TIMESTEP)


@dataclass(frozen=True)
class _Snapshot:
    """All that the next steps and the next picture depend on."""

    physics: Vector
    command: Command


class TabletopEnv(MujocoEnv):
    """One task. ``EnvStep.truth`` has ``hand_x/y/z``, ``goal_x/y/z`` (where the button's top or lid's edge must be),
    and ``goal_distance`` (hand to button, lid's edge to its place), all in metres.

    Raises:
        UsageError: no free camera, an unknown action mode or a crop that is no square.
        SetupError: the arm's meshes or an OpenGL library are missing.
    """

    def __init__(self, config: EnvConfig) -> None:
        if not isinstance(config.camera, CameraPose):
            raise UsageError(f"the tabletop is drawn from a free camera, not from {config.camera!r}")
        self._mujoco = import_mujoco()
        self.config = config
        mode, self.action_space = action_mode(config.options)
        self._model, self._data, self.task, self.arm = build(config.env_id, mode)
        self._start: _Snapshot | None = None
        self._goal: Image | None = None
        self._steps = 0
        from pvdr_bench.suites.lean import shared_renderer

        camera = config.camera
        crop = check_crop(config.options.get(CROP.name, CROP.default))
        self._camera = CameraPose(camera.lookat, camera.distance, camera.azimuth, camera.elevation, camera.fovy, crop)
        self._renderer = shared_renderer(self._model, self._camera, config.image_size, config.renderer, CELL)

    def reset(self, seed: int) -> Image:
        """First image of an episode; a frozen instance ignores ``seed``, else it places the object."""
        if self._start is None or not self.config.frozen_instance:
            self._start = self._begin(self.config.instance_seed if self.config.frozen_instance else seed)
            self._goal = None
        self._restore(self._start)
        self._steps = 0
        return self._render()

    def _begin(self, seed: int) -> _Snapshot:
        """The start of an instance: where its object stands, everything at rest."""
        place(self._model, self.config.env_id, draw(self.task, seed))
        self._mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[self.task.joint] = self.task.start
        self.arm.reset()
        return self._save()

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Up to ``action_repeat`` control steps; fewer where the episode ends within them."""
        if self._start is None:
            raise UsageError("step() before reset()")

        def simulate() -> tuple[float, bool]:
            self._simulate(action)
            solved = self.task.solved()
            return float(solved), solved

        step = repeated(self.config, self._steps, simulate, lambda: (self._render(), self._truth()))
        self._steps += step.env_steps
        return step

    def goal_image(self) -> Image:
        """Image [H, W, 3] after the scripted expert's success and ``goal_settle_steps`` more; the episode goes on then.

        Raises:
            TrainingError: the expert does not solve this instance.
        """
        if self._start is None:
            self.reset(0)
        if self._goal is None:
            assert self._start is not None
            here = self._save()
            self._restore(self._start)
            self._solve()
            self._goal = self._render()
            self._restore(here)
        return self._goal.copy()

    def _solve(self) -> None:
        for _ in range(EXPERT_LIMIT):
            self._simulate(self.expert_action())
            if self.task.solved():
                break
        else:
            raise TrainingError(
                f"the scripted expert of {self.config.env_id} found no success in {EXPERT_LIMIT} control steps "
                f"(instance_seed {self.config.instance_seed}), so there is no goal image",
                hint="choose another instance_seed")
        for _ in range(self.config.goal_settle_steps):
            self._simulate(self.expert_action())

    def expert_action(self) -> NDArray[np.float32]:
        """The scripted expert's action [A] in the present state, in the configured action mode."""
        return expert_action(self.arm, self.task, self.config.action_repeat)

    @property
    def simulation(self) -> tuple[Any, Any]:
        """The physics' ``MjModel`` and ``MjData``, to draw from."""
        return self._model, self._data

    def physics_state(self) -> Vector:
        """MuJoCo's integration state: with the arm's command, all that the next steps depend on."""
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self._mujoco.mj_stateSize(self._model, kind))
        self._mujoco.mj_getState(self._model, self._data, state, kind)
        return state

    def close(self) -> None:
        """Forget the simulator. The renderer is shared by the process and stays."""
        self._start = None

    def _simulate(self, action: NDArray[np.float32]) -> None:
        self.arm.apply(np.clip(np.asarray(action, np.float64), -1.0, 1.0))
        advance(self._model, self._data)

    def _render(self) -> Image:
        self.task.show()
        return self._renderer.render(self._model, self._data)

    def _truth(self) -> dict[str, float]:
        tip = self.arm.tip
        names = (f"{what}_{axis}" for what in ("hand", "goal") for axis in "xyz")
        truth = dict(zip(names, (float(x) for x in (*tip, *self.task.goal())), strict=True))
        return truth | {"goal_distance": self.task.distance(tip)}

    def _save(self) -> _Snapshot:
        return _Snapshot(self.physics_state(), self.arm.command)

    def _restore(self, snapshot: _Snapshot) -> None:
        mujoco = self._mujoco
        mujoco.mj_setState(self._model, self._data, snapshot.physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_kinematics(self._model, self._data)
        self.arm.command = snapshot.command


def build(env_id: str, mode: str) -> tuple[Any, Any, Task, Arm]:
    """A simulation of its own: model, state, task and arm at their starts."""
    mujoco = import_mujoco()
    model = compiled(env_id).__copy__()
    data = mujoco.MjData(model)
    arm, task = Arm(model, data, mode), TASKS[env_id](model, data)
    data.qpos[task.joint] = task.start
    mujoco.mj_kinematics(model, data)
    return model, data, task, arm


def advance(model: Any, data: Any) -> None:
    """One control step of 0.05 s; positions in ``data`` are then those of its end."""
    mujoco = import_mujoco()
    mujoco.mj_step(model, data, _SUBSTEPS)
    mujoco.mj_kinematics(model, data)


def draw(task: Task, seed: int) -> Placement:
    """Where an instance's object stands: 0 is the modelled place."""
    if seed == 0:
        return Placement()
    limit = task.spread
    x, y, yaw = np.random.default_rng(seed).uniform(-1.0, 1.0, 3)
    return Placement(x * limit.x, y * limit.y, yaw * limit.yaw)


def place(model: Any, env_id: str, placement: Placement) -> None:
    """Put a scene's object on the table."""
    body, modelled = model.body("task").id, compiled(env_id).body("task").pos
    model.body_pos[body] = modelled + (placement.x, placement.y, 0.0)
    model.body_quat[body] = (np.cos(placement.yaw / 2), 0.0, 0.0, np.sin(placement.yaw / 2))


def expert_action(arm: Arm, task: Task, steps: int) -> NDArray[np.float32]:
    """The scripted expert's action [A] in the arm's mode, for so many control steps: straight to its next point."""
    tip = arm.tip
    point, gripper = task.next(tip)
    move, limit = point - tip, steps * HAND_STEP
    return arm.action(move * min(1.0, limit / max(float(np.abs(move).max()), 1e-9)), gripper, steps)
