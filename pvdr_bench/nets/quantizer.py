"""Vector quantisation (VQ-VAE, arXiv 1711.00937) with gradient or moving-average codes.

Shapes: M vectors, K codes, q their dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Quantised:
    """What a quantiser gives for z [..., q]."""

    z: Tensor  # [..., q], the codes' vectors; the gradient passes straight through to the encoder
    codes: Tensor  # int64 [...]
    commitment: Tensor  # scalar, mean (z - sg[e])^2: its gradient reaches the encoder only
    codebook: Tensor  # scalar, mean (sg[z] - e)^2: its gradient reaches the codes only (0 without gradient with ema)


def nearest(z: Tensor, codes: Tensor) -> Tensor:
    """Index int64 [M] of the code [K, q] nearest to each z [M, q] in Euclidean distance.

    |z|^2 is the same for all codes and left out.
    """
    return torch.addmm(codes.square().sum(1), z, codes.t(), alpha=-2.0).argmin(1)


class VectorQuantizer(nn.Module):
    """Nearest code with a straight-through gradient.

    The commitment weight belongs to the term of the encoder; taming's default (``legacy=True``) put it on the other.

    Args:
        size: K. dim: q. ema: codes are moving averages (buffers), not parameters.
    """

    ema_count: Tensor
    ema_sum: Tensor

    def __init__(self, size: int, dim: int, ema: bool) -> None:
        super().__init__()
        self.size, self.dim, self.ema = size, dim, ema
        table = torch.empty(size, dim).uniform_(-1 / size, 1 / size)
        if ema:
            self.register_buffer("table", table)
            self.register_buffer("ema_count", torch.ones(size))
            self.register_buffer("ema_sum", table.clone())
        else:
            self.table = nn.Parameter(table)

    def forward(self, z: Tensor) -> Quantised:
        """Quantise z [..., q] in float32."""
        z = z.float()
        codes = nearest(z.detach().reshape(-1, self.dim), self.table.detach()).view(z.shape[:-1])
        chosen = F.embedding(codes, self.table)
        commitment = F.mse_loss(z, chosen.detach())
        codebook = F.mse_loss(chosen, z.detach()) if not self.ema else commitment.detach()
        return Quantised(z + (chosen - z).detach(), codes, commitment, codebook)

    def statistics(self, z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Per code the number [K] and the sum [K, q] of the vectors z [..., q] that it encodes."""
        hot = F.one_hot(codes.reshape(-1), self.size).to(torch.float32)
        return hot.sum(0), hot.t() @ z.detach().float().reshape(-1, self.dim)

    @torch.no_grad()
    def set_codes(self, index: Tensor, vectors: Tensor) -> None:
        """Put vectors [n, q] in place of the codes ``index`` int64 [n], with the average usage of a live code."""
        self.table[index] = vectors
        if self.ema:
            usage = self.ema_count.mean()
            self.ema_count[index] = usage
            self.ema_sum[index] = vectors * usage

    @torch.no_grad()
    def ema_update(self, count: Tensor, total: Tensor, decay: float) -> None:
        """Move the averages towards a batch's :meth:`statistics`, and the codes to the averages.

        A code that the average has nearly forgotten (less than 1e-3 vectors) stays where it is.
        """
        self.ema_count.mul_(decay).add_(count, alpha=1 - decay)
        self.ema_sum.mul_(decay).add_(total, alpha=1 - decay)
        alive = self.ema_count > 1e-3
        self.table[alive] = self.ema_sum[alive] / self.ema_count[alive, None]

    def dead(self, below: float) -> Tensor:
        """Index int64 [n] of the codes whose average usage is below ``below / K`` of all positions."""
        return (self.ema_count < below * self.ema_count.mean()).nonzero().flatten()


def perplexity(count: Tensor) -> Tensor:
    """exp of the entropy of the codes' usage [K]: the number of codes that are really used."""
    share = count / count.sum().clamp_min(1)
    return torch.exp(torch.special.entr(share).sum())
