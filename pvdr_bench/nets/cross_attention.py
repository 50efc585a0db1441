"""Cross-attention of feature maps to a masked context map (ContextWM, arXiv 2305.18499, section 4.2).

Shapes: N maps, C channels, P = h * w positions, K kept positions, A heads.
All randomness comes in as numbers drawn outside, so that a run continues with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WEIGHTS_AT_ONCE = 1 << 20  # on a CPU


@dataclass(frozen=True)
class AttentionNoise:
    """The random numbers of one attention.

    Attributes:
        order: uniform [N, P]; the context's positions with the K smallest are kept.
        weights: bool [N, A, P, K], attention weights that dropout takes away; None: none of them.
        output: bool [N, P, C], outputs that dropout takes away; None: none of them.
    """

    order: Tensor
    weights: Tensor | None = None
    output: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> AttentionNoise:
        """Each tensor through a function of rows."""
        parts = (self.order, self.weights, self.output)
        return AttentionNoise(*(None if part is None else function(part) for part in parts))  # type: ignore[arg-type]


class MaskedCrossAttention(nn.Module):
    """``relu(x + norm(attention(x, some positions of the context)))``, or without the ``relu``.

    Queries and keys get learned positions, which start at zero and exist from the start: an optimiser built before a
    first pass has them too.

    Args:
        channels: C, of both maps. side: h = w, of both.
        mask: share of the context's positions that is not seen, in evaluation too.
        dropout: of attention weights and of outputs, where the noise says which.
        norm: makes a normalisation of C channels.
        rectified: whether the sum goes through a ``relu``; where x is a transformer's residual stream it does not.

    Raises:
        ValueError: the heads do not divide the channels.
    """

    def __init__(self, channels: int, side: int, heads: int, mask: float, dropout: float,
                 norm: Callable[[int], nn.Module], rectified: bool = True) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels")
        self.heads, self.dropout, self.side, self.channels = heads, dropout, side, channels
        self.rectified = rectified
        self.kept = int(side * side * (1 - mask))
        self.query_positions, self.key_positions = (nn.Parameter(torch.zeros(side * side, channels)) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))
        self.norm = norm(channels)

    def draw(self, count: int, generator: torch.Generator, dropout: bool = True) -> AttentionNoise:
        """Noise of ``count`` maps, with dropout's or without."""
        positions = self.side * self.side

        def dropped(*shape: int) -> Tensor:
            uniform = torch.rand(count, *shape, generator=generator, device=generator.device)
            return uniform < self.dropout

        order = torch.rand(count, positions, generator=generator, device=generator.device)
        if not self.dropout or not dropout:
            return AttentionNoise(order)
        return AttentionNoise(order, dropped(self.heads, positions, self.kept), dropped(positions, self.channels))

    def forward(self, x: Tensor, context: Tensor, noise: AttentionNoise) -> Tensor:
        """[N, C, h, w] -> [N, C, h, w]; without a kept position x itself. In evaluation nothing is dropped out.

        Args:
            context: [M, C, h, w], where M divides N: each is the context of N / M maps in a row.
        """
        if not self.kept:
            return x
        keys = (context.flatten(2).transpose(1, 2) + self.key_positions)[:, None]  # [M, 1, P, C]
        chosen = noise.order.argsort(1)[:, :self.kept].reshape(len(context), -1, self.kept, 1)  # [M, N / M, K, 1]
        keys = keys.expand(-1, chosen.shape[1], -1, -1).gather(2, chosen.expand(-1, -1, -1, self.channels))
        keys = keys.flatten(0, 1)
        queries = x.flatten(2).transpose(1, 2) + self.query_positions
        out = self._attend(queries, keys, noise.weights)
        out = self._scaled(self._without(out, noise.output), noise.output)
        out = x + self.norm(out.transpose(1, 2).reshape(x.shape))
        return torch.relu(out) if self.rectified else out

    def _attend(self, queries: Tensor, keys: Tensor, dropped: Tensor | None) -> Tensor:
        """Scaled dot-product attention with A heads: [N, P, C], [N, K, C] -> [N, P, C]."""
        query, key, value = (net(inputs).unflatten(-1, (self.heads, -1)).transpose(1, 2) for net, inputs in (
            (self.query, queries), (self.key, keys), (self.value, keys)))
        query = query / query.shape[-1] ** 0.5  # scales are applied to the small tensors
        mixed = torch.cat([
            self._without((query[rows] @ key[rows].transpose(-1, -2)).softmax(-1), None if dropped is None
                          else dropped[rows]) @ value[rows] for rows in self._parts(query)])
        out: Tensor = self.out(self._scaled(mixed, dropped).transpose(1, 2).flatten(2))
        return out

    def _parts(self, query: Tensor) -> list[slice]:
        """Maps [N, A, P, d] whose weights, the largest tensors there are, are made at one time.

        On a CPU those of all would be new memory at every call; those of a few stay in its cache.
        """
        weights = query.shape[1] * query.shape[2] * self.kept  # of one map
        count = max(1, WEIGHTS_AT_ONCE // weights) if query.device.type == "cpu" else len(query)
        return [slice(at, at + count) for at in range(0, len(query), count)]

    def _without(self, x: Tensor, dropped: Tensor | None) -> Tensor:
        return x if dropped is None or not self.training else torch.where(dropped, x.new_zeros(()), x)

    def _scaled(self, x: Tensor, dropped: Tensor | None) -> Tensor:
        return x if dropped is None or not self.training else x / (1 - self.dropout)
