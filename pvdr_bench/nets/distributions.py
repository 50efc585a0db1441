"""Action distributions. Shapes: [..., A] with A action dimensions; the last one is summed over."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)
_EDGE = 1e-6  # samples stay this far inside the bounds, as in DreamerV2's TruncNormalDist


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent Gaussians with a log standard deviation that does not depend on the state.

    Attributes:
        mean: [..., A].
        log_std: [A], broadcast over the batch.
    """

    mean: Tensor
    log_std: Tensor

    def sample(self, generator: torch.Generator, std: float | None = None) -> Tensor:
        """Draw [..., A] without gradient; ``generator`` lives on the CPU, so every device draws the same numbers."""
        return self.at(torch.randn(self.mean.shape, generator=generator).to(self.mean.device), std)

    def at(self, noise: Tensor, std: float | None = None) -> Tensor:
        """The action [..., A] of standard normal ``noise`` [..., A], without gradient; ``std`` in place of its own."""
        return (self.mean + (self.log_std.exp() if std is None else std) * noise).detach()

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density [...] of actions [..., A], in nats. The unclipped sample is meant, not what the simulator saw."""
        scaled = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * scaled**2 - self.log_std - 0.5 * _LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy [...], in nats."""
        per_dimension = self.log_std + 0.5 * (1 + _LOG_2PI)
        return per_dimension.expand(self.mean.shape).sum(-1)


@dataclass(frozen=True)
class TruncatedNormal:
    """Independent Gaussians cut off at -1 and 1 and renormalised; samples carry gradients (inverse CDF).

    Source: DreamerV2's actor (arXiv 2010.02193, its code's ``trunc_normal`` with TruncNormalDist).

    Attributes:
        mean: [..., A], of the Gaussian before it is cut, in [-1, 1].
        std: [..., A], of the same, positive.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def from_raw(cls, mean: Tensor, std: Tensor, min_std: float = 0.1) -> TruncatedNormal:
        """From two network outputs [..., A]: mean tanh(m), standard deviation 2 sigmoid(s / 2) + min_std."""
        return cls(torch.tanh(mean), 2 * torch.sigmoid(std / 2) + min_std)

    def _bounds(self) -> tuple[Tensor, Tensor]:
        return (-1 - self.mean) / self.std, (1 - self.mean) / self.std

    def _mass(self) -> tuple[Tensor, Tensor]:
        """The CDF at the lower bound, and the probability between the bounds."""
        low, high = (torch.special.ndtr(bound) for bound in self._bounds())
        return low, high - low

    def sample(self, uniform: Tensor) -> Tensor:
        """The sample [..., A] that standard uniform numbers [..., A] in [0, 1) stand for, with gradient."""
        low, mass = self._mass()
        probability = (low + uniform * mass).clamp(1e-7, 1 - 1e-7)
        inside: Tensor = self.mean + self.std * torch.special.ndtri(probability)
        # Clipped in value, not in gradient: an edge must not switch off learning.
        return inside + (inside.clamp(-1 + _EDGE, 1 - _EDGE) - inside).detach()

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density [...] of actions [..., A] in (-1, 1), in nats."""
        scaled = (action - self.mean) / self.std
        _, mass = self._mass()
        return (-0.5 * scaled**2 - 0.5 * _LOG_2PI - self.std.log() - mass.log()).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy [...], in nats."""
        low, high = self._bounds()
        _, mass = self._mass()
        density = [torch.exp(-0.5 * (bound**2 + _LOG_2PI)) for bound in (low, high)]
        edges = (low * density[0] - high * density[1]) / (2 * mass)
        return (0.5 * (1 + _LOG_2PI) + self.std.log() + mass.log() + edges).sum(-1)


@dataclass(frozen=True)
class BoundedNormal:
    """Independent Gaussians with bounded mean and standard deviation; samples carry no gradient and may lie outside.

    Source: DreamerV3's actor for continuous actions (its code's ``bounded_normal``). What is executed is the sample cut
    to [-1, 1]; the density is that of the sample itself.

    Attributes:
        mean: [..., A], in (-1, 1).
        std: [..., A].
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def from_raw(cls, mean: Tensor, std: Tensor, min_std: float = 0.1, max_std: float = 1.0) -> BoundedNormal:
        """From two network outputs [..., A]: tanh(m), and s between the bounds by sigmoid(s + 2)."""
        return cls(torch.tanh(mean), (max_std - min_std) * torch.sigmoid(std + 2) + min_std)

    def sample(self, uniform: Tensor) -> Tensor:
        """The sample [..., A] that standard uniform numbers [..., A] in [0, 1) stand for, without gradient."""
        drawn: Tensor = self.mean + self.std * torch.special.ndtri(uniform.clamp(1e-7, 1 - 1e-7))
        return drawn.detach()

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density [...] of actions [..., A], in nats."""
        scaled = (action - self.mean) / self.std
        return (-0.5 * scaled**2 - self.std.log() - 0.5 * _LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy [...], in nats."""
        return (self.std.log() + 0.5 * (1 + _LOG_2PI)).sum(-1)
