"""Actor and critic of DreamerV2, learned in imagination by dynamics backpropagation (arXiv 2010.02193, section 3).

Shapes: N start states, H horizon, F feature width, A action dimensions. A path has H + 1 states, the start included.
Rewards belong to the state arrived at, so the reward of the start is not the doing of any imagined action: the
actor's first objective is the return from the second state on (its code's ``[1:]`` and ``[:-2]``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.world_model import WorldModel
from pvdr_bench.nets.conv import MLP
from pvdr_bench.nets.distributions import TruncatedNormal
from pvdr_bench.nets.rssm import RSSM, State


def lambda_returns(reward: Tensor, value: Tensor, discount: Tensor, bootstrap: Tensor, lambda_: float) -> Tensor:
    """TD(lambda) returns [H]: ``V_t = r_t + g_t ((1 - lambda) v_{t+1} + lambda V_{t+1})``, with V_H = v_H = bootstrap.

    Args:
        reward, value, discount: [H, ...], of states 0 .. H - 1. bootstrap: [...], value of state H.
    """
    following = torch.cat([value[1:], bootstrap[None]])
    inputs = reward + discount * following * (1 - lambda_)
    last, returns = bootstrap, []
    for t in reversed(range(len(reward))):
        last = inputs[t] + discount[t] * lambda_ * last
        returns.append(last)
    return torch.stack(returns[::-1])


@dataclass(frozen=True)
class Path:
    """Imagined states; gradients of ``feature`` reach the actor through dynamics and actions."""

    feature: Tensor  # [H + 1, N, F]
    reward: Tensor  # [H + 1, N], on arriving
    discount: Tensor  # [H + 1, N]
    weight: Tensor  # [H + 1, N], probability that the episode is still going, times gamma^t; without gradient


class Actor(nn.Module):
    """Features [..., F] -> truncated normal over actions [..., A]."""

    def __init__(self, feature_dim: int, action_dim: int, config: DreamerConfig) -> None:
        super().__init__()
        self.net = MLP(feature_dim, 2 * action_dim, config.model.head_layers, config.model.head_units)
        self.min_std = config.behaviour.min_std

    def forward(self, feature: Tensor) -> TruncatedNormal:
        """The policy."""
        mean, std = self.net(feature).float().chunk(2, -1)
        return TruncatedNormal.from_raw(mean, std, self.min_std)


class Behaviour(nn.Module):
    """Actor, critic and the slow critic that targets are made with."""

    def __init__(self, config: DreamerConfig, feature_dim: int, action_dim: int) -> None:
        super().__init__()
        self.config, self.action_dim = config.behaviour, action_dim
        self.actor = Actor(feature_dim, action_dim, config)
        heads = (config.model.head_layers, config.model.head_units)
        self.critic, self.slow_critic = (MLP(feature_dim, 1, *heads) for _ in range(2))
        self.copy_critic()
        self.slow_critic.requires_grad_(False)

    def copy_critic(self) -> None:
        """The slow critic becomes the critic."""
        self.slow_critic.load_state_dict(self.critic.state_dict())

    def imagine(self, model: WorldModel, start: State, is_terminal: Tensor, uniform: Tensor) -> Path:
        """Follow the actor for H steps from states [N, ...].

        Args:
            is_terminal: bool [N], of the start; what follows a terminal state has no weight.
            uniform: [H, N, A + S], for actions and latents.
        """
        state, features = start, [RSSM.feature(start)]
        for noise in uniform:
            action = self.actor(features[-1].detach()).sample(noise[:, :self.action_dim])
            state = model.imagine(state, action, noise[:, self.action_dim:])
            features.append(RSSM.feature(state))
        feature = torch.stack(features)
        discount = model.predict_discount(feature, self.config.gamma)
        if model.discount is not None:
            first = self.config.gamma * (~is_terminal).to(discount.dtype)
            discount = torch.cat([first[None], discount[1:]])
        weight = torch.cat([torch.ones_like(discount[:1]), discount[:-1]]).cumprod(0).detach()
        return Path(feature, model.predict_reward(feature), discount, weight)

    def losses(self, path: Path) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Losses of actor and critic (scalars) and metrics."""
        value = self.slow_critic(path.feature)[..., 0].float()
        target = lambda_returns(path.reward[:-1], value[:-1], path.discount[:-1], value[-1], self.config.gae_lambda)
        policy = self.actor(path.feature[:-2].detach())
        entropy = policy.entropy()
        actor_loss = -(path.weight[:-2] * (target[1:] + self.config.entropy_coef * entropy)).mean()
        predicted = self.critic(path.feature[:-1].detach())[..., 0].float()
        critic_loss = 0.5 * (path.weight[:-1] * (predicted - target.detach()).square()).mean()
        metrics = {"actor_loss": actor_loss, "critic_loss": critic_loss, "actor_entropy": entropy.mean(),
                   "actor_std": policy.std.mean(), "imagined_reward": path.reward.mean(),
                   "imagined_return": target.mean(), "value": predicted.mean()}
        return actor_loss, critic_loss, {name: x.detach() for name, x in metrics.items()}
