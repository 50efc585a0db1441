"""The spatial-temporal (ST) Transformer of PVDR (paper sec. 4, Fig. 9) on ``scaled_dot_product_attention``.

Shapes: B batch, T frame slots, h x w token grid, d model width, b window side, P = b * b tokens of a window.
A block is a pair: spatial attention over all h * w tokens of one slot, then temporal attention inside a
local b x b window across all slots, each followed by a feed-forward layer. In a causal model slot k sees
the slots k' <= k (the paper prints k' < k, which would leave slot 0 with nothing to attend to).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LayerCache = tuple[Tensor, Tensor]  # keys and values of past slots, each [B * windows, heads, T_past * P, d / heads]


class Attention(nn.Module):
    """Multi-head self-attention over sequences [S, L, d]."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"d_model {d_model} is not a multiple of heads {heads}")
        self.heads = heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None,
                past: LayerCache | None = None) -> tuple[Tensor, LayerCache]:
        """Attend; ``mask`` bool [L, L_past + L] is True where attention is allowed. Returns (y, keys and values)."""
        s, length, d = x.shape
        # Taken apart before they are turned: their gradients are then put together in one pass over memory.
        parts = self.qkv(x).view(s, length, 3, self.heads, d // self.heads).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in parts)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).reshape(s, length, d)), (k, v)


class FeedForward(nn.Sequential):
    """Pre-norm GELU feed-forward layer."""

    def __init__(self, d_model: int, ff: int) -> None:
        super().__init__(nn.LayerNorm(d_model), nn.Linear(d_model, ff), nn.GELU(), nn.Linear(ff, d_model))


class STBlock(nn.Module):
    """One pair of spatial and windowed temporal attention, pre-norm, with residuals."""

    def __init__(self, d_model: int, heads: int, ff: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm_space, self.norm_time = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.space, self.time = Attention(d_model, heads), Attention(d_model, heads)
        self.ff_space, self.ff_time = FeedForward(d_model, ff), FeedForward(d_model, ff)

    def forward(self, x: Tensor, mask: Tensor | None, past: LayerCache | None) -> tuple[Tensor, LayerCache]:
        """x [B, T, h, w, d]; ``mask`` [T * P, (T_past + T) * P] for the temporal half."""
        return self.in_time(self.in_space(x), mask, past)

    def in_space(self, x: Tensor) -> Tensor:
        """The half in which slots are apart."""
        batch, frames, h, w, d = x.shape
        tokens = self.norm_space(x).reshape(batch * frames, h * w, d)
        x = x + self.space(tokens)[0].view(x.shape)
        out: Tensor = x + self.ff_space(x)
        return out

    def in_time(self, x: Tensor, mask: Tensor | None, past: LayerCache | None) -> tuple[Tensor, LayerCache]:
        """The half in which slots meet."""
        batch, frames, h, w, d = x.shape
        b = self.window
        windows = self.norm_time(x).view(batch, frames, h // b, b, w // b, b, d).permute(0, 2, 4, 1, 3, 5, 6)
        y, cache = self.time(windows.reshape(-1, frames * b * b, d), mask, past)
        y = y.view(batch, h // b, w // b, frames, b, b, d).permute(0, 3, 1, 4, 2, 5, 6)
        x = x + y.reshape(x.shape)
        return x + self.ff_time(x), cache


class STTransformer(nn.Module):
    """Stack of ST blocks with learned spatial and temporal positions and a final norm.

    Args:
        d_model, heads, ff, depth: width, heads, feed-forward width, number of (spatial, temporal) pairs.
        grid: side of the token grid (h = w = grid).
        window: side b of the temporal attention's local window; divides ``grid``.
        max_frames: the most slots it can see.
        causal: whether slot k sees only slots k' <= k.
    """

    def __init__(self, d_model: int, heads: int, ff: int, depth: int, grid: int, window: int,
                 max_frames: int, causal: bool) -> None:
        super().__init__()
        if grid % window:
            raise ValueError(f"grid {grid} is not a multiple of window {window}")
        self.grid, self.window, self.max_frames, self.causal = grid, window, max_frames, causal
        self.pos_space = nn.Parameter(0.02 * torch.randn(grid, grid, d_model))
        self.pos_time = nn.Parameter(0.02 * torch.randn(max_frames, d_model))
        self.blocks = nn.ModuleList([STBlock(d_model, heads, ff, window) for _ in range(depth)])
        self.norm = nn.LayerNorm(d_model)

    def _mask(self, past: int, new: int, device: torch.device) -> Tensor | None:
        if not self.causal or new == 1:  # a single new slot sees everything there is
            return None
        cells = self.window**2
        slots = torch.arange(past + new, device=device).repeat_interleave(cells)
        return slots[None, :] <= slots[past * cells:, None]

    def forward(self, x: Tensor, same: Tensor | None = None) -> Tensor:
        """x [B, T, h, w, d] -> [B, T, h, w, d].

        With slots ``same`` [1, T', h, w, d] before them, the same for all of the batch, the result is [B, T' + T, ...].
        They are worked on once until they meet the others, in the first block's temporal half.

        Raises:
            ValueError: more slots than ``max_frames``.
        """
        if same is None:
            return self.extend(x, None)[0]
        count, total = same.shape[1], same.shape[1] + x.shape[1]
        if total > self.max_frames:
            raise ValueError(f"{total} slots, but max_frames is {self.max_frames}")
        first, *others = self.blocks
        assert isinstance(first, STBlock)
        parts = [first.in_space(part + self.pos_space + self.pos_time[slots, None, None])
                 for part, slots in ((same, slice(0, count)), (x, slice(count, total)))]
        mask = self._mask(0, total, x.device)
        x = torch.cat([parts[0].expand(len(x), -1, -1, -1, -1), parts[1]], 1)
        x, _ = first.in_time(x, mask, None)
        for block in others:
            x, _ = block(x, mask, None)
        out: Tensor = self.norm(x)
        return out

    def extend(self, x: Tensor, cache: list[LayerCache] | None) -> tuple[Tensor, list[LayerCache]]:
        """Process new slots x [B, T, h, w, d] after those in ``cache``; returns (y, the longer cache).

        For a causal model this equals the last T slots of :meth:`forward` on all slots together: spatial
        attention stays within a slot and past slots never change.

        Raises:
            ValueError: more slots than ``max_frames``, or a cache with a model that is not causal.
        """
        past = 0 if cache is None else cache[0][0].shape[2] // self.window**2
        new = x.shape[1]
        if past and not self.causal:
            raise ValueError("only a causal ST Transformer can be extended from a cache")
        if past + new > self.max_frames:
            raise ValueError(f"{past + new} slots, but max_frames is {self.max_frames}")
        x = x + self.pos_space + self.pos_time[past:past + new, None, None]
        mask = self._mask(past, new, x.device)
        caches = []
        for i, block in enumerate(self.blocks):
            x, layer = block(x, mask, None if cache is None else cache[i])
            caches.append(layer)
        return self.norm(x), caches


def window_order(grid: int, window: int) -> Tensor:
    """The cells of a grid, row by row, window after window: int64 [grid * grid]."""
    side = grid // window
    return torch.arange(grid * grid).view(side, window, side, window).permute(0, 2, 1, 3).flatten()


class Decoding:
    """A causal model's newest slots, one call after the other, without gradients.

    They are those of :meth:`STTransformer.extend`, in fewer passes over memory. Tokens come in window order
    (:func:`window_order`), in which a slot is a batch of windows as it lies; spatial attention does not mind the order.
    Keys and values have room for all slots from the start. Residuals are added in place. The last block makes outputs
    for the newest slot alone, since nothing reads those of the others.
    """

    def __init__(self, net: STTransformer) -> None:
        if not net.causal:
            raise ValueError("only a causal ST Transformer can be extended")
        self.net, self.slots = net, 0
        self._positions = net.pos_space.flatten(0, 1)[window_order(net.grid, net.window).to(net.pos_space.device)]
        self._keys: list[Tensor] = []  # by block: keys and values [2, B * windows, heads, max_frames * P, d / heads]

    @torch.no_grad()
    def newest(self, x: Tensor) -> Tensor:
        """New slots [B, T, h * w, d] in window order -> the last one's output [B, h * w, d].

        Raises:
            ValueError: more slots than the model has.
        """
        net, new = self.net, x.shape[1]
        if self.slots + new > net.max_frames:
            raise ValueError(f"{self.slots + new} slots, but max_frames is {net.max_frames}")
        x = x + self._positions + net.pos_time[self.slots:self.slots + new, None]
        mask = net._mask(self.slots, new, x.device)
        for i, block in enumerate(net.blocks):
            last = i == len(net.blocks) - 1
            x = self._block(i, block, x, mask, last)
        self.slots += new
        out: Tensor = net.norm(x[:, -1])
        return out

    def _block(self, i: int, block: nn.Module, x: Tensor, mask: Tensor | None, last: bool) -> Tensor:
        assert isinstance(block, STBlock)
        batch, new, cells, d = x.shape
        part = self.net.window**2
        windows = cells // part
        x += block.space(block.norm_space(x).view(batch * new, cells, d))[0].view(x.shape)
        x += block.ff_space(x)
        y = block.norm_time(x)
        if new > 1:
            y = y.view(batch, new, windows, part, d).transpose(1, 2)
        qkv = block.time.qkv(y.reshape(batch * windows, new * part, d))
        q, k, v = qkv.view(batch * windows, new * part, 3, block.time.heads, -1).permute(2, 0, 3, 1, 4)
        if len(self._keys) == i:
            room = (2, *k.shape[:2], self.net.max_frames * part, k.shape[3])
            self._keys.append(k.new_empty(room))
        begin, end = self.slots * part, (self.slots + new) * part
        keys, values = self._keys[i][..., :end, :]
        keys[..., begin:, :], values[..., begin:, :] = k, v
        if last and new > 1:
            x, q, mask, new = x[:, -1:], q[:, :, -part:], None, 1
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        y = block.time.out(y.transpose(1, 2).reshape(batch * windows, new * part, d))
        if new > 1:
            y = y.view(batch, windows, new, part, d).transpose(1, 2)
        x += y.reshape(x.shape)
        x += block.ff_time(x)
        return x
