"""Some environments stepped in turn, in this process.

Shapes: n environments, H = W image size, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.suites import make_env
from pvdr_bench.suites.base import Env, EnvConfig, EnvStep, Image
from pvdr_bench.suites.spaces import BoxSpace


class EnvGroup:
    """Some environments stepped in turn, with automatic reset: the work of one worker, or of none.

    ``frames`` [2, n, H, W, 3] is where images to act on (first half) and final images (second half) are written.
    """

    def __init__(self, config: EnvConfig, n: int, frames: Image) -> None:
        self.envs: list[Env] = [make_env(config) for _ in range(n)]
        self.image, self.final = frames
        self._seeds, self._episodes = [0] * n, [0] * n  # of those that play

    @property
    def action_space(self) -> BoxSpace:
        """What :meth:`step` takes for each environment."""
        return self.envs[0].action_space

    def reset(self, seeds: Sequence[int]) -> None:
        """Start an episode in every environment, or in the first ones, as many as seeds; first images in ``image``."""
        self._seeds, self._episodes = list(seeds), [0] * len(seeds)
        for i, (env, seed) in enumerate(zip(self._playing, seeds, strict=True)):
            self.image[i] = env.reset(seed)

    @property
    def _playing(self) -> list[Env]:
        return self.envs[:len(self._seeds)]

    def step(self, actions: NDArray[np.float32]) -> list[EnvStep]:
        """One decision in each that plays; images in ``image`` and ``final``, and none in the returned steps."""
        steps = []
        for i, (env, action) in enumerate(zip(self._playing, actions, strict=True)):
            step = env.step(action)
            self.final[i] = step.image
            if step.terminated or step.truncated:
                self._episodes[i] += 1
                self.image[i] = env.reset(next_seed(self._seeds[i], self._episodes[i]))
            else:
                self.image[i] = step.image
            step.image = np.empty(0, np.uint8)
            steps.append(step)
        return steps

    def goal_image(self) -> Image:
        """Goal image [H, W, 3] of the first environment's instance."""
        return self.envs[0].goal_image()

    def expert_action(self) -> NDArray[np.float32]:
        """The scripted expert's actions [n, A] in the current states."""
        return np.stack([env.expert_action() for env in self._playing]).astype(np.float32)

    def close(self) -> None:
        """Free the simulators."""
        for env in self.envs:
            env.close()


def next_seed(seed: int, episode: int) -> int:
    """Seed of the ``episode``-th automatic reset after a reset with ``seed``; equal to no seed below 2**32."""
    return seed + (episode << 32)
