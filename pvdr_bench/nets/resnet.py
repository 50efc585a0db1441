"""The 13-layer residual encoder of ContextWM and PreLAR, and its mirror (arXiv 2305.18499, appendix; their codes).

One strided convolution, three stages of two blocks of two convolutions, each stage followed by average pooling.
Shapes: N images, C channels of a map, S = image size, E embedding width, F feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvdr_bench.nets.cross_attention import AttentionNoise, MaskedCrossAttention
from pvdr_bench.nets.layers import init_like_keras
from pvdr_bench.nets.phases import DoublingConvTranspose2d

Norm = Callable[[int], nn.Module]  # of so many channels


def map_sides(size: int, stages: int) -> tuple[int, ...]:
    """Sides of the maps that an encoder's stages work on: S / 2, S / 4, ...

    Raises:
        ValueError: the image's side cannot be halved that often.
    """
    if size % 2 ** (stages + 1):
        raise ValueError(f"a side of {size} pixels cannot be halved {stages + 1} times")
    return tuple(size >> (i + 1) for i in range(stages))


class ResidualBlock(nn.Module):
    """``relu(shortcut(x) + body(z))``, where z is x, or with a context what attention makes of x."""

    def __init__(self, inputs: int, outputs: int, norm: Norm, attention: MaskedCrossAttention | None = None) -> None:
        super().__init__()
        self.attention = attention
        self.shortcut = nn.Identity() if inputs == outputs else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False), norm(outputs))
        self.body = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), norm(outputs), nn.ReLU(),
                                  nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), norm(outputs))

    def forward(self, x: Tensor, context: Tensor | None = None, noise: AttentionNoise | None = None) -> Tensor:
        """[N, inputs, h, w] -> [N, outputs, h, w]."""
        z = x
        if self.attention is not None:
            assert context is not None and noise is not None
            z = self.attention(x, context, noise)
        return F.relu(self.shortcut(x) + self.body(z))


class ResNetEncoder(nn.Module):
    """[N, channels, S, S] -> [N, E], E = depth * 2**(stages - 1) * (S / 2**(stages + 1))**2; widths double by stage.

    Args:
        channels: of the images; 6 for a pair of frames. norm: makes a normalisation.
    """

    def __init__(self, channels: int, size: int, depth: int, stages: int, blocks: int, norm: Norm) -> None:
        super().__init__()
        self.sides = map_sides(size, stages)
        self.first = nn.Conv2d(channels, depth, 3, 2, 1)
        widths = [depth, *(depth << i for i in range(stages))]
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(widths[i] if k == 0 else widths[i + 1], widths[i + 1], norm)
                            for k in range(blocks))) for i in range(stages))
        self.embed_dim = widths[-1] * (self.sides[-1] // 2) ** 2
        init_like_keras(self)

    def maps(self, images: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(side, map [N, C, side, side]) of each stage, before its pooling."""
        x = F.elu(self.first(images))
        for side, stage in zip(self.sides, self.stages, strict=True):
            x = stage(x)
            yield side, x
            x = F.avg_pool2d(x, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [N, E] of images [N, channels, S, S]."""
        *_, (_, last) = self.maps(images)
        return F.avg_pool2d(last, 2).flatten(1)


class DecoderStage(nn.Module):
    """Blocks that keep a map's side; the last one halves its width, and the first one may attend to a context."""

    def __init__(self, width: int, blocks: int, norm: Norm, attention: MaskedCrossAttention | None) -> None:
        super().__init__()
        widths = [*[width] * blocks, width // 2]
        self.first = ResidualBlock(width, widths[1], norm, attention)
        self.rest = nn.Sequential(*(ResidualBlock(*pair, norm) for pair in pairwise(widths[1:])))

    def forward(self, x: Tensor, context: Tensor | None, noise: AttentionNoise | None) -> Tensor:
        """[N, width, h, w] -> [N, width / 2, h, w]."""
        out: Tensor = self.rest(self.first(x, context, noise))
        return out


class ResNetDecoder(nn.Module):
    """Features [N, F] -> image means [N, 3, S, S]: a dense layer, stages that double the side and halve the width.

    Args:
        attention: makes the cross-attention of the first block of a stage with maps of (channels, side), or None.
    """

    def __init__(self, feature_dim: int, size: int, depth: int, stages: int, blocks: int, norm: Norm,
                 attention: Callable[[int, int], MaskedCrossAttention | None] = lambda channels, side: None) -> None:
        super().__init__()
        self.sides = map_sides(size, stages)[::-1]
        self.size, width, start = size, depth << (stages - 1), self.sides[0] // 2
        self.start = (width, start, start)
        self.dense = nn.Linear(feature_dim, width * start * start)
        self.stages = nn.ModuleList(DecoderStage(width >> i, blocks, norm, attention(width >> i, side))
                                    for i, side in enumerate(self.sides))
        self.last = DoublingConvTranspose2d(width >> stages, 3, 3, 1, output_padding=1)
        init_like_keras(self)

    def attentions(self) -> dict[int, MaskedCrossAttention]:
        """Cross-attentions by the side of their maps."""
        found = {}
        for side, stage in zip(self.sides, self.stages, strict=True):
            attention = cast(DecoderStage, stage).first.attention
            if attention is not None:
                found[side] = attention
        return found

    def forward(self, features: Tensor, context: Mapping[int, Tensor] = MappingProxyType({}),
                noise: Mapping[int, AttentionNoise] = MappingProxyType({})) -> Tensor:
        """Image means [N, 3, S, S].

        Args:
            context, noise: for the side of each of :meth:`attentions`, maps [M, C, side, side], where each is the
                context of N / M images in a row, and the attention's noise.
        """
        x = self.dense(features).view(-1, *self.start).contiguous(memory_format=torch.channels_last)
        for side, stage in zip(self.sides, self.stages, strict=True):
            x = stage(F.interpolate(x, scale_factor=2, mode="nearest"), context.get(side), noise.get(side))
        out: Tensor = self.last(x)
        return out
