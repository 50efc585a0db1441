"""Symexp two-hot regression (DreamerV3, arXiv 2301.04104, section "Robust predictions").

A scalar is a distribution over fixed bins, exponentially spaced around zero; its mean may be anything between them.
One head then fits rewards of -0.01 and of 60 at once, where a squared error sees the 60 alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pvdr_bench.nets.conv import MLP
from pvdr_bench.nets.layers import V2_STYLE, Style


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): the identity near zero, logarithmic far from it (DreamerV3, Eq. 9)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse of :func:`symlog`: sign(x) (exp|x| - 1)."""
    return x.sign() * x.abs().expm1()


def two_hot_bins(count: int = 255, limit: float = 7.0) -> Tensor:
    """Bin centres [count], symexp of an even grid on [-limit, limit]: sign(x) (exp|x| - 1); symmetric about zero.

    The default reaches to +-1096, enough for the rewards here. DreamerV3's limit of 20 reaches to 5e8: there a tail
    probability of 1e-9, which no loss sees, moves the mean by one half.
    """
    half = symexp(torch.linspace(-limit, 0.0, count // 2 + 1, dtype=torch.float64))
    return torch.cat([half, -half[:-1].flip(0)]).float()


def two_hot(values: Tensor, bins: Tensor) -> Tensor:
    """Weights [..., K] on the two neighbouring bins of values [...], whose mean is the value."""
    values = values.clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, values.contiguous()).clamp(1, len(bins) - 1)
    low, high = bins[above - 1], bins[above]
    share = (values - low) / (high - low)
    out = torch.zeros(*values.shape, len(bins), device=values.device)
    out.scatter_(-1, (above - 1)[..., None], (1 - share)[..., None])
    return out.scatter_(-1, above[..., None], share[..., None])


def two_hot_loss(logits: Tensor, values: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy [...] in nats of logits [..., K] against values [...]."""
    return -(two_hot(values, bins) * logits.float().log_softmax(-1)).sum(-1)


def two_hot_mean(logits: Tensor, bins: Tensor) -> Tensor:
    """Means [...] of logits [..., K]. Opposite bins are added first, so that a flat distribution gives exactly zero."""
    weighted = logits.float().softmax(-1) * bins
    half = len(bins) // 2
    return (weighted[..., :half] + weighted[..., half + 1:].flip(-1)).sum(-1) + weighted[..., half]


class ScalarHead(MLP):
    """A dense head that predicts a scalar: regressed by squares, or as a distribution over bins.

    Args:
        two_hot: the form; such a head says zero until it learns. limit: of the bins, see :func:`two_hot_bins`.
    """

    bins: Tensor

    def __init__(self, inputs: int, layers: int, units: int, two_hot: bool, limit: float = 7.0,
                 style: Style = V2_STYLE) -> None:
        bins = two_hot_bins(limit=limit)
        super().__init__(inputs, len(bins) if two_hot else 1, layers, units, 0.0 if two_hot else 1.0, style)
        self.two_hot = two_hot
        self.register_buffer("bins", bins, persistent=False)

    def mean(self, out: Tensor) -> Tensor:
        """Predictions [...] of outputs [..., K]."""
        return two_hot_mean(out, self.bins) if self.two_hot else out[..., 0].float()

    def loss(self, out: Tensor, values: Tensor) -> Tensor:
        """Negative log-likelihood [...] of values [...] (of a normal of variance 1, or in nats)."""
        if self.two_hot:
            return two_hot_loss(out, values, self.bins)
        return 0.5 * (self.mean(out) - values).square()
