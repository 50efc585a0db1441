"""Actor and critic, learned in imagination.

Two objectives. ``dynamics``, DreamerV2's (arXiv 2010.02193, section 3): the actor follows the gradient of returns
through the model; rewards belong to the state arrived at, so the reward of the start is not the doing of any imagined
action: its first objective is the return from the second state on (its code's ``[1:]`` and ``[:-2]``). ``reinforce``,
DreamerV3's (arXiv 2301.04104, Eqs. 4 to 8): the return of a state does not count its own reward, and the actor follows
the score function of its own actions, weighted by scaled advantages.

Shapes: N start states, H horizon, F feature width, A action dimensions, B sequences of T steps. A path has H + 1
states, the start included.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.dreamer.config import DreamerConfig
from pvdr_bench.algorithms.dreamer.forms import style_of
from pvdr_bench.algorithms.dreamer.returns import ReturnScale, lambda_returns, replay_returns
from pvdr_bench.algorithms.dreamer.world_model import Sequences, WorldModel
from pvdr_bench.nets.conv import MLP
from pvdr_bench.nets.distributions import BoundedNormal, TruncatedNormal
from pvdr_bench.nets.rssm import RSSM, State
from pvdr_bench.nets.twohot import ScalarHead

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class Path:
    """Imagined states; gradients of ``feature`` reach the actor through dynamics and actions."""

    feature: Tensor  # [H + 1, N, F]
    reward: Tensor  # [H + 1, N], on arriving
    discount: Tensor  # [H + 1, N]
    weight: Tensor  # [H + 1, N], probability that the episode is still going, times gamma^t; without gradient
    action: Tensor  # [H, N, A], as drawn


@dataclass(frozen=True)
class Replayed:
    """The states that imagination starts from, as replay has them, for DreamerV3's replay value loss."""

    feature: Tensor  # [B, T, F], with the gradient that the loss may send to the representation
    data: Sequences


class Actor(nn.Module):
    """Features [..., F] -> the policy's distribution over actions [..., A]."""

    def __init__(self, feature_dim: int, action_dim: int, config: DreamerConfig) -> None:
        super().__init__()
        self.config, model = config.behaviour, config.model
        self.net = MLP(feature_dim, 2 * action_dim, model.head_layers, model.head_units, self.config.actor_scale,
                       style_of(model))

    def forward(self, feature: Tensor) -> TruncatedNormal | BoundedNormal:
        """The policy."""
        mean, std = self.net(feature).float().chunk(2, -1)
        if self.config.actor == "bounded_normal":
            return BoundedNormal.from_raw(mean, std, self.config.min_std, self.config.max_std)
        return TruncatedNormal.from_raw(mean, std, self.config.min_std)


class Behaviour(nn.Module):
    """Actor, critic and the slow critic."""

    def __init__(self, config: DreamerConfig, feature_dim: int, action_dim: int) -> None:
        super().__init__()
        self.config, self.action_dim, model = config.behaviour, action_dim, config.model
        self.actor = Actor(feature_dim, action_dim, config)
        self.critic, self.slow_critic = (
            ScalarHead(feature_dim, model.head_layers, model.head_units, self.config.critic_head == "two_hot",
                       config.loss.bin_limit, style_of(model)) for _ in range(2))
        self.slow_critic.load_state_dict(self.critic.state_dict())
        self.slow_critic.requires_grad_(False)
        self.return_scale = ReturnScale(self.config) if self.config.objective == "reinforce" else None
        self._bounds: Tensor | None = None  # of the last losses, not taken over yet

    @torch.no_grad()
    def settle(self, updates: int) -> None:
        """After a step, the ``updates``-th: take over the running scale, and move the slow critic when it is due."""
        if self.return_scale is not None and self._bounds is not None:
            self.return_scale.bounds.copy_(self._bounds)
        if updates % self.config.slow_every:
            return
        if self.config.slow_rate == 1.0:
            self.slow_critic.load_state_dict(self.critic.state_dict())
            return
        for slow, fast in zip(self.slow_critic.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, self.config.slow_rate)

    def imagine(self, model: WorldModel, start: State, is_terminal: Tensor, uniform: Tensor) -> Path:
        """Follow the actor for H steps from states [N, ...]; with gradients where the objective is ``dynamics``.

        Args:
            is_terminal: bool [N], of the start; what follows a terminal state has no weight.
            uniform: [H, N, A + S], for actions and latents.
        """
        with nullcontext() if self.config.objective == "dynamics" else torch.no_grad():
            return self._imagine(model, start, is_terminal, uniform)

    def _imagine(self, model: WorldModel, start: State, is_terminal: Tensor, uniform: Tensor) -> Path:
        state, features, actions = start, [RSSM.feature(start)], []
        for noise in uniform:
            action = self.actor(features[-1].detach()).sample(noise[:, :self.action_dim])
            state = model.imagine(state, action.clamp(-1, 1), noise[:, self.action_dim:])
            features.append(RSSM.feature(state))
            actions.append(action)
        feature = torch.stack(features)
        discount = model.predict_discount(feature, self.config.gamma)
        if model.discount is not None:
            first = self.config.gamma * (~is_terminal).to(discount.dtype)
            discount = torch.cat([first[None], discount[1:]])
        weight = torch.cat([torch.ones_like(discount[:1]), discount[:-1]]).cumprod(0).detach()
        return Path(feature, model.predict_reward(feature), discount, weight, torch.stack(actions))

    def losses(self, path: Path, replayed: Replayed | None = None) -> tuple[Tensor, Tensor, Metrics]:
        """Losses of actor and critic (scalars) and metrics.

        Args:
            replayed: the path's N = B * T starts, for ``replay_value``; None: without that loss.
        """
        if self.config.objective == "dynamics":
            actor_loss, critic_loss, metrics = self._dynamics(path)
        else:
            actor_loss, critic_loss, metrics = self._reinforce(path, replayed)
        metrics |= {"actor_loss": actor_loss, "critic_loss": critic_loss, "imagined_reward": path.reward.mean()}
        return actor_loss, critic_loss, {name: x.detach() for name, x in metrics.items()}

    def _dynamics(self, path: Path) -> tuple[Tensor, Tensor, Metrics]:
        value = self.slow_critic.mean(self.slow_critic(path.feature))
        target = lambda_returns(path.reward[:-1], value[:-1], path.discount[:-1], value[-1], self.config.gae_lambda)
        policy = self.actor(path.feature[:-2].detach())
        entropy = policy.entropy()
        actor_loss = -(path.weight[:-2] * (target[1:] + self.config.entropy_coef * entropy)).mean()
        out = self.critic(path.feature[:-1].detach())
        critic_loss = (path.weight[:-1] * self.critic.loss(out, target.detach())).mean()
        return actor_loss, critic_loss, {
            "actor_entropy": entropy.mean(), "actor_std": policy.std.mean(), "imagined_return": target.mean(),
            "value": self.critic.mean(out).mean()}

    def _reinforce(self, path: Path, replayed: Replayed | None) -> tuple[Tensor, Tensor, Metrics]:
        own, feature = self.config, path.feature.detach()
        out = self.critic(feature)
        slow = self.slow_critic.mean(self.slow_critic(feature))
        value = slow if own.targets == "slow" else self.critic.mean(out).detach()
        returns = lambda_returns(path.reward[1:], value[:-1], path.discount[1:], value[-1], own.gae_lambda).detach()
        weight = (path.weight * path.discount)[:-1].detach()  # nothing is learned from a state that is an end
        assert self.return_scale is not None
        self._bounds = self.return_scale.moved(returns)
        scale = self.return_scale.scale(self._bounds)
        advantage = (returns - value[:-1]) / scale
        policy = self.actor(feature[:-1])
        entropy = policy.entropy()
        score = policy.log_prob(path.action.detach()) * advantage
        actor_loss = -(weight * (score + own.entropy_coef * entropy)).mean()
        critic_loss = (weight * self._critic_terms(out[:-1], returns, slow[:-1])).mean()
        metrics = {"actor_entropy": entropy.mean(), "actor_std": policy.std.mean(), "imagined_return": returns.mean(),
                   "value": value.mean(), "advantage_std": advantage.std(), "return_low": self._bounds[0],
                   "return_high": self._bounds[1], "return_scale": scale}
        if replayed is not None and own.replay_value:
            term = self._replay_loss(replayed, returns[0])
            critic_loss, metrics["replay_value_loss"] = critic_loss + own.replay_value * term, term
        return actor_loss, critic_loss, metrics

    def _critic_terms(self, out: Tensor, target: Tensor, slow: Tensor) -> Tensor:
        """Losses [...] of outputs [..., K] against targets, and, as a regulariser, against the slow critic."""
        return self.critic.loss(out, target) + self.config.slow_regulariser * self.critic.loss(out, slow)

    def _replay_loss(self, replayed: Replayed, imagined: Tensor) -> Tensor:
        """The critic's loss on replayed rewards, bootstrapped by returns imagined [B * T] from the same states."""
        own, data = self.config, replayed.data
        feature = replayed.feature if own.replay_value_grad else replayed.feature.detach()
        is_last = torch.cat([data.is_first[:, 1:], torch.zeros_like(data.is_first[:, :1])], 1)
        returns = replay_returns(data.reward, is_last, data.is_terminal, imagined.view(data.reward.shape), own.gamma,
                                 own.gae_lambda)
        out = self.critic(feature[:, :-1])
        slow = self.slow_critic.mean(self.slow_critic(feature[:, :-1].detach()))
        return ((~is_last[:, :-1]) * self._critic_terms(out, returns, slow)).mean()
