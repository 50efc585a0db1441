"""Encoder, quantiser and decoder of the VQGAN (arXiv 2012.09841).

Shapes: B images, H = W image size, h = w token grid, K codes of dimension n_q. Images are float [B, 3, H, W] in
[-1, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pvdr_bench.nets.quantizer import Quantised, VectorQuantizer
from pvdr_bench.tokenizer.layers import (
    AttentionBlock,
    DepthToSpace,
    SpaceToDepth,
    block,
    conv,
    down,
    middle,
    normalisation,
    up,
)

if TYPE_CHECKING:
    from pvdr_bench.tokenizer.config import NetConfig, VQGANConfig


class Encoder(nn.Sequential):
    """Images [B, 3, H, W] -> features [B, code_dim, h, w]."""

    def __init__(self, net: NetConfig, code_dim: int) -> None:
        kernel, patches, width = net.encoder_kernel, net.patch > 1, net.encoder_width
        stem = [SpaceToDepth(net.patch), conv(3 * net.patch**2, width, 1)] if patches else [conv(3, width)]
        layers: list[nn.Module] = list(stem)
        lowest = len(net.multipliers) - 1
        for level, multiplier in enumerate(net.multipliers):
            for _ in range(net.encoder_blocks):
                layers.append(block(width, net.encoder_width * multiplier, kernel, net))
                width = net.encoder_width * multiplier
                if net.attention and level == lowest:
                    layers.append(AttentionBlock(width, net))
            if level < lowest:
                layers.append(down(width, patches))
        layers += middle(width, kernel, net)
        layers += [normalisation(net.norm, width), nn.SiLU(), conv(width, net.z_channels, 1 if patches else 3),
                   conv(net.z_channels, code_dim, 1)]
        super().__init__(*layers)


class Decoder(nn.Module):
    """Features [B, code_dim, h, w] -> images [B, 3, H, W]."""

    def __init__(self, net: NetConfig, code_dim: int, grid: int) -> None:
        super().__init__()
        patches, lowest, kernel = net.patch > 1, len(net.multipliers) - 1, net.decoder_kernel
        edge = 1 if patches else 3
        width = net.decoder_width * net.multipliers[-1]
        self.stem = nn.Sequential(conv(code_dim, net.z_channels, 1), conv(net.z_channels, width, edge))
        self.positions = nn.Parameter(torch.zeros(1, width, grid, grid)) if net.decoder_positions else None
        layers = middle(width, kernel, net)
        for level in range(lowest, -1, -1):
            for _ in range(net.decoder_blocks + 1):
                layers.append(block(width, net.decoder_width * net.multipliers[level], kernel, net))
                width = net.decoder_width * net.multipliers[level]
                if net.attention and level == lowest:
                    layers.append(AttentionBlock(width, net))
            if level:
                layers.append(up(width, patches))
        layers += [normalisation(net.norm, width), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.last = conv(width, 3 * net.patch**2, edge)
        self.head = DepthToSpace(net.patch)

    def forward(self, z: Tensor) -> Tensor:
        """Decode."""
        x = self.stem(z)
        if self.positions is not None:
            x = x + self.positions
        out: Tensor = self.head(self.last(self.body(x)))
        return out


class VQGAN(nn.Module):
    """Encoder, quantiser and decoder.

    Args:
        config: sizes. image_size: H, a multiple of ``config.factor``.
    """

    def __init__(self, config: VQGANConfig, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.grid = config, image_size, config.grid(image_size)
        self.encoder = Encoder(config.net, config.codebook.dim)
        self.quantizer = VectorQuantizer(config.codebook.size, config.codebook.dim, config.codebook.update == "ema")
        self.decoder = Decoder(config.net, config.codebook.dim, self.grid)

    def features(self, images: Tensor) -> Tensor:
        """Encoder output [B, h, w, n_q] of float images [B, 3, H, W]."""
        z: Tensor = self.encoder(images).permute(0, 2, 3, 1)
        return z

    def render(self, z: Tensor) -> Tensor:
        """Float images [B, 3, H, W] of code vectors [B, h, w, n_q]."""
        images: Tensor = self.decoder(z.permute(0, 3, 1, 2))
        return images

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Quantised]:
        """Float images [B, 3, H, W] -> (reconstruction, encoder output [B, h, w, n_q], quantised)."""
        z = self.features(images)
        quantised = self.quantizer(z)
        return self.render(quantised.z), z, quantised
