"""The two loops of ``bench rivals``: our PPO's, and that of stable-baselines3 around copies of the same modules.

Shapes: N environments, m frames of context, h x w token grid.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pvdr_bench.algorithms.ppo.learner import PPOLearner
from pvdr_bench.rl.contract import Carry, Transition
from pvdr_bench.rl.token_history import push_frame
from pvdr_bench.suites.base import Image
from pvdr_bench.suites.vector import VectorEnv


class Ours:
    """Our learner, driven as the online loop does it."""

    def __init__(self, learner: PPOLearner, envs: VectorEnv, seed: int) -> None:
        self.learner, self.envs, self.n = learner, envs, envs.num_envs
        self.generator = torch.Generator().manual_seed(seed)
        self.image = torch.from_numpy(envs.reset(range(self.n)))
        self.first, self.carry = torch.ones(self.n, dtype=torch.bool), learner.initial(self.n)

    def round(self) -> dict[str, float]:
        """One rollout and its update."""
        steps, learning, began = 0, 0.0, time.process_time()
        for _ in range(self.learner.length):
            action, self.carry, extras = self.learner.act(self.image, self.first, self.carry, "train", self.generator)
            step = self.envs.step(action.clamp(-1, 1).numpy())
            steps += int(step.env_steps.sum())
            terminated, truncated = torch.from_numpy(step.terminated), torch.from_numpy(step.truncated)
            self.learner.observe(Transition(
                self.image, self.first, action, torch.from_numpy(step.dense_reward), terminated, truncated,
                torch.from_numpy(step.final_image), extras))
            self.image, self.first = torch.from_numpy(step.image), terminated | truncated
            started = time.process_time()
            metrics = self.learner.learn()
            learning += time.process_time() - started
        assert metrics
        return _rates(steps, learning, time.process_time() - began)


class Rival:
    """stable-baselines3's PPO with copies of a learner's actor and critic."""

    def __init__(self, learner: PPOLearner, envs: VectorEnv, seed: int) -> None:
        from stable_baselines3 import PPO

        config = learner.config
        self.envs = vec_env(envs, learner)
        minibatch = config.minibatch
        self.length = learner.length
        self.model = PPO(
            _policy(copy.deepcopy(learner.updater.actor), copy.deepcopy(learner.updater.critic), config.adam_eps, seed),
            self.envs, learning_rate=config.actor_lr, n_steps=learner.length, batch_size=minibatch,
            n_epochs=config.epochs, gamma=config.gamma, gae_lambda=config.gae_lambda, clip_range=config.clip,
            clip_range_vf=config.value_clip, ent_coef=config.entropy_coef, vf_coef=config.value_coef,
            max_grad_norm=config.max_grad_norm, device="cpu", seed=seed)
        self.learning, self._train = 0.0, self.model.train
        self.model.train = self._timed

    def _timed(self) -> None:
        started = time.process_time()
        self._train()
        self.learning += time.process_time() - started

    def round(self) -> dict[str, float]:
        """One rollout and its update."""
        self.learning, before, began = 0.0, self.envs.env_steps, time.process_time()
        self.model.learn(self.length * self.envs.num_envs, reset_num_timesteps=False)
        return _rates(self.envs.env_steps - before, self.learning, time.process_time() - began)


def _rates(env_steps: int, learning: float, whole: float) -> dict[str, float]:
    return {"update_env_steps_per_second": env_steps / learning, "loop_env_steps_per_second": env_steps / whole}


def vec_env(envs: VectorEnv, learner: PPOLearner) -> Any:
    """Our environments as stable-baselines3 takes them, observing the contexts [N, m, h, w] that ours acts on."""
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import VecEnv

    dtype = torch.zeros(0, dtype=learner.dtype).numpy().dtype
    shape = tuple(learner.initial(1)["tokens"].shape[1:])

    class Contexts(VecEnv):  # type: ignore[misc]
        env_steps = 0

        def __init__(self) -> None:
            low, high = np.zeros(shape, dtype), np.full(shape, min(np.iinfo(dtype).max, 2**24), dtype)
            super().__init__(envs.num_envs, spaces.Box(low, high, dtype=dtype),
                             spaces.Box(-1.0, 1.0, (envs.action_dim,), np.float32))
            self.carry: Carry = learner.initial(envs.num_envs)

        def _push(self, images: Image, first: NDArray[np.bool_]) -> NDArray[Any]:
            codes = learner.encode(torch.from_numpy(images)).to(learner.dtype)
            self.carry = {"tokens": push_frame(self.carry["tokens"], codes, torch.from_numpy(first))}
            contexts: NDArray[Any] = self.carry["tokens"].numpy()
            return contexts

        def reset(self) -> NDArray[Any]:
            return self._push(envs.reset(range(self.num_envs)), np.ones(self.num_envs, np.bool_))

        def step_async(self, actions: NDArray[np.float32]) -> None:
            self.actions = actions

        def step_wait(self) -> Any:
            step = envs.step(self.actions)
            self.env_steps += int(step.env_steps.sum())
            ended = step.terminated | step.truncated
            infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
            if ended.any():
                before = self.carry
                last = self._push(step.final_image, np.zeros_like(ended))
                for i in np.flatnonzero(ended):
                    infos[i] = {"terminal_observation": last[i].copy(), "TimeLimit.truncated": bool(step.truncated[i])}
                self.carry = before
            return self._push(step.image, ended), step.dense_reward, ended, infos

        def close(self) -> None:
            pass

        def get_attr(self, name: str, indices: Any = None) -> list[Any]:
            return [None] * self.num_envs

        def set_attr(self, name: str, value: Any, indices: Any = None) -> None:
            raise NotImplementedError

        def env_method(self, name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            raise NotImplementedError

        def env_is_wrapped(self, wrapper: Any, indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

    return Contexts()


def _policy(actor: nn.Module, critic: nn.Module, adam_eps: float, seed: int) -> Any:
    """A policy class of stable-baselines3 around an actor and a critic."""
    from stable_baselines3.common.policies import ActorCriticPolicy

    class Same(ActorCriticPolicy):  # type: ignore[misc]
        def _build(self, lr_schedule: Callable[[float], float]) -> None:
            self.actor, self.critic = actor, critic
            self.generator = torch.Generator().manual_seed(seed)
            self.features_extractor = self.pi_features_extractor = self.vf_features_extractor = nn.Identity()
            self.optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=lr_schedule(1),
                                              eps=adam_eps)

        def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
            state = {"tokens": obs}
            policy = self.actor(state)
            action = policy.mean if deterministic else policy.sample(self.generator)
            return action, self.critic(state), policy.log_prob(action)

        def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            state = {"tokens": obs}
            policy = self.actor(state)
            return self.critic(state), policy.log_prob(actions), policy.entropy()

        def predict_values(self, obs: Tensor) -> Tensor:
            value: Tensor = self.critic({"tokens": obs})
            return value

    return Same
