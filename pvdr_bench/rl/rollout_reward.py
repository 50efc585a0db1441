"""A reward that is computed between roll-out and update: of a frozen model, for whole stretches of an episode.

Shapes: T decisions in time, N environments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from pvdr_bench.rl.rollout import Rollout, State
from pvdr_bench.rl.transition import Transition


class RolloutReward(ABC):
    """What an on-policy learner asks for the rewards of a roll-out, in place of the task's alone.

    Its memory of every decision stands in the roll-out's state, so that a checkpoint has it.
    """

    @abstractmethod
    def remember(self, transition: Transition, last: bool) -> State:
        """What :meth:`label` needs of a decision, each tensor [N, ...], by names that no network reads.

        Args:
            last: it is the roll-out's last, so that the true next observation is nobody's state.
        """

    @abstractmethod
    def label(self, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        """The rewards [T, N] that the learner learns from, the task's (``rollout.reward``) included, and metrics."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What it remembers beside the roll-out."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""


def next_steps(values: Tensor, final: Tensor, ended: Tensor) -> Tensor:
    """What each decision led to [T, N, ...].

    Args:
        values: [T, N, ...], of the observation that was acted on. final: the same of the true next observation; read
            only where an episode ``ended`` (bool [T, N]) and at T - 1, and may be anything elsewhere.
    """
    own = ended.clone()
    own[-1] = True
    following = torch.cat([values[1:], final[-1:]])
    return torch.where(own.view(*own.shape, *[1] * (values.ndim - 2)), final, following)


def segments(ended: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Cut the decisions of a roll-out into stretches of one episode each, of at most ``length`` decisions.

    Args:
        ended: bool [T, N], the decision was its episode's last.

    Returns:
        segment, position: int64 [T, N], the number of each decision's stretch, from 0, and its place in it. Every
        decision has one, also one that stands alone between two cuts.
    """
    position = torch.zeros(ended.shape, dtype=torch.long, device=ended.device)
    for t in range(1, len(ended)):
        following = position[t - 1] + 1
        position[t] = torch.where(ended[t - 1] | (following == length), 0, following)
    first = position == 0
    segment = first.T.flatten().cumsum(0).view(ended.shape[1], ended.shape[0]).T - 1
    return segment, position
