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
ERASE_PROBABILITY, ERASED_AREA, ERASED_RATIO = 0.5, (0.02, 0.33), (0.3, 3.3)  # kornia's RandomErasing, its defaults


@dataclass(frozen=True)
class ContextNoise:
    """The random numbers of one drawing of sequences.

    Attributes:
        frame: uniform [B], which frame is the context. erasing: uniform [B, 5], see :func:`erase`.
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


def choose(images: Tensor, frame: Literal["none", "random", "first", "last"], uniform: Tensor) -> Tensor:
    """The context [B, ...] of images, or their codes, [B, T, ...]; of a random one uniform [B] says which."""
    count, length = images.shape[:2]
    index = {"first": torch.zeros_like(uniform, dtype=torch.int64),
             "last": torch.full_like(uniform, length - 1, dtype=torch.int64),
             "random": (uniform * length).long().clamp_max(length - 1)}[frame]
    return images[torch.arange(count, device=images.device), index]


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
