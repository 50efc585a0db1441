"""Corpus ``metaworld``: the suite's robot in its scenes, at random instances, doing many things.

An episode has 40 to 60 frames, four simulator steps apart (20 frames a second); who moves the hand in it is told by
:class:`~pvdr_bench.suites.play.Conductor`.

Half of the episodes start with up to 40 unrecorded simulator steps of play, so that not all begin in the rest pose.
Scenes: the twelve tasks of the paper. Objects and goals are drawn anew in every episode; the frozen instances that
runs are evaluated on are never set, and no frame of an evaluation is used. The corpus is in-domain by intent: it shows
the robot, the scenes and (for its share of expert frames) skilled motion, without actions or rewards.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pvdr_bench.suites.corpora import Clip, Generator
from pvdr_bench.suites.lean import LeanRenderer
from pvdr_bench.suites.metaworld.cameras import CAMERAS
from pvdr_bench.suites.metaworld.env import import_metaworld
from pvdr_bench.suites.play import Box, Conductor, Vector, WaypointPlay

TASKS = (
    "reach", "button-press-topdown", "dial-turn", "drawer-close", "window-open",
    "button-press", "plate-slide", "plate-slide-back", "window-close",
    "plate-slide-side", "hand-insert", "drawer-open",
)
ACTION_REPEAT = 4
FRAMES = (40, 60)  # shortest and longest episode
# what the camera sees of the hand's range, metres; cut with the task's own limits
WORKSPACE = Box((-0.32, 0.42, 0.05), (0.30, 0.90, 0.36))


class MetaWorldGenerator(Generator):
    """Episodes of one Meta-World task; see the module's text."""

    version = 2
    sources = TASKS
    truth_columns: ClassVar[dict[str, int]] = {"action": 4, "hand": 3, "gripper": 1, "object": 3, "mode": 1}
    fps = 20.0
    packages = ("metaworld", "mujoco", "gymnasium", "numpy")

    def __init__(self, source: str, image_size: int) -> None:
        environments = import_metaworld().ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP

        env_id = f"{source}-v3"
        self._env: Any = environments[env_id]()
        expert: Any = ENV_POLICY_MAP[env_id]  # annotated as the abstract base there
        self._policy = expert()
        self._prepare()
        self._renderer = LeanRenderer(self._env.model, CAMERAS["metaworld"], image_size)
        low = np.maximum(WORKSPACE.low, self._env.mocap_low).tolist()
        high = np.minimum(WORKSPACE.high, self._env.mocap_high).tolist()
        self._box = Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def _prepare(self) -> None:
        env = self._env
        env._partially_observable = False  # the expert reads the goal
        del env.sawyer_observation_space  # a cached property that was computed for a hidden goal
        env._set_task_called = True
        env._freeze_rand_vec = False  # object and goal are drawn at every reset ...
        env.seeded_rand_vec = True  # ... from the generator that env.seed() sets, not from numpy's global one

    def episode(self, rng: np.random.Generator) -> Clip:
        """One episode; the instance, the mode and the noise all come from ``rng``."""
        env = self._env
        env.seed(int(rng.integers(2**31)))
        obs, _ = env.reset()
        length = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
        if rng.random() < 0.5:
            obs = self._warm_up(rng, obs, int(rng.integers(0, 41)))
        conductor = Conductor(rng, self._box, length)
        frames, rows = [], []
        for frame in range(length):
            frames.append(self._renderer.render(env.model, env.data))
            hand, objects = obs[:3].copy(), [obs[4:7].copy()]
            # the scripted policies keep no state, so one can be asked at any time
            expert = np.asarray(self._policy.get_action(obs), float) if conductor.wants_expert(frame) else None
            last = frame == length - 1
            action = np.zeros(4, np.float32) if last else conductor.action(hand, objects, expert)
            rows.append((action, hand, obs[3], objects[0], conductor.mode))
            if not last:
                for _ in range(ACTION_REPEAT):
                    obs = env.step(action)[0]
        return Clip(np.stack(frames), {
            name: np.array([np.ravel(row[i]) for row in rows], np.float32) for i, name in enumerate(self.truth_columns)
        })

    def _warm_up(self, rng: np.random.Generator, obs: Vector, steps: int) -> Vector:
        play = WaypointPlay(rng, self._box, patience=50)
        for _ in range(steps):
            obs = self._env.step(play.action(obs[:3], [obs[4:7]]).astype(np.float32))[0]
        return obs

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()
