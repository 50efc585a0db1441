"""Meta-World v3 as visual tasks: any environment by its id (``reach-v3``).

A *frozen* instance is built once by ``set_task`` and its first reset is kept: every later reset restores that very
state, so frames and physics are identical. (``gym.make`` with ``reset(seed)`` draws a new goal at every reset, and the
raw class ignores seeds unless ``seeded_rand_vec`` is set.) Otherwise each reset draws goal and furniture from its seed
alone: ``seeded_rand_vec`` and ``seed()`` before the suite's own reset.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import TrainingError, UsageError
from pvdr_bench.needed import need
from pvdr_bench.suites.base import EnvConfig, EnvStep, Image, MujocoEnv, repeated
from pvdr_bench.suites.cameras import CameraPose
from pvdr_bench.suites.gl import import_mujoco
from pvdr_bench.suites.metaworld.info import METAWORLD

CENTRE_GAIN = 10.0  # action per metre, that of most experts
EXPERT_LIMIT = 1000  # simulator steps in which the scripted expert must succeed; the slowest need about 300
_STEP_LIMIT = 10**9  # Meta-World's own limit of 500 steps is ours to keep: config.episode_steps
# The arrays of a model that Meta-World's resets write to (positions of furniture, goals, colours).
_MODEL_ARRAYS = ("body_pos", "body_quat", "site_pos", "site_quat", "geom_pos", "geom_quat", "geom_rgba", "site_rgba")
_SHARED_ATTRIBUTES = frozenset({"model", "data", "mujoco_renderer", "spec", "np_random", "_np_random"})


def import_metaworld() -> Any:
    """The package, once the GL backend is chosen.

    Raises:
        SetupError: it is not installed, or nothing can draw here.
    """
    import_mujoco()
    metaworld = need("metaworld", "the suite metaworld", METAWORLD.packages[0].install)
    # Its own experts ask for more than an action can give, and warn about it in every step.
    warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")
    return metaworld


@lru_cache(maxsize=64)
def _benchmark(env_id: str, instance_seed: int) -> Any:
    """``MT1`` with the first of its 50 instances: drawing the others takes a second, and nobody asks for them."""
    metaworld = import_metaworld()
    drawn = metaworld._N_GOALS
    metaworld._N_GOALS = 1
    try:
        return metaworld.MT1(env_id, seed=instance_seed)
    finally:
        metaworld._N_GOALS = drawn


@dataclass
class _Snapshot:
    """Everything that a simulator step or a reset can change.

    ``live`` are attributes that are windows into the simulator's memory (Meta-World keeps some, such as door-lock's
    ``obj_init_pos``, and its rewards read them). They are kept as they are: a copy would stand still.
    """

    physics: NDArray[np.float64]
    model: dict[str, NDArray[np.float64]]
    attributes: dict[str, Any]
    live: dict[str, Any]
    observation: NDArray[np.float64]
    info: dict[str, float]


def _is_window(value: Any) -> bool:
    """Whether an array shows memory of the simulator: of something that is no array."""
    while isinstance(value, np.ndarray) and isinstance(value.base, np.ndarray):
        value = value.base
    return isinstance(value, np.ndarray) and not value.flags.owndata


class MetaWorldEnv(MujocoEnv):
    """One Meta-World task behind the interface of ``suites/base.py``.

    ``EnvStep.truth`` has, in metres: ``hand_x/y/z`` (between the fingers), ``goal_x/y/z`` (target of the task), and
    ``goal_distance``: the suite's ``obj_to_target`` (hand to target in reach, object to target elsewhere).

    Raises:
        UsageError: unknown renderer, or no free camera.
        SetupError: Meta-World or an OpenGL library is missing.
    """

    def __init__(self, config: EnvConfig) -> None:
        import_metaworld()
        from metaworld.policies import ENV_POLICY_MAP

        if not isinstance(config.camera, CameraPose):
            raise UsageError(f"Meta-World is drawn from a free camera, not from {config.camera!r}")
        self.config = config
        benchmark = _benchmark(config.env_id, config.instance_seed)
        self._env: Any = benchmark.train_classes[config.env_id]()
        self._env.set_task(benchmark.train_tasks[0])  # fixes the instance, and shows the expert its goal
        self._env.max_path_length = _STEP_LIMIT
        self._policy: Any = ENV_POLICY_MAP[config.env_id]()
        self.action_space = METAWORLD.action_space
        self._start: _Snapshot | None = None
        self._goal: Image | None = None
        self._observation: NDArray[np.float64] = np.zeros(0)
        self._info: dict[str, float] = {}
        self._steps = 0
        from pvdr_bench.suites.lean import shared_renderer

        self._renderer = shared_renderer(self._env.model, config.camera, config.image_size, config.renderer)

    def reset(self, seed: int) -> Image:
        """First image of an episode; a frozen instance ignores ``seed``, else it draws the instance."""
        if self.config.frozen_instance and self._start is not None:
            self._restore(self._start)
        else:
            self._begin(seed)
        self._steps = 0
        return self._render()

    def _begin(self, seed: int) -> None:
        env = self._env
        if not self.config.frozen_instance:
            env._freeze_rand_vec, env.seeded_rand_vec = False, True
            env.seed(seed)
        observation, _ = env.reset()
        self._observation = np.asarray(observation, np.float64)
        self._info = {}
        self._goal = None
        self._start = self._save()
        self._restore(self._start)  # so that the first episode goes the same way as all later ones

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Up to ``action_repeat`` simulator steps; fewer where the episode ends within them."""
        if self._start is None:
            raise UsageError("step() before reset()")
        action = np.clip(np.asarray(action, np.float32), -1.0, 1.0)
        step = repeated(self.config, self._steps, lambda: (self._simulate(action), self._succeeded()),
                        lambda: (self._render(), self._truth()))
        self._steps += step.env_steps
        return step

    def goal_image(self) -> Image:
        """Image [H, W, 3] once the scripted expert has solved this instance and settled; the episode goes on after it.

        Raises:
            TrainingError: the expert does not solve this instance.
        """
        if self._start is None:
            self.reset(0)
        if self._goal is None:
            assert self._start is not None
            here = self._save()
            self._restore(self._start)
            self._settle()
            self._goal = self._render()
            self._restore(here)
        return self._goal.copy()

    def _settle(self) -> None:
        """Let the expert act on for ``goal_settle_steps`` after its first success: there it is well inside the goal."""
        for _ in range(EXPERT_LIMIT):
            self._simulate(self.expert_action())
            if self._succeeded():
                break
        else:
            raise TrainingError(
                f"the scripted expert of {self.config.env_id} found no success in {EXPERT_LIMIT} simulator steps "
                f"(instance_seed {self.config.instance_seed}), so there is no goal image",
                hint="choose another instance_seed",
            )
        solved, nearest = self._save(), self._info["obj_to_target"]
        for _ in range(self.config.goal_settle_steps):
            self._simulate(self.expert_action())
            if self._succeeded() and self._info["obj_to_target"] < nearest:
                solved, nearest = self._save(), self._info["obj_to_target"]
        if not self._succeeded():  # plate-slide-back's expert undoes the task when it goes on: take its best moment
            self._restore(solved)
        self._centre()

    def _centre(self) -> None:
        """Where the hand itself is what has to be at the target, move the fingertips there.

        The experts of reach hold the hand's mount at the target and the fingertips 4.6 cm beside it, at the rim of the
        5 cm within which the task counts as solved; who reproduced that picture within 1 cm would often fail.
        """
        def offset() -> NDArray[np.float64]:
            return np.asarray(self._env._target_pos - self._env.tcp_center, np.float64)

        if abs(float(np.linalg.norm(offset())) - float(self._info["obj_to_target"])) > 1e-3:
            return  # an object has to be there
        grip = self.expert_action()[3:]
        for _ in range(self.config.goal_settle_steps):
            self._simulate(np.clip(np.concatenate([CENTRE_GAIN * offset(), grip]), -1, 1).astype(np.float32))

    def expert_action(self) -> NDArray[np.float32]:
        """The scripted policy's action [A], clipped to [-1, 1]; it sees the true state and the goal."""
        action = self._policy.get_action(self._observation)
        return np.clip(np.asarray(action, np.float32), -1.0, 1.0)

    @property
    def simulation(self) -> tuple[Any, Any]:
        """The physics' ``MjModel`` and ``MjData``, to draw from."""
        return self._env.model, self._env.data

    def physics_state(self) -> NDArray[np.float64]:
        """MuJoCo's integration state: all that the next steps depend on."""
        import mujoco

        spec = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(self._env.model, spec))
        mujoco.mj_getState(self._env.model, self._env.data, state, spec)
        return state

    def close(self) -> None:
        """Forget the simulator. The renderer is shared by the process and stays."""
        self._start = None
        self._env.close()

    def _simulate(self, action: NDArray[np.float32]) -> float:
        observation, reward, _, _, info = self._env.step(action)
        self._observation, self._info = np.asarray(observation, np.float64), info
        return float(reward)

    def _succeeded(self) -> bool:
        return bool(self._info.get("success", 0.0))

    def _render(self) -> Image:
        return self._renderer.render(self._env.model, self._env.data)

    def _truth(self) -> dict[str, float]:
        hand, goal = self._env.tcp_center, self._env._target_pos
        names = (f"{what}_{axis}" for what in ("hand", "goal") for axis in "xyz")
        truth = dict(zip(names, (float(x) for x in (*hand, *goal)), strict=True))
        truth["goal_distance"] = float(self._info["obj_to_target"])
        return truth

    def _save(self) -> _Snapshot:
        env = self._env
        live = {name: value for name, value in vars(env).items() if _is_window(value)}
        own = {name: value for name, value in vars(env).items() if name not in _SHARED_ATTRIBUTES | live.keys()}
        return _Snapshot(
            physics=self.physics_state(),
            model={name: getattr(env.model, name).copy() for name in _MODEL_ARRAYS},
            attributes=copy.deepcopy(own),
            live=live,
            observation=self._observation.copy(),
            info=dict(self._info),
        )

    def _restore(self, snapshot: _Snapshot) -> None:
        import mujoco

        env = self._env
        for name, value in snapshot.model.items():
            getattr(env.model, name)[:] = value
        mujoco.mj_setState(env.model, env.data, snapshot.physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(env.model, env.data)  # positions that Meta-World reads; it also moves the warm start, so:
        mujoco.mj_setState(env.model, env.data, snapshot.physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        vars(env).update(copy.deepcopy(snapshot.attributes), **snapshot.live)
        self._observation, self._info = snapshot.observation.copy(), dict(snapshot.info)
