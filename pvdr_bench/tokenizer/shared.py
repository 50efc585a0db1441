"""Layers that see more than their own rows: parts of one batch that several processes (or passes) share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvdr_bench.rl.process_group import ALONE, ProcessGroup


class RowDropout(nn.Dropout):
    """Dropout whose input is some rows of a larger tensor: it draws the masks of all rows and takes its own.

    Attributes:
        around: how many rows of the larger tensor come before and after the input's; (0, 0): plain dropout.
    """

    around: tuple[int, int] = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...] -> the same."""
        before, after = self.around
        if not (self.training and self.p and before + after):
            return super().forward(x)
        layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        # Random numbers are used in the order of memory, so the larger tensor is laid out like the input.
        whole = torch.empty((before + len(x) + after, *x.shape[1:]), dtype=x.dtype, device=x.device,
                            memory_format=layout)
        return x * F.dropout(whole.fill_(1), self.p)[before:before + len(x)]


class _Sum(torch.autograd.Function):
    """A tensor summed over the group, with the gradient that reaches it on every rank."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone()
        group.sum_tensors([total])
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone()
        ctx.group.sum_tensors([total])
        return total, None


def gather_rows(rows: Tensor, group: ProcessGroup) -> Tensor:
    """All ranks' rows [M, ...] one after another, [size * M, ...], on every rank; gradients find their way back.

    A loss of them that every rank computes, weighed by its share, has the gradient of one process.
    """
    if group.size == 1:
        return rows
    before, after = (rows.new_zeros((count * len(rows), *rows.shape[1:]))
                     for count in (group.rank, group.size - 1 - group.rank))
    whole: Tensor = _Sum.apply(torch.cat([before, rows, after]), group)  # type: ignore[no-untyped-call]
    return whole


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation on the statistics of all ranks; torch's SyncBatchNorm needs a GPU.

    Args:
        running: keep running statistics, which are used in evaluation; else those at hand are used always.
        momentum: of the running statistics. affine: scale and shift are learned.

    Attributes:
        group: the processes whose inputs (of one shape) are one batch. All must call it in the same order, forwards
            and backwards.
    """

    group: ProcessGroup = ALONE

    def __init__(self, channels: int, running: bool = False, momentum: float = 0.1, affine: bool = True) -> None:
        super().__init__(channels, momentum=momentum, affine=affine, track_running_stats=running)

    def _check_input_dim(self, input: Tensor) -> None:
        """Rows [N, C] are as good as pictures [N, C, h, w]."""
        if input.dim() not in (2, 4):
            raise ValueError(f"batch normalisation of [N, C] or [N, C, h, w], not of {input.dim()} dimensions")

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] or [N, C] -> the same."""
        if self.group.size == 1 or (self.track_running_stats and not self.training):
            return super().forward(x)
        self._check_input_dim(x)
        wide = x.float().reshape(*x.shape[:2], -1, 1)
        count = wide.numel() // wide.shape[1] * self.group.size
        mean = self._total(wide) / count
        centred = wide - mean
        variance = self._total(centred.square()) / count
        if self.track_running_stats:
            self._remember(mean.detach().flatten(), variance.detach().flatten() * (count / (count - 1)))
        out = centred * torch.rsqrt(variance + self.eps)
        if self.affine:
            out = out * self.weight[:, None, None] + self.bias[:, None, None]
        return out.reshape(x.shape).to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1

    def _total(self, x: Tensor) -> Tensor:
        """Sums [C, 1, 1] over all rows and positions of all ranks."""
        total: Tensor = _Sum.apply(x.sum((0, 2, 3)), self.group)  # type: ignore[no-untyped-call]
        return total[:, None, None]
