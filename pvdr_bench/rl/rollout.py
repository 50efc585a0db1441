"""Rollouts of an on-policy learner: decisions as they were made, and the advantages of them.

A state is a dict of tensors, whatever actor and critic read: PPO's is the token context, PVDR's is (x_t, z*_t). It may
hold more, for what is computed once a rollout is whole.

**A reward of one's own** (PVDR's Eq. 6, or one that a frozen model gives to whole stretches of an episode) goes between
roll-out and update: put the frames or codes that it needs into the state, and the frame after a decision where an
episode ended (it is nobody's state otherwise); compute a reward [T, N] from :meth:`RolloutBuffer.rollout`, in which
``terminated | truncated`` ends the stretches; give it to :meth:`Rollout.batch`. Values and bootstraps stay as they are.
PPO takes such a reward as a part of its own: :mod:`pvdr_bench.rl.rollout_reward`.

What only the simulator knows is a part of its own, :attr:`Rollout.diagnostics`: no network reads it, no batch has it.

Shapes: T decisions in time, N environments, B = a minibatch of the T * N decisions, A action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pvdr_bench.rl.truth import Diagnostics

State = dict[str, Tensor]
_STATE = "state."  # prefix of the state's tensors among those of a stored decision
_DIAGNOSTICS = "diagnostics"  # of a checkpoint
ADVANTAGE_EPS = 1e-8


def gae(reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, truncated: Tensor,
        gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates [T, N]; all arguments are [T, N].

    ``next_value`` is the value of the true observation after each step, also where an episode was truncated: the time
    limit is no part of the task, so only *termination* zeroes the tail (otherwise running out the clock would look
    good under per-step penalties). The recursion stops at either, so nothing leaks into the next episode.
    """
    delta = reward + gamma * next_value * (~terminated) - value
    carry = gamma * lam * (~(terminated | truncated)).to(delta.dtype)
    advantage = torch.zeros_like(delta)
    running = torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        running = delta[t] + carry[t] * running
        advantage[t] = running
    return advantage


def needs_bootstrap(terminated: Tensor, truncated: Tensor, last: bool) -> Tensor:
    """Environments [N] whose true next observation has to be valued now: cut by time, or by the rollout's end."""
    return ~terminated if last else truncated & ~terminated


@dataclass
class Batch:
    """Decisions ready for updates, each tensor [B, ...]."""

    state: State
    action: Tensor  # [B, A], unclipped samples
    log_prob: Tensor  # [B], under the policy that acted
    value: Tensor  # [B], of the critic at that time
    advantage: Tensor  # [B]
    returns: Tensor  # [B], advantage + value
    index: Tensor  # int64 [B], position t * N + n in the rollout, to look up what an auxiliary loss needs

    def __len__(self) -> int:
        return len(self.action)

    def normalised(self) -> Batch:
        """The same decisions with advantages of mean 0 and variance 1."""
        advantage = (self.advantage - self.advantage.mean()) / (self.advantage.std(correction=0) + ADVANTAGE_EPS)
        return replace(self, advantage=advantage)

    def select(self, rows: Tensor) -> Batch:
        """The decisions at ``rows`` int64 [b]."""
        return Batch({name: x[rows] for name, x in self.state.items()}, self.action[rows], self.log_prob[rows],
                     self.value[rows], self.advantage[rows], self.returns[rows], self.index[rows])


@dataclass
class Rollout:
    """Consecutive decisions of N environments, each tensor [T, N, ...]."""

    state: State
    action: Tensor
    log_prob: Tensor
    value: Tensor
    reward: Tensor
    terminated: Tensor  # bool
    truncated: Tensor  # bool
    bootstrap: Tensor  # value of the true next observation where :func:`needs_bootstrap`, else 0
    diagnostics: Diagnostics = field(default_factory=Diagnostics)  # arrays [T, N]

    def next_value(self) -> Tensor:
        """Value of the true next observation [T, N]; 0 after a termination."""
        ended = self.terminated | self.truncated
        following = torch.cat([self.value[1:], self.bootstrap[-1:]])
        return torch.where(ended, self.bootstrap, following)

    def batch(self, gamma: float, lam: float, reward: Tensor | None = None) -> Batch:
        """Flatten to T * N decisions with advantages, for the stored reward or another one [T, N] (PVDR's Eq. 6)."""
        reward = self.reward if reward is None else reward
        advantage = gae(reward, self.value, self.next_value(), self.terminated, self.truncated, gamma, lam)
        count = advantage.numel()
        return Batch({name: x.flatten(0, 1) for name, x in self.state.items()}, self.action.flatten(0, 1),
                     self.log_prob.flatten(), self.value.flatten(), advantage.flatten(),
                     (advantage + self.value).flatten(), torch.arange(count, device=advantage.device))


class RolloutBuffer:
    """Collects decisions until an update is due; a partial rollout is part of a checkpoint."""

    def __init__(self) -> None:
        self._steps: list[dict[str, Tensor]] = []
        self._diagnostics: list[Diagnostics] = []

    def __len__(self) -> int:
        """Decisions in time, T."""
        return len(self._steps)

    def add(self, state: State, *, action: Tensor, log_prob: Tensor, value: Tensor, reward: Tensor,
            terminated: Tensor, truncated: Tensor, bootstrap: Tensor, diagnostics: Diagnostics | None = None) -> None:
        """Store one decision of all environments, each tensor [N, ...]; ``diagnostics`` stay beside them."""
        step = {"action": action, "log_prob": log_prob, "value": value, "reward": reward, "terminated": terminated,
                "truncated": truncated, "bootstrap": bootstrap}
        self._steps.append(step | {_STATE + name: x for name, x in state.items()})
        self._diagnostics.append(Diagnostics() if diagnostics is None else diagnostics)

    def rollout(self) -> Rollout:
        """All stored decisions, stacked in time."""
        stacked = self._stacked()
        state = {name[len(_STATE):]: stacked.pop(name) for name in list(stacked) if name.startswith(_STATE)}
        return Rollout(state=state, **stacked, diagnostics=Diagnostics.stack(self._diagnostics))

    def clear(self) -> None:
        """Forget all decisions."""
        self._steps, self._diagnostics = [], []

    def _stacked(self) -> dict[str, Tensor]:
        return {name: torch.stack([step[name] for step in self._steps]) for name in self._steps[0]}

    def state_dict(self) -> dict[str, Any]:
        """Tensors [T, N, ...] and, apart from them, the diagnostics; empty if nothing is stored."""
        if not self._steps:
            return {}
        return {**self._stacked(), _DIAGNOSTICS: Diagnostics.stack(self._diagnostics).state_dict()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | None = None) -> None:
        """Restore what :meth:`state_dict` gave."""
        moved = {name: x.to(device) for name, x in state.items() if name != _DIAGNOSTICS}
        truth = state.get(_DIAGNOSTICS, {})  # checkpoints from before there were any stay readable
        count = len(next(iter(moved.values()))) if moved else 0
        self._steps = [{name: x[t].clone() for name, x in moved.items()} for t in range(count)]
        self._diagnostics = [Diagnostics({name: x[t] for name, x in truth.items()}) for t in range(count)]
