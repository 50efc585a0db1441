"""Action distributions. Shapes: [..., A] with A action dimensions; the last one is summed over."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent Gaussians with a log standard deviation that does not depend on the state.

    Attributes:
        mean: [..., A].
        log_std: [A], broadcast over the batch.
    """

    mean: Tensor
    log_std: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw [..., A] without gradient; ``generator`` lives on the CPU, so every device draws the same numbers."""
        return self.at(torch.randn(self.mean.shape, generator=generator).to(self.mean.device))

    def at(self, noise: Tensor) -> Tensor:
        """The action [..., A] of a standard normal ``noise`` [..., A], without gradient."""
        return (self.mean + self.log_std.exp() * noise).detach()

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density [...] of actions [..., A], in nats. The unclipped sample is meant, not what the simulator saw."""
        scaled = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * scaled**2 - self.log_std - 0.5 * _LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy [...], in nats."""
        per_dimension = self.log_std + 0.5 * (1 + _LOG_2PI)
        return per_dimension.expand(self.mean.shape).sum(-1)
