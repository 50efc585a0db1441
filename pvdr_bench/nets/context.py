"""The context of ContextWM: a frame of the same sequence that a decoder sees beside the state (arXiv 2305.18499).

What it shows the state need not hold. Nothing but the decoder sees it.
Shapes: B sequences, T steps, S = image size. Images are floats [..., 3, S, S] in [-0.5, 0.5].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pvdr_bench.nets.cross_attention import AttentionNoise, MaskedCrossAttention

Augment = Literal["none", "erasing"]
Which = Literal["none", "random", "first", "last"]
ERASE_PROBABILITY, ERASED_AREA, ERASED_RATIO = 0.5, (0.02, 0.33), (0.3, 3.3)  # kornia's RandomErasing, its defaults


@dataclass(frozen=True)
class ContextNoise:
    """The random numbers of one drawing of sequences.

    Attributes:
        frame: uniform [B], which frame is the context, of each episode in a sequence. erasing: uniform [B, 5], see
            :func:`erase`.
        attention: by side of the maps, of B * T images.
    """

    frame: Tensor
    erasing: Tensor
    attention: dict[int, AttentionNoise]

    @classmethod
    def draw(cls, attentions: Mapping[int, MaskedCrossAttention], count: int, length: int, generator: torch.Generator,
             dropout: bool = True) -> ContextNoise:
        """Of B = ``count`` sequences of T = ``length`` steps, for attentions by the side of their maps, on the
        generator's device."""
        frame = torch.rand(count, generator=generator, device=generator.device)
        erasing = torch.rand(count, 5, generator=generator, device=generator.device)
        return cls(frame, erasing, {side: attention.draw(count * length, generator, dropout)
                                    for side, attention in attentions.items()})

    def map(self, function: Callable[[Tensor], Tensor]) -> ContextNoise:
        """Each tensor through a function of rows, such as a rank's share of them."""
        return ContextNoise(function(self.frame), function(self.erasing),
                            {side: noise.map(function) for side, noise in self.attention.items()})

    def part(self, start: int, stop: int) -> ContextNoise:
        """That of some of the sequences, in their order."""
        count = len(self.frame)

        def of(rows: Tensor) -> Tensor:
            each = len(rows) // count  # of a sequence
            return rows[start * each:stop * each]

        return self.map(of)


def choose(images: Tensor, frame: Which, uniform: Tensor) -> Tensor:
    """The context [B, ...] of images, or their codes, [B, T, ...]; of a random one uniform [B] says which."""
    count, length = images.shape[:2]
    index = _place(frame, uniform, torch.full_like(uniform, length, dtype=torch.int64))
    return images[torch.arange(count, device=images.device), index]


def choose_within(is_first: Tensor, frame: Which, uniform: Tensor) -> Tensor:
    """The step [B, T] whose frame is each step's context, int64, where sequences may cross episodes.

    It is of the step's own episode, the same for all of an episode's steps: a frame of another one tells of another
    goal or layout. Where a sequence is of one episode it is that of :func:`choose`.

    Args:
        is_first: bool [B, T], where an episode begins; that one begins at step 0 goes without saying.
        uniform: [B], which frame of every episode is a random one.
    """
    episode = is_first[:, 1:].cumsum(1)
    episode = torch.cat([torch.zeros_like(episode[:, :1]), episode], 1)
    before = (episode[:, None, :] < episode[:, :, None]).sum(2)  # steps before an episode's first
    length = (episode[:, None, :] == episode[:, :, None]).sum(2)
    return before + _place(frame, uniform[:, None], length)


def _place(frame: Which, uniform: Tensor, length: Tensor) -> Tensor:
    """Which of so many frames, counted from zero."""
    if frame == "random":
        return torch.minimum((uniform * length).long(), length - 1)
    return length - 1 if frame == "last" else torch.zeros_like(length)


def erase(images: Tensor, uniform: Tensor) -> Tensor:
    """Every other image [B, 3, S, S] with a rectangle made grey (zero).

    Args:
        uniform: [B, 5]: whether, its share of the area, its ratio of height to width (below one and above one equally
            often, evenly within both), and its place in height and width.
    """
    size = images.shape[-1]
    whether, area, ratio, y, x = uniform.unbind(1)
    area = (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area) * size * size
    low, high = ERASED_RATIO
    ratio = torch.where(ratio < 0.5, low + (1 - low) * 2 * ratio, 1 + (high - 1) * (2 * ratio - 1))
    positions = torch.arange(size, device=images.device)
    inside = []
    for extent, place in (((area * ratio).sqrt(), y), ((area / ratio).sqrt(), x)):
        extent = extent.round().clamp(1, size)
        start = (place * (size - extent + 1)).floor()[:, None]
        inside.append((positions >= start) & (positions < start + extent[:, None]))
    erased = inside[0][:, :, None] & inside[1][:, None, :] & (whether < ERASE_PROBABILITY)[:, None, None]
    return images.masked_fill(erased[:, None], 0.0)
