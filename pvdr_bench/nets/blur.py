"""Blurring grids of features: what the goal metrics of protocol and planner have in common."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pvdr_bench.errors import CatalogError


def box_blur(features: Tensor, window: int) -> Tensor:
    """Mean over an odd ``window`` around each cell of [..., h, w, C]; cells outside do not count.

    Raises:
        CatalogError: the window is even or not positive.
    """
    if window % 2 == 0 or window < 1:
        raise CatalogError(f"a blur's window must be odd and positive, not {window}")
    if window == 1:
        return features
    planes = features.reshape(-1, *features.shape[-3:]).permute(0, 3, 1, 2)
    out = F.avg_pool2d(planes, window, stride=1, padding=window // 2, count_include_pad=False)
    return out.permute(0, 2, 3, 1).reshape(features.shape)
