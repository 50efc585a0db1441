"""A continuous action as one of a discrete set: the action box in halves, one action drawn in each at every search.

Shapes: A action dimensions, D halved dimensions, K = 2^D boxes, N decisions. PVDR (arXiv 2411.03169, appendix A.1):
"we evenly divide the continuous action space into 16 subspaces and uniformly sample one action in each space for each
round of search", for actions of four dimensions: each of them is halved.

For other numbers of dimensions: the first D = min(A, ``halved``) are halved, the others are drawn from their whole
range. Fewer dimensions than ``halved`` give fewer boxes; with more of them the number of boxes stays one that a search
can visit.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ActionBoxes:
    """Boxes of the actions [-1, 1]^A. Bit d of a box's number is 1 where dimension d is in its upper half.

    Args:
        halved: at most so many dimensions are.
    """

    def __init__(self, action_dim: int, halved: int) -> None:
        self.action_dim, self.halved = action_dim, min(action_dim, halved)
        self.count = 2**self.halved
        bits = torch.arange(self.count)[:, None] >> torch.arange(self.halved)
        self.lower = torch.full((self.count, action_dim), -1.0)  # corners [K, A]
        self.lower[:, :self.halved] = (bits & 1).float() - 1
        self.width = torch.full((action_dim,), 2.0)
        self.width[:self.halved] = 1.0

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Actions float32 [N, K, A], uniform in their boxes; ``generator`` lives on the CPU."""
        uniform = torch.rand(count, self.count, self.action_dim, generator=generator)
        return self.lower + self.width * uniform

    def of(self, action: Tensor) -> Tensor:
        """Boxes int64 [...] that actions [..., A] lie in; zero belongs to the upper half."""
        upper = (action[..., :self.halved] >= 0).long()
        return (upper << torch.arange(self.halved, device=action.device)).sum(-1)
