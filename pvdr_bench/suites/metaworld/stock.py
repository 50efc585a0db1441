"""Meta-World's environments as its package registers them, for benches that set ours beside them."""

from __future__ import annotations

from typing import Any

from pvdr_bench.needed import need
from pvdr_bench.suites.base import EnvConfig
from pvdr_bench.suites.gl import choose_backend


def stock_env(config: EnvConfig, camera: str) -> Any:
    """A gymnasium environment with the package's own renderer, a frame uint8 [H, W, 3] a decision as its observation.

    The instance is drawn by ``instance_seed``.

    Args:
        camera: name of one of the scene's own, in place of the config's.

    Raises:
        SetupError: gymnasium or the package is missing.
    """
    choose_backend()
    gymnasium = need("gymnasium", "the stock environments")
    need("metaworld", "the stock environments")

    class Repeat(gymnasium.Wrapper):  # type: ignore[misc, name-defined]
        def step(self, action: Any) -> Any:
            total = 0.0
            for _ in range(config.action_repeat):
                observation, reward, terminated, truncated, info = self.env.step(action)
                total += float(reward)
                if terminated or truncated:
                    break
            return observation, total, terminated, truncated, info

    env = gymnasium.make("Meta-World/MT1", env_name=config.env_id, seed=config.instance_seed, render_mode="rgb_array",
                         camera_name=camera, width=config.image_size, height=config.image_size,
                         disable_env_checker=True, max_episode_steps=config.episode_steps)
    return gymnasium.wrappers.AddRenderObservation(Repeat(env), render_only=True)
