"""What a learner may know about its task before it sees it: spaces, goal, reward, budget. Imports no torch.

A fact that only some learners need is here for all of them: none asks the protocol, the suite or the environments.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pvdr_bench.suites.base import Image
from pvdr_bench.suites.spaces import BoxSpace, ImageSpace


@dataclass(frozen=True, eq=False)
class GoalFacts:
    """A frozen instance's goal, as two images uint8 [H, W, 3] of the observation's space."""

    image: Image  # the instance solved
    start: Image  # its first image


@dataclass(frozen=True)
class RewardFacts:
    """The kind of rewards to expect; their values come with the transitions."""

    success_bonus: float = 0.0  # paid once an episode, at its first success: rare and large; 0: none is paid
    ends_on_success: bool = False  # training episodes end there, as terminated
    normalised: bool = False  # distances to the goal are paid in units of the one between start and goal image


@dataclass(frozen=True, eq=False)
class TaskFacts:
    """All that is known of a task. One decision is ``action``, and what it led to is an ``observation``."""

    observation: ImageSpace
    action: BoxSpace
    num_envs: int  # that act side by side in training; evaluation may have another number
    budget_decisions: int  # of all environments together, for schedules: then AlgorithmInfo.by_budget
    goal: GoalFacts | None = None  # None in a protocol where each episode has its own goal
    reward: RewardFacts = field(default_factory=RewardFacts)
