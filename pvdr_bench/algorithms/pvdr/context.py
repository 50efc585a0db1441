"""The context of PVDR's decoder (paper, appendix B.3): ContextWM's encoder and masked cross-attention on token grids.

A frame's picture, as the frozen tokenizer paints its codes, goes through ContextWM's residual encoder, whose last map
has the side of the token grid. Every frame's embedded tokens attend to some of its positions before they enter the
decoder: ``x + norm(attention(x))``.

Shapes: B clips or states, N of their copies (candidates), m context and l future frames, T = m + l - 1 of which enter
the decoder, h x w token grid, S image size, d width of the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from pvdr_bench.algorithms.pvdr.config_context import PVDRContextConfig
from pvdr_bench.errors import CatalogError
from pvdr_bench.nets.context import ContextNoise, choose, erase
from pvdr_bench.nets.cross_attention import AttentionNoise, MaskedCrossAttention
from pvdr_bench.nets.resnet import ResNetEncoder


class Painter(Protocol):
    """What the context needs of a frozen tokenizer; :class:`pvdr_bench.tokenizer.frozen.Tokenizer` is one."""

    image_size: int
    grid: int

    def decode(self, codes: Tensor) -> Tensor:
        """Images uint8 [..., S, S, 3] of codes [..., h, w]."""
        ...


def layer_norm(channels: int) -> nn.Module:
    """Over all of a map [N, C, h, w], with gains and biases by channel; the batch does not matter, so micro-batches and
    processes change nothing."""
    return nn.GroupNorm(1, channels)


def stages_of(image_size: int, grid: int) -> int:
    """Stages after which a residual encoder of images has a map of the token grid's side.

    Raises:
        CatalogError: the cell of a token has a side that is no power of two, or is a single pixel.
    """
    cell = image_size // grid
    if cell < 2 or cell & (cell - 1) or cell * grid != image_size:
        raise CatalogError(f"a context is halved from {image_size} pixels to the token grid's {grid}, and a token's "
                           f"cell of {image_size / grid:g} pixels is no power of two", where="context",
                           hint="a tokenizer of cells of 2, 4, 8 or 16 pixels, or the method without context")
    return cell.bit_length() - 1


@dataclass(frozen=True)
class Shown:
    """What the decoder is shown of B contexts: pictures [B, 3, S, S] in [-0.5, 0.5], and the attention's noise of B * T
    grids, T of each in a row."""

    image: Tensor
    noise: AttentionNoise


class ContextReader(nn.Module):
    """Context encoder and attention of a decoder of width d.

    Args:
        painter: the frozen tokenizer; its weights are none of the model's.
    """

    def __init__(self, config: PVDRContextConfig, painter: Painter) -> None:
        super().__init__()
        own, width = config.context, config.model.d_model
        self.context, self.online, self.painter = own, config.context_online, painter
        self.context_frames = config.model.context_frames
        self.slots = config.model.context_frames + config.model.future_frames - 1
        self.grid, stages = painter.grid, stages_of(painter.image_size, painter.grid)
        self.encoder = ResNetEncoder(3, painter.image_size, own.depth, stages, own.blocks, layer_norm)
        self.project = nn.Conv2d(own.depth << (stages - 1), width, 1)
        self.attention = MaskedCrossAttention(width, self.grid, own.heads, own.mask, own.dropout, layer_norm,
                                              rectified=False)

    def draw(self, count: int, generator: torch.Generator, learning: bool) -> ContextNoise:
        """The random numbers of ``count`` clips, or of states to plan in (nothing is dropped out then)."""
        return ContextNoise.draw({self.grid: self.attention}, count, self.slots, generator, dropout=learning)

    def of_clips(self, clips: Tensor, noise: ContextNoise, online: bool) -> Shown:
        """The contexts that clips int64 [B, m + l, h, w] are learned with, in pre-training or ``online``."""
        rule, m = self.context.frame, self.context_frames
        frames = clips if rule == "random" else clips[:, :m]
        noise = noise.map(partial(_to, device=clips.device))
        image = self._paint(choose(frames, "last" if rule == "now" else "random", noise.frame))
        if online and self.online.augment == "erasing":
            image = erase(image, noise.erasing)
        return Shown(image, noise.attention[self.grid])

    def of_states(self, context: Tensor, noise: ContextNoise) -> Shown:
        """The contexts that plans are made with in states x int64 [B, m, h, w]."""
        frame = choose(context, "last" if self.online.frame == "now" else "first", noise.frame.to(context.device))
        return Shown(self._paint(frame), noise.attention[self.grid].map(partial(_to, device=context.device)))

    def _paint(self, codes: Tensor) -> Tensor:
        return self.painter.decode(codes).to(codes.device).movedim(-1, -3).float() / 255 - 0.5

    def forward(self, shown: Shown) -> Seen:
        """What frames can look at."""
        *_, (_, last) = self.encoder.maps(shown.image)
        return Seen(self.attention, self.project(last), shown.noise, self.slots)


@dataclass(frozen=True)
class Seen:
    """Maps [B, d, h, w] of contexts, and how frames look at them."""

    attention: MaskedCrossAttention
    maps: Tensor
    noise: AttentionNoise
    slots: int

    def beside(self, x: Tensor, at: int) -> Tensor:
        """Embedded frames [B * N, T', h, w, d], of which the first one is number ``at``, after they have looked.

        All copies of a state look at the same positions, so that candidates differ in z alone.
        """
        count, frames = x.shape[:2]
        copies = count // len(self.maps)

        def mine(rows: Tensor) -> Tensor:
            own = rearrange(rows, "(b t) ... -> b t ...", t=self.slots)[:, at:at + frames]
            out: Tensor = repeat(own, "b t ... -> (b n t) ...", n=copies)
            return out

        out = self.attention(rearrange(x, "b t h w d -> (b t) d h w"), self.maps, self.noise.map(mine))
        looked: Tensor = rearrange(out, "(b t) d h w -> b t h w d", t=frames)
        return looked


def _to(x: Tensor, device: torch.device) -> Tensor:
    return x.to(device)
