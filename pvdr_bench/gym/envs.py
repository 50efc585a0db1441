"""One task, or N of them, in Gymnasium's form.

Observations are pictures uint8 [H, W, 3], actions float32 [A] in [-1, 1], a step is a decision of ``action_repeat``
simulator steps. Reward, pictures, instances and ends of episodes are those of a protocol at a scale, by default of the
task's own protocol at ``paper`` scale. ``info`` has ``success`` (in this decision), ``env_steps`` and the suite's
ground truth, which is for metrics. The scenes of a process share one OpenGL context, which does not survive a fork:
``make_vec`` starts worker processes of its own, and gymnasium's ``AsyncVectorEnv`` needs ``context="spawn"``.

Shapes: N environments, H = W image size, A action dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.catalog.protocol import Protocol
from pvdr_bench.catalog.resolve import find_key
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.suites.base import Image, VectorStep
from pvdr_bench.suites.vector import VectorEnv

_SEEDS = 2**31


class Tasks:
    """N environments of one task with their rewards: what both forms stand on.

    Raises:
        CatalogError, UsageError: unknown task, protocol, scale or key, or a reward that needs a tokenizer.
        SetupError: the suite's packages are missing.
    """

    def __init__(self, n: int, task: str, scale: str, protocol: str | None, workers: int, keys: dict[str, Any]) -> None:
        self.spec = resolved(task, scale, protocol, keys)
        self.envs = VectorEnv(self.spec.env_config(), n, workers)
        size = self.envs.observation_space.shape
        self.observation_space = gymnasium.spaces.Box(0, 255, size, np.uint8)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.envs.action_dim,), np.float32)
        self._reward: Any = None

    def reset(self, seeds: Sequence[int]) -> Image:
        """First images [N, H, W, 3]."""
        images = self.envs.reset(seeds)
        if self._reward is None:
            self._reward = self._make_reward(images[0])
        self._reward.begin(len(seeds))
        return images

    def _make_reward(self, start: Image) -> Any:
        import torch

        from pvdr_bench.rl.facts import GoalFacts
        from pvdr_bench.training.reward import GoalReward

        goal = None
        if self.spec.protocol.reward == "goal_distance":
            goal = GoalFacts(image=self.envs.goal_image(), start=start.copy())
        return GoalReward(self.spec.protocol, goal, None, torch.device("cpu"))

    def step(self, actions: NDArray[np.floating]) -> tuple[VectorStep, NDArray[np.float32]]:
        """A decision with actions [N, A], and its rewards [N]."""
        step = self.envs.step(np.clip(np.asarray(actions, np.float32), -1.0, 1.0))
        return step, self._reward.reward(step)[0]


def resolved(task: str, scale: str, protocol: str | None, keys: dict[str, Any]) -> RunSpec:
    """The task under a protocol, of which ``keys`` change some."""
    for key in keys:
        find_key(key, Protocol, "a protocol")  # told as it is given here, which is without -o's prefix
    grid = {"num_envs": 1}  # of a run's checkpoints and evaluations, which there are none of here
    if "episode_steps" in keys:
        grid |= {"sync_every": keys["episode_steps"], "eval_every": keys["episode_steps"]}
    texts = [f"protocol.{key}={json.dumps(value)}" for key, value in (grid | keys).items()]
    return load_catalog().resolve("random", task, 0, scale, protocol, None, texts)


class TaskEnv(gymnasium.Env):  # type: ignore[misc]
    """A task.

    Args:
        task: its name in the catalog; ``gymnasium.make`` fills it in.
        scale, protocol: whose reward, pictures and episodes; None: the task's own protocol.
        render_mode: ``rgb_array``: the last picture, as observed.
        keys: keys of the protocol that differ, such as ``image_size=64`` or ``terminate_on_success=True``.

    Raises:
        CatalogError, UsageError: unknown task, protocol, scale or key, or a reward that needs a tokenizer.
        SetupError: the suite's packages are missing.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, task: str, scale: str = "paper", protocol: str | None = None, render_mode: str | None = None,
                 **keys: Any) -> None:
        self._tasks = Tasks(1, task, scale, protocol, 0, keys)
        self.observation_space, self.action_space = self._tasks.observation_space, self._tasks.action_space
        self.render_mode = render_mode
        self._image: Image | None = None

    @property
    def goal_image(self) -> Image:
        """The goal [H, W, 3] of the frozen instance."""
        return self._tasks.envs.goal_image()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Image, dict[str, Any]]:
        """Start an episode; where instances are not frozen, the seed draws the instance."""
        super().reset(seed=seed)
        self._image = self._tasks.reset([seed if seed is not None else int(self.np_random.integers(_SEEDS))])[0]
        return self._image, {}

    def step(self, action: NDArray[np.floating]) -> tuple[Image, float, bool, bool, dict[str, Any]]:
        """One decision with an action [A]."""
        step, reward = self._tasks.step(np.asarray(action)[None])
        self._image = step.final_image[0]
        return self._image, float(reward[0]), bool(step.terminated[0]), bool(step.truncated[0]), _info(step, 0)

    def render(self) -> Image | None:
        """The last picture."""
        return self._image if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the simulator."""
        self._tasks.envs.close()


class TaskVectorEnv(gymnasium.vector.VectorEnv):  # type: ignore[misc]
    """N environments of a task in worker processes; what ``gymnasium.make_vec`` makes.

    An episode that ends is followed by the next one in the same step (``AutoresetMode.SAME_STEP``): its last picture
    and info are ``final_obs`` and ``final_info``. Arguments are those of :class:`TaskEnv`; ``workers`` counts the
    processes, 0 steps in this one.
    """

    metadata = {
        "render_modes": ["rgb_array"], "render_fps": 10, "autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int = 1, task: str = "", scale: str = "paper", protocol: str | None = None,
                 render_mode: str | None = None, workers: int = 1, **keys: Any) -> None:
        self._tasks = Tasks(num_envs, task, scale, protocol, workers, keys)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single_observation_space = self._tasks.observation_space
        self.single_action_space = self._tasks.action_space
        batch = gymnasium.vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, num_envs)
        self.action_space = batch(self.single_action_space, num_envs)
        self._image: Image | None = None

    @property
    def goal_image(self) -> Image:
        """The goal [H, W, 3] of the frozen instance."""
        return self._tasks.envs.goal_image()

    def reset(self, *, seed: int | Sequence[int | None] | None = None,
              options: dict[str, Any] | None = None) -> tuple[Image, dict[str, Any]]:
        """Start an episode in every environment; one seed s is s, s + 1, ..."""
        if isinstance(seed, int):
            super().reset(seed=seed)
            given: list[int | None] = [seed + i for i in range(self.num_envs)]
        else:
            given = [None] * self.num_envs if seed is None else list(seed)
        self._image = self._tasks.reset(
            [one if one is not None else int(self.np_random.integers(_SEEDS)) for one in given])
        return self._image, {}

    def step(self, actions: NDArray[np.floating]) -> tuple[Any, ...]:
        """One decision with actions [N, A]."""
        step, reward = self._tasks.step(actions)
        self._image = step.image
        infos: dict[str, Any] = {}
        for i in range(self.num_envs):
            info = _info(step, i)
            if step.terminated[i] or step.truncated[i]:
                info = {"final_obs": step.final_image[i], "final_info": info}
            infos = self._add_info(infos, info, i)
        return step.image, reward.astype(np.float64), step.terminated, step.truncated, infos

    def render(self) -> tuple[Image, ...] | None:
        """The last pictures."""
        return None if self.render_mode != "rgb_array" or self._image is None else tuple(self._image)

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the workers."""
        self._tasks.envs.close()


def _info(step: VectorStep, i: int) -> dict[str, Any]:
    return {"success": bool(step.success[i]), "env_steps": int(step.env_steps[i]),
            **{name: float(values[i]) for name, values in step.truth.items()}}
