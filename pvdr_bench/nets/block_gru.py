"""DreamerV3's recurrent cell: a GRU with block-diagonal weights (arXiv 2301.04104; its code's ``rssm.py``, ``_core``).

Shapes: D deterministic width, Z latents (flattened), A action, H hidden units, G blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvdr_bench.nets.layers import BlockLinear, Style, gated


class BlockGRU(nn.Module):
    """Each block of the state reads itself and a summary of state, latents and action, that all blocks share."""

    def __init__(self, stoch: int, action: int, hidden: int, deter: int, blocks: int, style: Style) -> None:
        super().__init__()
        self.blocks = blocks
        self.inputs = nn.ModuleList(nn.Sequential(*style.dense(width, [hidden])) for width in (deter, stoch, action))
        self.hidden = nn.Sequential(BlockLinear(deter + blocks * 3 * hidden, deter, blocks), *style.after(deter))
        self.gates = BlockLinear(deter, 3 * deter, blocks)

    def forward(self, stoch: Tensor, action: Tensor, deter: Tensor) -> Tensor:
        """The next state [N, D] of latents [N, Z], actions [N, A] and the state [N, D]."""
        summary = torch.cat([net(x) for net, x in zip(self.inputs, (deter, stoch, action), strict=True)], -1)
        shared = summary[:, None].expand(-1, self.blocks, -1)  # [N, G, 3 H]
        own = deter.to(summary.dtype).view(len(deter), self.blocks, -1)  # [N, G, D / G]
        out = self.gates(self.hidden(torch.cat([own, shared], -1).flatten(1))).float()
        reset, candidate, update = (x.flatten(1) for x in out.view(len(out), self.blocks, -1).chunk(3, -1))
        return gated(reset, candidate, update, deter)
