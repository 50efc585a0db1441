"""The last token grids of every environment: the context that policies on tokens act on."""

from __future__ import annotations

import torch
from torch import Tensor


def token_dtype(codebook_size: int) -> torch.dtype:
    """The smallest integer type that holds every code; rollouts keep tokens in it, never pixels."""
    if codebook_size <= 2**8:
        return torch.uint8
    return torch.int16 if codebook_size <= 2**15 else torch.int32


def push_frame(history: Tensor, codes: Tensor, is_first: Tensor) -> Tensor:
    """Append codes [N, h, w] to the last m grids [N, m, h, w]; an episode's first frame fills all m (reading 30)."""
    shifted = torch.cat([history[:, 1:], codes[:, None]], 1)
    return torch.where(is_first[:, None, None, None], codes[:, None].expand_as(shifted), shifted)
