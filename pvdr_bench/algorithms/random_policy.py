"""The random policy: a floor that every learning method has to beat. Shapes: N environments, A action dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from pvdr_bench.algorithms.floor import RandomConfig
from pvdr_bench.rl.contract import Carry, FixedPolicy, LearnerContext, Mode


class RandomLearner(FixedPolicy):
    """Draws actions from a fixed distribution and learns nothing."""

    def __init__(self, context: LearnerContext) -> None:
        self.config: RandomConfig = context.config
        self.action_dim, self.device = context.task.action.dim, context.device

    def act(self, image: Tensor, is_first: Tensor, carry: Carry, mode: Mode,
            generator: torch.Generator) -> tuple[Tensor, Carry, dict[str, Tensor]]:
        """Actions [N, A], the same distribution in both modes."""
        shape = (len(image), self.action_dim)
        if self.config.distribution == "uniform":
            action = 2 * torch.rand(shape, generator=generator) - 1
        else:
            action = self.config.std * torch.randn(shape, generator=generator)
        return action.to(self.device), carry, {}
