"""Blurring grids of features: what the goal metrics of protocol and planner have in common."""

from __future__ import annotations

import torch
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


def of_metric(features: Tensor, metric: str, window: int) -> Tensor:
    """What a goal metric compares of features [..., h, w, C]: by its name's end their ``pyramid``, their ``blur``, or
    themselves."""
    if metric.endswith("pyramid"):
        return pyramid(features, window)
    return box_blur(features, window) if metric.endswith("blur") else features


def pyramid(features: Tensor, window: int) -> Tensor:
    """Boxes of 1, 3, ... up to an odd ``window`` side by side: [..., h, w, C] -> [..., h, w, C * (window + 1) / 2].

    The sum of absolute differences of a thing that stands elsewhere grows with the way until it is a window's size, and
    is the same in all windows from there on: so small ones tell short ways, and large ones long ways.

    Raises:
        CatalogError: the window is even or not positive.
    """
    largest = box_blur(features, window)
    return torch.cat([*(box_blur(features, size) for size in range(1, window, 2)), largest], -1)
