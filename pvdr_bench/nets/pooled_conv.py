"""Convolutional encoder and decoder of DreamerV3 (arXiv 2301.04104; its code's ``rssm.py``).

Shapes: N images, H image size, E embedding width, Z latents (flattened), D deterministic width. Images are floats
[N, 3, H, H] in [-0.5, 0.5].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pvdr_bench.nets.layers import BlockLinear, Style
from pvdr_bench.nets.phases import UpsampledConv2d


class PooledEncoder(nn.Module):
    """Convolutions that keep the size, each followed by a max-pooling by two, norm and activation. -> [N, E]."""

    def __init__(self, size: int, depth: int, multipliers: Sequence[int], kernel: int, style: Style) -> None:
        super().__init__()
        inputs, layers = 3, list[nn.Module]()
        for width in (depth * multiplier for multiplier in multipliers):
            layers += [nn.Conv2d(inputs, width, kernel, padding=kernel // 2), nn.MaxPool2d(2),
                       *style.after(width, pixels=True)]
            inputs = width
        self.layers, self.embed_dim = nn.Sequential(*layers), inputs * (size >> len(multipliers)) ** 2
        style.begin(self)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [N, E] of images [N, 3, H, H]."""
        out: Tensor = self.layers(images).flatten(1)
        return out


class UpsampledDecoder(nn.Module):
    """A small map from both parts of a state, then upsampling by two and a convolution each; a sigmoid at the end.

    The deterministic part enters block by block, each block of it making channels of its own; the latents through a
    dense layer of ``2 * units``.
    """

    def __init__(self, stoch: int, deter: int, size: int, depth: int, multipliers: Sequence[int], kernel: int,
                 units: int, blocks: int, style: Style) -> None:
        super().__init__()
        self.stoch, self.side, self.blocks, self.size = stoch, size >> len(multipliers), blocks, size
        width = depth * multipliers[-1]
        pixels = self.side**2 * width
        self.from_deter = BlockLinear(deter, pixels, blocks)
        self.from_stoch = nn.Sequential(*style.dense(stoch, [2 * units]), nn.Linear(2 * units, pixels))
        layers = style.after(width, pixels=True)
        # The places of upsampling layers, which it once had, stay: checkpoints name weights by their places.
        for multiplier in reversed(multipliers[:-1]):
            inputs, width = width, depth * multiplier
            layers += [nn.Identity(), UpsampledConv2d(inputs, width, kernel), *style.after(width, pixels=True)]
        self.layers = nn.Sequential(*layers, nn.Identity(), UpsampledConv2d(width, 3, kernel))
        style.begin(self)

    def forward(self, features: Tensor) -> Tensor:
        """Image means [N, 3, H, H] of features [N, Z + D], latents first."""
        stoch, deter = features[:, :self.stoch], features[:, self.stoch:]
        shape = (len(features), -1, self.side, self.side)
        rows = self.from_deter(deter).view(len(features), self.blocks, self.side, self.side, -1)
        planes = rows.permute(0, 1, 4, 2, 3).reshape(shape) + self.from_stoch(stoch).view(shape)
        return torch.sigmoid(self.layers(planes).float()) - 0.5
