"""Priorities of entries: what they weigh, and draws in proportion to that.

Shapes: B positions drawn, n entries of a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvdr_bench.errors import TrainingError
from pvdr_bench.rl.replay.columns import Column, Grown
from pvdr_bench.rl.replay.drawing import Draw, Positions
from pvdr_bench.rl.replay.stream import Ints, Stream

PRIORITY = "priority"  # the column that priorities are written to; its files hold weights
COLUMN = Column(PRIORITY, (), "float64", rewritable=True)


@dataclass(frozen=True)
class Priorities:
    """Entries are drawn in proportion to ``priority ** exponent``; new ones have the largest priority so far."""

    exponent: float = 0.6
    initial: float = 1.0  # of the first entries


class Weights:
    """``priority ** exponent`` of every entry, in memory as in the files of :data:`COLUMN`.

    A power is computed once, when it is written: computed again, in another company, its last bit may differ, and a
    resumed run would draw other entries.
    """

    def __init__(self, priorities: Priorities, streams: Sequence[Stream]) -> None:
        self.priorities = priorities
        self._grown = [Grown("float64") for _ in streams]
        self.load(streams)

    def load(self, streams: Sequence[Stream], largest: float | None = None) -> None:
        """Weights as the files have them; ``largest``: of all there ever were, that of new entries."""
        start = float(self.priorities.initial ** self.priorities.exponent)
        self.largest = start if largest is None else largest
        for stream, grown in zip(streams, self._grown, strict=True):
            grown.reset(stream.columns[PRIORITY].read(0, stream.length) if stream.length else np.zeros(0))

    @property
    def all(self) -> list[NDArray[np.float64]]:
        """[n] of each stream."""
        return [grown.all for grown in self._grown]

    def append(self, i: int) -> NDArray[np.float64]:
        """That of a new entry of stream ``i``."""
        self._grown[i].append(self.largest)
        return np.array(self.largest)

    def of(self, priorities: Tensor) -> NDArray[np.float64]:
        """Weights of new priorities.

        Raises:
            TrainingError: one is negative or not finite.
        """
        if not bool((torch.isfinite(priorities) & (priorities >= 0)).all()):
            raise TrainingError("a priority is negative or not finite", where="replay")
        weights: NDArray[np.float64] = priorities.detach().cpu().double().numpy() ** self.priorities.exponent
        return weights

    def write(self, i: int, index: Ints, weights: NDArray[np.float64]) -> None:
        """Replace those at ``index`` of stream ``i``."""
        self._grown[i].all[index] = weights
        self.largest = max(self.largest, float(weights.max()))


def choose_by_weight(streams: list[tuple[Ints, Ints]], weights: list[NDArray[np.float64]], rng: torch.Generator,
                     batch: int) -> Draw | None:
    """Entries in proportion to their weights; None if all that may be drawn weigh nothing.

    Args:
        streams: of each the stretches [first, end) of entries that may be drawn.
        weights: of all entries of each stream.
    """
    masked = [np.where(_inside(first, end, len(weight)), weight, 0.0)
              for (first, end), weight in zip(streams, weights, strict=True)]
    flat = np.concatenate(masked)
    total = np.cumsum(flat)  # one after the other: the same sums whoever computes them
    if not len(flat) or not total[-1] > 0:
        return None
    uniform = torch.rand(batch, generator=rng, dtype=torch.float64).numpy()
    drawn = np.searchsorted(total, uniform * total[-1], side="right")
    if drawn.max() == len(flat):  # a product that was rounded up to the sum
        drawn = np.minimum(drawn, np.flatnonzero(flat)[-1])
    bounds = np.cumsum([len(weight) for weight in weights])
    owner = np.searchsorted(bounds, drawn, side="right")
    index = drawn - (bounds - [len(weight) for weight in weights])[owner]
    positions = Positions(torch.from_numpy(owner), torch.from_numpy(index))
    count = sum(int((end - first).sum()) for first, end in streams)
    return Draw(positions, torch.from_numpy(flat[drawn] / total[-1]), count)


def _inside(first: Ints, end: Ints, length: int) -> NDArray[np.bool_]:
    """Which of ``length`` entries lie in one of the stretches, which do not overlap."""
    steps = np.zeros(length + 1, np.int8)
    np.add.at(steps, first, 1)
    np.add.at(steps, end, -1)
    return np.cumsum(steps[:-1], dtype=np.int8) > 0
