"""Layers of the VQGAN (arXiv 2012.09841), in the form of taming-transformers or of patches.

Shapes: B images, C channels, H = W image size, h = w features. Images are float [B, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvdr_bench.tokenizer.shared import RowDropout

if TYPE_CHECKING:
    from pvdr_bench.tokenizer.config import NetConfig


def to_float(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1] (channels-last in memory, as it comes)."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float [B, 3, H, W] in [-1, 1] -> uint8 [B, H, W, 3], rounded."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class PixelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each position of [B, C, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def normalisation(kind: str, channels: int) -> nn.Module:
    """The norm layer of a kind (NetConfig.norm)."""
    if kind == "group":
        return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)
    return PixelNorm(channels, eps=1e-6)


def conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution that keeps the resolution."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class SpaceToDepth(nn.Module):
    """[B, C, H, W] -> [B, p * p * C, H / p, W / p]; a plain copy of channels-last tensors."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """Fold patches into channels."""
        (b, c, h, w), p = x.shape, self.patch
        y = x.permute(0, 2, 3, 1).reshape(b, h // p, p, w // p, p, c).permute(0, 1, 3, 2, 4, 5)
        return y.reshape(b, h // p, w // p, p * p * c).permute(0, 3, 1, 2)


class DepthToSpace(nn.Module):
    """The inverse of :class:`SpaceToDepth`."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """Unfold channels into patches."""
        (b, c, h, w), p = x.shape, self.patch
        y = x.permute(0, 2, 3, 1).reshape(b, h, w, p, p, c // p**2).permute(0, 1, 3, 2, 4, 5)
        return y.reshape(b, h * p, w * p, c // p**2).permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    """norm, swish, conv, norm, swish, dropout, conv, plus the input."""

    def __init__(self, inputs: int, outputs: int, kernel: int, net: NetConfig) -> None:
        super().__init__()
        self.norm1, self.conv1 = normalisation(net.norm, inputs), conv(inputs, outputs, kernel)
        self.norm2, self.conv2 = normalisation(net.norm, outputs), conv(outputs, outputs, kernel)
        self.dropout = RowDropout(net.dropout)
        self.skip = conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, outputs, h, w]."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(self.dropout(F.silu(self.norm2(y))))
        out: Tensor = self.skip(x) + y
        return out


class SeparableBlock(nn.Module):
    """depthwise conv (none for kernel 1), norm, pointwise, swish, dropout, pointwise, plus the input (ConvNeXt)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, net: NetConfig) -> None:
        super().__init__()
        depthwise = nn.Conv2d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs)
        self.mix = depthwise if kernel > 1 else nn.Identity()
        self.norm, self.conv1 = normalisation(net.norm, inputs), conv(inputs, outputs * net.expansion, 1)
        self.dropout, self.conv2 = RowDropout(net.dropout), conv(outputs * net.expansion, outputs, 1)
        self.skip = conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, outputs, h, w]."""
        y = self.conv2(self.dropout(F.silu(self.conv1(self.norm(self.mix(x))))))
        out: Tensor = self.skip(x) + y
        return out


def block(inputs: int, outputs: int, kernel: int, net: NetConfig) -> nn.Module:
    """The block of a kind (NetConfig.block)."""
    return (ResBlock if net.block == "residual" else SeparableBlock)(inputs, outputs, kernel, net)


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions, plus the input."""

    def __init__(self, channels: int, net: NetConfig) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = normalisation(net.norm, channels), conv(channels, 3 * channels, 1), conv(
            channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same."""
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).permute(0, 2, 3, 1).reshape(b, h * w, 3, c).unbind(2)
        y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])
        out: Tensor = x + self.out(y.reshape(b, h, w, c).permute(0, 3, 1, 2))
        return out


class StridedDown(nn.Conv2d):
    """Halve the resolution by a strided convolution, padded right and below as in taming."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h / 2, w / 2]."""
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def down(channels: int, patches: bool) -> nn.Module:
    """Halve the resolution; with patches each output sees its own 2 x 2 inputs only."""
    if patches:
        return nn.Sequential(SpaceToDepth(2), conv(4 * channels, channels, 1))
    return StridedDown(channels)


def up(channels: int, patches: bool) -> nn.Module:
    """Double the resolution."""
    if patches:
        return nn.Sequential(conv(channels, 4 * channels, 1), DepthToSpace(2))
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), conv(channels, channels))


def middle(channels: int, kernel: int, net: NetConfig) -> list[nn.Module]:
    """Residual blocks at the lowest resolution with attention after the first."""
    blocks: list[nn.Module] = [block(channels, channels, kernel, net) for _ in range(net.middle_blocks)]
    if net.attention:
        blocks.insert(1, AttentionBlock(channels, net))
    return blocks
