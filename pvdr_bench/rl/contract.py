"""The contract between algorithms and the two loops that drive them.

Shapes: N environments, H = W image size, A action dimensions, B batch, T frames of a clip.
An algorithm has no loop of its own. ``training/online.py`` drives a :class:`Learner`,
``training/offline.py`` drives an :class:`OfflineLearner` for the stages before.

**What comes back to learning.** ``act`` returns, beside the action, extras: whatever learning wants of the moment of
acting. Rollouts keep them as they like; replay keeps those for which the learner declared a column, once, in its
constructor: ``context.replay.declare(columns, capacity=..., priorities=...)``. A search that draws a set of actions at
every decision returns the one it chose, and in the extras the set [N, K, A] and its visit counts [N, K].

**Replay.** The loop puts a decision in before it calls ``observe``. ``sample`` is all that a plain learner needs.
``draw`` gives positions (uniform or by priority; across episodes, inside one, or padded at its end), ``read`` the
entries around them, and ``write`` replaces a rewritable column there: targets that were searched again, latent states
of a newer model, priorities. A killed run continues as if none had been written since its checkpoint.

**A reward of one's own**, of a frozen model or of plans, is computed between roll-out and update: ``rl/rollout.py``,
``rl/rollout_reward.py``.

**Truth.** What only the simulator knows comes as :class:`~pvdr_bench.rl.truth.Diagnostics`, for metrics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor

from pvdr_bench.rl.facts import TaskFacts
from pvdr_bench.rl.process_group import ALONE, ProcessGroup
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.rl.stopwatch import Stopwatch
from pvdr_bench.rl.transition import Transition

__all__ = ["Carry", "FixedPolicy", "Learner", "LearnerContext", "Mode", "OfflineLearner", "StageContext", "TaskFacts",
           "Transition"]

Mode = Literal["train", "eval"]
Carry = dict[str, Any]  # what an algorithm remembers between decisions: nested dicts of tensors [N, ...]


@dataclass(frozen=True)
class LearnerContext:
    """All a learner may know about its task and machine."""

    config: Any  # the algorithm's own AlgorithmConfig, resolved and frozen; only the algorithm knows its class
    task: TaskFacts
    seed: int
    device: torch.device
    artefacts: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # stage -> weights, e.g. "tokenize"
    artefact_config: dict[str, Any] = field(default_factory=dict)  # stage -> the config that made the weights
    replay: EpisodeReplay | None = None  # filled by the loop; None for on-policy algorithms, and to act alone
    stopwatch: Stopwatch = field(default_factory=Stopwatch)  # of the loop: ``with stopwatch("plan")`` names a part


class Learner(ABC):
    """An algorithm in its online stage."""

    @abstractmethod
    def initial(self, n: int) -> Carry:
        """A fresh carry for ``n`` environments. Training and evaluation never share one."""

    @abstractmethod
    def act(self, image: Tensor, is_first: Tensor, carry: Carry, mode: Mode,
            generator: torch.Generator) -> tuple[Tensor, Carry, dict[str, Tensor]]:
        """Choose actions [N, A] for images uint8 [N, H, W, 3]; returns (action, carry, extras), extras each [N, ...].

        All randomness comes from ``generator`` (a CPU generator), so evaluation never disturbs training.
        Both modes sample; a learner that offers a mean policy has a config key for it.
        """

    @abstractmethod
    def observe(self, transition: Transition) -> None:
        """Take one decision of all environments; it may only store."""

    @abstractmethod
    def learn(self) -> dict[str, float]:
        """Do whatever updates are due now and return their metrics ({} if nothing was due).

        Raises:
            TrainingError: a loss is not finite.
        """

    def updates_due(self, decisions: int) -> int | None:
        """Updates that are due after so many decisions, of a learner that makes them one by one, each in the part
        ``update`` of its stopwatch; None: it learns in rounds, or nothing."""
        return None

    def share_learned(self, begin: int, decisions: int, budget: int) -> float | None:
        """The share of the updates between decisions ``begin`` and ``budget`` that is made after ``decisions``.

        It may be far from the share of decisions: none are due at first, and then hundreds at once. None: none are due
        in between, or see :meth:`updates_due`.
        """
        first, made, whole = (self.updates_due(count) if count else 0 for count in (begin, decisions, budget))
        if first is None or made is None or whole is None or whole <= first:
            return None
        return min(1.0, (made - first) / (whole - first))

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers, counters, partial rollouts, random states: nested dicts, tensors, numbers, strings."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly what :meth:`state_dict` gave."""

    def policy_state(self) -> dict[str, Any]:
        """What acting needs of :meth:`state_dict`, for a copy that is only played; all of it unless it says less."""
        return self.state_dict()

    def load_policy_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`policy_state` gave: it can act, and not go on learning."""
        self.load_state_dict(state)


class FixedPolicy(Learner):
    """A policy that never changes: it remembers, stores and learns nothing. Subclasses only act."""

    def initial(self, n: int) -> Carry:
        """Nothing to remember."""
        return {}

    def observe(self, transition: Transition) -> None:
        """Experience is of no use to it."""

    def learn(self) -> dict[str, float]:
        """Never due."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Its random numbers are the loop's; there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """No state to restore."""


@dataclass(frozen=True)
class StageContext:
    """All that the learner of an offline stage may know.

    Attributes:
        config: the algorithm's resolved, frozen config.
        inputs: by the name of each stage that the stage needs, what that stage's ``load`` made (see
            :class:`~pvdr_bench.algorithms.registry.Stage`), such as the frozen tokenizer.
    """

    config: Any
    seed: int
    device: torch.device
    image_size: int
    inputs: dict[str, Any] = field(default_factory=dict)


class OfflineLearner(ABC):
    """A stage before the online one: ``tokenize`` or ``pretrain``. The loop owns steps, logs, checkpoints.

    Attributes:
        group: the processes that train it together, set by the loop. Weights, optimisers and random states are the
            same on all of them, so a checkpoint knows nothing of their number.
    """

    group: ProcessGroup = ALONE

    @classmethod
    @abstractmethod
    def for_stage(cls, context: StageContext) -> Self:
        """The learner of a stage, with the random weights of ``context.seed``."""

    @abstractmethod
    def update(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        """One optimiser step on a batch (uint8 frames [B, T, H, W, 3] or int64 tokens [B, T, h, w]).

        ``start`` int64 [B]: the number of each clip's first frame within its episode; None: all begin one.

        With several processes ``batch`` is this rank's part, and the step is that of all parts together: noise is
        drawn for the whole batch, gradients and statistics are summed over ``group``, and so are the metrics.
        """

    @abstractmethod
    def validate(self, batch: Tensor, start: Tensor | None = None) -> dict[str, float]:
        """Metrics on a held-out batch; no state changes, its randomness is fixed. Only rank 0 does it."""

    @abstractmethod
    def export(self) -> dict[str, Tensor]:
        """The weights that become the artefact."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue exactly."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly what :meth:`state_dict` gave."""
