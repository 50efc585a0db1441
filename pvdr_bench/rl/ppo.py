"""PPO without any assumption about the state: the clipped loss and the minibatch updates.

Actor and critic are modules that read a rollout's state: ``actor(state) -> DiagonalGaussian`` over [B, A],
``critic(state) -> [B]``.

Shapes: B = a minibatch of a rollout's decisions, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pvdr_bench.nets.distributions import DiagonalGaussian
from pvdr_bench.nets.optimizers import clip_gradients, load_optimizer_state, optimizer_state, require_finite
from pvdr_bench.rl.rollout import Batch


class PPOSettings(Protocol):
    """The hyperparameters of PPO that this module reads; configs of PPO and PVDR both have them."""

    @property
    def gamma(self) -> float:
        """Discount per decision."""
        ...

    @property
    def gae_lambda(self) -> float:
        """Lambda of GAE."""
        ...

    @property
    def clip(self) -> float:
        """Range of the probability ratio."""
        ...

    @property
    def value_clip(self) -> float:
        """Range of a value's move."""
        ...

    @property
    def value_coef(self) -> float:
        """Weight of the value loss."""
        ...

    @property
    def entropy_coef(self) -> float:
        """Weight of the entropy."""
        ...

    @property
    def max_grad_norm(self) -> float:
        """Clip of each network's gradient norm; 0: none."""
        ...

    @property
    def epochs(self) -> int:
        """Passes over a rollout."""
        ...

    @property
    def minibatch(self) -> int:
        """Decisions in a minibatch."""
        ...

    @property
    def actor_lr(self) -> float:
        """Learning rate of the actor."""
        ...

    @property
    def critic_lr(self) -> float:
        """Learning rate of the critic."""
        ...


@dataclass
class PPOLosses:
    """Scalars of one minibatch; the three losses carry gradients, the diagnostics do not."""

    policy: Tensor
    value: Tensor
    entropy: Tensor
    approx_kl: Tensor  # mean of (ratio - 1) - log ratio, an unbiased, non-negative estimate in nats
    clip_fraction: Tensor  # share of decisions whose ratio lies outside the clip range


def ppo_losses(policy: DiagonalGaussian, value: Tensor, batch: Batch, clip: float, value_clip: float) -> PPOLosses:
    """The clipped surrogate and the clipped value loss, means over decisions whose advantages are normalised."""
    log_ratio = policy.log_prob(batch.action) - batch.log_prob
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * batch.advantage, ratio.clamp(1 - clip, 1 + clip) * batch.advantage)
    moved = batch.value + (value - batch.value).clamp(-value_clip, value_clip)
    value_loss = 0.5 * torch.maximum((value - batch.returns) ** 2, (moved - batch.returns) ** 2).mean()
    with torch.no_grad():
        approx_kl = ((ratio - 1) - log_ratio).mean()
        clip_fraction = ((ratio - 1).abs() > clip).float().mean()
    return PPOLosses(-surrogate.mean(), value_loss, policy.entropy().mean(), approx_kl, clip_fraction)


def explained_variance(value: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - value) / Var(returns); 1 is a perfect critic, 0 no better than a constant.

    Also 0 where returns do not vary: there is nothing to explain then.
    """
    variance = returns.var(correction=0)
    if variance == 0:
        return 0.0
    return float(1 - (returns - value).var(correction=0) / variance)


Auxiliary = Callable[[Batch], Callable[[Tensor], Tensor]]
"""A loss added to the actor's. Called once for a minibatch, it gives a function from some of its rows, int64 [b], to
their part of the loss (a finite scalar with gradient); the parts of all rows sum up to the minibatch's loss."""


class PPOUpdater:
    """Minibatch updates of an actor and a critic, each with its own Adam and its own gradient clip.

    Args:
        actor, critic: modules that read a state.
        settings: hyperparameters.
        seed: of the minibatch order.
        adam_eps: Adam's epsilon.
        autocast: makes the context that networks run in, for lower precision; acting has to use it too, or the
            first ratios are not 1.
        micro_batch: decisions at a time in memory, with the same gradients; 0: the whole minibatch.
    """

    def __init__(self, actor: nn.Module, critic: nn.Module, settings: PPOSettings, seed: int, adam_eps: float = 1e-5,
                 autocast: Callable[[], AbstractContextManager[Any]] = nullcontext, micro_batch: int = 0) -> None:
        self.actor, self.critic, self.settings, self.autocast = actor, critic, settings, autocast
        self.micro_batch = micro_batch
        self.actor_optimizer = torch.optim.Adam(actor.parameters(), lr=settings.actor_lr, eps=adam_eps)
        self.critic_optimizer = torch.optim.Adam(critic.parameters(), lr=settings.critic_lr, eps=adam_eps)
        self.generator = torch.Generator().manual_seed(seed)
        self.updates = 0  # optimiser steps so far

    def update(self, batch: Batch, auxiliary: Auxiliary | None = None, policy_weight: float = 1.0) -> dict[str, float]:
        """All epochs over a batch; returns means over the minibatches.

        Minibatches are of equal size (as near ``minibatch`` as divides the batch evenly), so that no small remainder
        is normalised by itself. ``policy_weight`` scales the surrogate and the entropy, not the auxiliary loss.

        Raises:
            TrainingError: a loss is not finite.
        """
        count = max(1, round(len(batch) / self.settings.minibatch))
        metrics: list[dict[str, Tensor]] = []
        for _ in range(self.settings.epochs):
            order = torch.randperm(len(batch), generator=self.generator).to(batch.index.device)
            metrics += [self._step(batch.select(rows), auxiliary, policy_weight) for rows in order.tensor_split(count)]
        means = {name: float(torch.stack([one[name] for one in metrics]).mean()) for name in metrics[0]}
        return means | {
            "explained_variance": explained_variance(batch.value, batch.returns),
            "value_mean": float(batch.value.mean()), "return_mean": float(batch.returns.mean()),
            "advantage_std": float(batch.advantage.std(correction=0)), "ppo_updates": float(self.updates),
        }

    def step_actor(self, parts: Iterable[Tensor]) -> float:
        """One step of the actor's optimiser on a loss of its own, the sum of ``parts``; returns the gradient's norm.

        Raises:
            TrainingError: the loss is not finite.
        """
        self.actor_optimizer.zero_grad(set_to_none=True)
        for loss in parts:
            require_finite({"actor_loss": loss}, f"the actor's own loss after PPO update {self.updates}")
            torch.autograd.backward(loss)
        norm = clip_gradients(self.actor.parameters(), self.settings.max_grad_norm)
        self.actor_optimizer.step()
        return float(norm)

    def _forward(self, batch: Batch) -> PPOLosses:
        with self.autocast():
            policy, value = self.actor(batch.state), self.critic(batch.state)
        return ppo_losses(policy, value, batch, self.settings.clip, self.settings.value_clip)

    def _step(self, batch: Batch, auxiliary: Auxiliary | None, policy_weight: float) -> dict[str, Tensor]:
        """One step of both optimisers on a minibatch."""
        batch = batch.normalised()
        part_of = auxiliary(batch) if auxiliary else None
        self.actor_optimizer.zero_grad(set_to_none=True)
        self.critic_optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        rows_of_all = torch.arange(len(batch), device=batch.index.device)
        for rows in torch.split(rows_of_all, self.micro_batch or len(batch)):
            extra = part_of(rows) if part_of else None
            for name, value in self._accumulate(batch, rows, extra, policy_weight).items():
                sums[name] = sums[name] + value if name in sums else value
        # two optimisers, two clips: a large value error must not shrink the policy's step
        sums["grad_norm_actor"] = clip_gradients(self.actor.parameters(), self.settings.max_grad_norm)
        sums["grad_norm_critic"] = clip_gradients(self.critic.parameters(), self.settings.max_grad_norm)
        self.actor_optimizer.step()
        self.critic_optimizer.step()
        self.updates += 1
        return sums

    def _accumulate(self, batch: Batch, rows: Tensor, extra: Tensor | None, policy_weight: float) -> dict[str, Tensor]:
        """Add the gradients of some rows of a minibatch; returns their share of its metrics."""
        share = len(rows) / len(batch)
        losses = self._forward(batch if share == 1 else batch.select(rows))
        actor_loss = share * (policy_weight * (losses.policy - self.settings.entropy_coef * losses.entropy))
        actor_loss = actor_loss if extra is None else actor_loss + extra
        critic_loss = share * (self.settings.value_coef * losses.value)
        require_finite({"policy_loss": losses.policy, "value_loss": losses.value, "actor_loss": actor_loss},
                       f"PPO update {self.updates}")
        torch.autograd.backward(actor_loss + critic_loss)
        own = {"policy_loss": losses.policy, "value_loss": losses.value, "entropy": losses.entropy,
               "approx_kl": losses.approx_kl, "clip_fraction": losses.clip_fraction}
        return {name: share * x.detach().float() for name, x in own.items()}

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers, the order's random state and the counter."""
        return {
            "actor": dict(self.actor.state_dict()), "critic": dict(self.critic.state_dict()),
            "actor_optimizer": optimizer_state(self.actor_optimizer),
            "critic_optimizer": optimizer_state(self.critic_optimizer),
            "generator": self.generator.get_state(), "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        load_optimizer_state(self.actor_optimizer, state["actor_optimizer"])
        load_optimizer_state(self.critic_optimizer, state["critic_optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.updates = int(state["updates"])
