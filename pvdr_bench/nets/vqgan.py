"""VQGAN (arXiv 2012.09841) in the form of taming-transformers, and the frozen tokenizer made of it.

Shapes: B images, H = W image size, h = w token grid, K codes of dimension n_q. Networks work on float images
[B, 3, H, W] in [-1, 1]; the tokenizer takes and gives uint8 images [..., H, W, 3].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvdr_bench.errors import DataError
from pvdr_bench.nets.quantizer import Quantised, VectorQuantizer
from pvdr_bench.nets.shared import RowDropout

if TYPE_CHECKING:
    from pvdr_bench.algorithms.vqgan.config import NetConfig, VQGANConfig

SIZE_KEY = "image_size"  # an int64 scalar beside the weights of an artefact


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


class Tokenizer:
    """A trained VQGAN, frozen: uint8 images <-> grids of codes.

    Tensors are moved to the tokenizer's device and stay there. Work is done in batches of ``batch`` images.

    Attributes:
        image_size: H. grid: h. codebook_size: K. code_dim: n_q. codebook: float32 [K, n_q].
    """

    def __init__(self, net: VQGAN, batch: int = 256) -> None:
        self.net = net.eval().requires_grad_(False)
        self.batch, self.image_size, self.grid = batch, net.image_size, net.grid
        self.codebook_size, self.code_dim = net.quantizer.size, net.quantizer.dim

    @property
    def codebook(self) -> Tensor:
        """The code vectors [K, n_q]."""
        return self.net.quantizer.table.detach()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.codebook.device

    def to(self, device: torch.device | str) -> Tokenizer:
        """Move the weights; returns self."""
        self.net.to(device)
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Codes int64 [..., h, w] of uint8 images [..., H, W, 3].

        Raises:
            DataError: not uint8, or of another image size.
        """
        size = (self.image_size, self.image_size, 3)
        if images.dtype != torch.uint8 or tuple(images.shape[-3:]) != size:
            raise DataError(f"the tokenizer takes uint8 images {size}, not {images.dtype} {tuple(images.shape[-3:])}",
                            hint="use the tokenizer of this protocol's image size")
        flat = images.reshape(-1, *size)
        out = torch.empty((len(flat), self.grid, self.grid), dtype=torch.int64, device=self.device)
        for i in range(0, len(flat), self.batch):
            z = self.net.features(to_float(flat[i : i + self.batch].to(self.device)))
            out[i : i + self.batch] = self.net.quantizer(z).codes
        return out.view(*images.shape[:-3], self.grid, self.grid)

    def embed(self, codes: Tensor) -> Tensor:
        """Code vectors float32 [..., h, w, n_q] of integer codes [..., h, w]."""
        return F.embedding(codes.to(self.device).long(), self.codebook)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Images uint8 [..., H, W, 3] of integer codes [..., h, w]."""
        flat = codes.reshape(-1, self.grid, self.grid)
        out = torch.empty((len(flat), self.image_size, self.image_size, 3), dtype=torch.uint8, device=self.device)
        for i in range(0, len(flat), self.batch):
            out[i : i + self.batch] = to_uint8(self.net.render(self.embed(flat[i : i + self.batch])))
        return out.view(*codes.shape[:-2], *out.shape[1:])


def load_tokenizer(weights: Mapping[str, Tensor], config: VQGANConfig | Mapping[str, Any],
                   device: torch.device | str = "cpu") -> Tokenizer:
    """The frozen tokenizer of an artefact.

    Args:
        weights: what ``VQGANLearner.export`` gave.
        config: the config that made them, typed or as plain data.

    Raises:
        DataError: weights and config do not belong together.
    """
    from pvdr_bench.algorithms.vqgan.config import VQGANConfig

    typed = config if isinstance(config, VQGANConfig) else VQGANConfig.model_validate(dict(config))
    rest = dict(weights)
    size = rest.pop(SIZE_KEY, None)
    if size is None:
        raise DataError(f"tokenizer weights without {SIZE_KEY}", hint="build the tokenizer's artefact again")
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn and thrown away
        net = VQGAN(typed, int(size))
    try:
        net.load_state_dict(rest)
    except RuntimeError as error:
        raise DataError(f"tokenizer weights do not fit their config: {error}",
                        hint="build the tokenizer's artefact again") from error
    return Tokenizer(net.to(memory_format=torch.channels_last).to(device))  # type: ignore[call-overload]
