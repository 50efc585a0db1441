"""Batches from replay, and what they are trained towards.

Shapes: B positions, U unrolled steps, T rewards of a value target, S frames of a stack, K boxes, A action dimensions.
Entry j of a stretch is the observation j decisions after the position. The reward of entry j is received on arriving
at it, and a stretch ends with its episode: what lies behind is masked and enters no loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Batch:
    """What an update is made of, on the learner's device."""

    observation: Tensor  # [B, U + 1, S * c, h, w]
    action: Tensor  # [B, U, A]
    policy: Tensor  # [B, U + 1, K], shares of visits; zeros where there never was a search. Read where decided
    value: Tensor  # [B, U + 1]
    prefix: Tensor  # [B, U], sums of the rewards of entries 1 .. k + 1
    inside: Tensor  # bool [B, U + 1], entries of the episode
    decided: Tensor  # bool [B, U + 1], entries at which a decision was made
    weight: Tensor  # [B], of importance

    def entropy(self) -> Tensor:
        """Mean entropy of the policies that were searched, in nats; 0 where there is none."""
        searched = self.decided & (self.policy.sum(-1) > 0)  # behind the newest entry stands its policy again
        total: Tensor = torch.special.entr(self.policy)[searched].sum() / searched.sum().clamp_min(1)
        return total


def bootstrap_entries(last: Tensor, steps: Tensor, unroll: int) -> Tensor:
    """Entries int64 [B, U + 1] whose values end the targets of entries 0 .. U.

    Args:
        last: int64 [B], an episode's last entry in each stretch. steps: int64 [B], rewards of a target.
    """
    return torch.minimum(torch.arange(unroll + 1) + steps[:, None], last[:, None])


def value_targets(reward: Tensor, value: Tensor, last: Tensor, terminal: Tensor, bootstrap: Tensor, gamma: float,
                  ) -> Tensor:
    """``sum_i gamma^i r_{k + i + 1} + gamma^n V(k + n)`` [B, U + 1], n rewards up to the bootstrap entry.

    An episode that was cut off is worth what its last observation is; one that ended there, and what lies behind it,
    nothing.

    Args:
        reward: [B, L], of arriving at each entry. value: [B, U + 1], of the bootstrap entries. bootstrap: int64
        [B, U + 1]. last: int64 [B]. terminal: bool [B], the last entry ended the episode.
    """
    count, entries = bootstrap.shape[1], torch.arange(reward.shape[1])
    start = torch.arange(count)[:, None]
    counted = (entries > start) & (entries <= bootstrap[..., None])  # [B, U + 1, L]
    discounted = counted * gamma ** (entries - start - 1).clamp_min(0).to(reward.dtype)
    ended = terminal[:, None] & (bootstrap == last[:, None])
    left = (bootstrap - start[:, 0]).clamp_min(0).to(reward.dtype)
    target: Tensor = (discounted * reward[:, None]).sum(-1) + gamma**left * value * ~ended
    return target * (start[:, 0] <= last[:, None])


def value_prefixes(reward: Tensor, inside: Tensor, unroll: int) -> Tensor:
    """Sums [B, U] of the rewards of entries 1 .. k + 1, those outside left out."""
    return (reward * inside)[:, 1:unroll + 1].cumsum(1)


def target_steps(age: Tensor, most: int, stale: float) -> Tensor:
    """Rewards int64 [B] in value targets of entries that are ``age`` [B] decisions old: one less for every ``stale``.

    Source: EfficientZero's model-based off-policy correction, as its code has it.
    """
    return (most - torch.div(age, stale, rounding_mode="floor")).clamp(1, most).long()
