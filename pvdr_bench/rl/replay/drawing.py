"""Which entries of replay are drawn: positions, and how they are chosen.

Shapes: B positions drawn, n positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pvdr_bench.rl.replay.stream import Ints, Stream

Window = Literal["any", "inside", "padded"]
"""Which stretches of ``length`` entries may be drawn: any, also across episodes; those inside one episode; or all that
begin with a decision, to be read with padding after the episode's last entry."""


@dataclass(frozen=True, eq=False)
class Positions:
    """Entries of replay, to read them, or to write columns of them anew. Two int64 tensors of one shape, on the CPU."""

    stream: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.stream)

    def ahead(self, length: int) -> Positions:
        """Each with those that follow it: [..., length]."""
        shape = (*self.stream.shape, length)
        return Positions(self.stream[..., None].expand(shape), self.index[..., None] + torch.arange(length))

    def select(self, rows: Tensor) -> Positions:
        """Those at ``rows`` (indices, or a mask)."""
        return Positions(self.stream[rows], self.index[rows])


@dataclass(frozen=True, eq=False)
class Draw:
    """Positions that were drawn, with repetition."""

    positions: Positions
    probability: Tensor  # float64 [B], of each among all that might have been drawn
    count: int  # of those

    def weights(self, beta: float) -> Tensor:
        """Importance weights float32 [B]: ``(count * probability) ** -beta``, the largest of the draw is 1."""
        weights = (self.count * self.probability) ** -beta
        return (weights / weights.max()).float()


def ranges(stream: Stream, low: int, length: int, window: Window) -> tuple[Ints, Ints]:
    """Where stretches may begin in a stream, from entry ``low`` on: stretches [first, end) of entries."""
    if window == "any":
        first, end = np.array([low]), np.array([stream.length - length + 1])
    else:
        first, last, closed = stream.episodes()
        if window == "inside":
            end = last + 2 - length
        else:
            end = last.copy()  # at an episode's last entry no decision is made
            if len(end) and not closed:
                end[-1] += 1
        first = np.maximum(first, low)
    some = end > first
    return first[some], end[some]


def choose_uniform(streams: list[tuple[Ints, Ints]], rng: torch.Generator, batch: int) -> Draw | None:
    """Entries with equal probability; one draw of ``rng`` each. None if there are none."""
    parts = [(np.full(len(first), i), first, end - first) for i, (first, end) in enumerate(streams)]
    owner, first, size = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not (count := int(size.sum())):
        return None
    picks = torch.randint(count, (batch,), generator=rng).numpy()
    bounds = np.cumsum(size)
    which = np.searchsorted(bounds, picks, side="right")
    index = first[which] + picks - (bounds[which] - size[which])
    positions = Positions(torch.from_numpy(owner[which]), torch.from_numpy(index))
    return Draw(positions, torch.full((batch,), 1 / count, dtype=torch.float64), count)


def last_of_each(stream: Ints, index: Ints) -> Ints:
    """Rows of positions [n], sorted by stream and index, without those that come again later."""
    order = np.lexsort((np.arange(len(index)), index, stream))  # of equal ones, the last stays the last
    last = (np.diff(index[order]) != 0) | (np.diff(stream[order]) != 0)
    kept: Ints = order[np.append(last, True)[:len(order)]]
    return kept
