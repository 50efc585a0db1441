"""PVDR's visual dynamics model: a conditional VAE over VQGAN tokens (paper sec. 4.1, Figs. 8 and 9).

Shapes: B batch, N candidates, m context and l future frames, h x w token grid, K codebook size, s x s x c is z.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from pvdr_bench.algorithms.pvdr.config import ModelConfig, PVDRConfig
from pvdr_bench.algorithms.pvdr.config_context import PVDRContextConfig
from pvdr_bench.algorithms.pvdr.context import ContextReader, Painter, Seen, Shown
from pvdr_bench.nets.context import ContextNoise
from pvdr_bench.nets.st_transformer import Decoding, LayerCache, STTransformer, window_order

LOGVAR_RANGE = (-10.0, 4.0)
AT_ONCE = 2**19  # numbers of a layer's output that planning on a CPU works on at a time: see Decoder.plan


@dataclass
class Gaussian:
    """A diagonal Gaussian over z; mean and logvar [B, s, s, c]."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised sample for standard normal ``noise`` [..., B, s, s, c]."""
        return self.mean + (0.5 * self.logvar).exp() * noise

    def detach(self) -> Gaussian:
        """Stop-gradient."""
        return Gaussian(self.mean.detach(), self.logvar.detach())

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) per dimension [B, s, s, c], in nats."""
        diff = (self.mean - other.mean) ** 2
        return 0.5 * (other.logvar - self.logvar + (self.logvar.exp() + diff) * (-other.logvar).exp() - 1)

    def kl_normal(self) -> Tensor:
        """KL(self || N(0, I)) per dimension [B, s, s, c], in nats."""
        return 0.5 * (self.logvar.exp() + self.mean**2 - 1 - self.logvar)


class TokenEmbedding(nn.Module):
    """Codes [..., h, w] -> [..., h, w, d]: learned table of width token_dim, projected to d_model."""

    def __init__(self, codebook_size: int, token_dim: int, d_model: int) -> None:
        super().__init__()
        self.table = nn.Embedding(codebook_size, token_dim)
        nn.init.normal_(self.table.weight, std=token_dim**-0.5 if token_dim > d_model else 0.1)
        self.project = nn.Linear(token_dim, d_model)

    def forward(self, codes: Tensor) -> Tensor:
        """codes int64 [..., h, w]."""
        embedded: Tensor = self.project(self.table(codes))
        return embedded


class GaussianHead(nn.Module):
    """Encoder E(z | x, y) or prior P(z | x): an ST Transformer over frames and a linear head (Fig. 8 left)."""

    def __init__(self, config: ModelConfig, codebook_size: int, grid: int, frames: int, depth: int) -> None:
        super().__init__()
        self.readout, self.pool = config.z_readout, grid // config.z_grid
        self.embed = TokenEmbedding(codebook_size, config.token_dim, config.d_model)
        self.body = STTransformer(config.d_model, config.heads, config.ff, depth, grid, config.window, frames,
                                  causal=False)
        self.head = nn.Linear(config.d_model, 2 * config.z_dim)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.init_logvar = config.init_logvar

    def hidden(self, codes: Tensor) -> Tensor:
        """codes int64 [B, T, h, w] -> features [B, s, s, d] that the head reads."""
        y = self.body(self.embed(codes))
        y = y[:, -1] if self.readout == "last" else y.mean(1)
        pooled: Tensor = reduce(y, "b (i p) (j q) d -> b i j d", "mean", p=self.pool, q=self.pool)
        return pooled

    def distribution(self, hidden: Tensor) -> Gaussian:
        """The Gaussian read from features [B, s, s, d]."""
        mean, logvar = self.head(hidden).float().chunk(2, -1)
        return Gaussian(mean, (logvar + self.init_logvar).clamp(*LOGVAR_RANGE))

    def forward(self, codes: Tensor) -> Gaussian:
        """codes int64 [B, T, h, w] -> Gaussian over z."""
        return self.distribution(self.hidden(codes))


class Decoder(nn.Module):
    """D(y | x, z): z as a prompt grid at slot 0, context and decoded frames after it, causal in time (Fig. 8 right).

    The output at the slot of frame k gives the logits of all tokens of frame k + 1 (reading 13). Of a model with a
    context (``reader``) each method wants what is ``shown``; of one without it is None.
    """

    def __init__(self, config: ModelConfig, codebook_size: int, grid: int) -> None:
        super().__init__()
        self.config, self.codebook_size, self.grid = config, codebook_size, grid
        self.embed = TokenEmbedding(codebook_size, config.token_dim, config.d_model)
        self.prompt = nn.Linear(config.z_dim, config.d_model)
        slots = config.context_frames + config.future_frames
        self.body = STTransformer(config.d_model, config.heads, config.ff, config.decoder_depth, grid, config.window,
                                  slots, causal=True)
        self.head = nn.Linear(config.d_model, codebook_size)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.every_slot = nn.Linear(config.z_dim, config.d_model) if config.z_every_slot else None
        self.gate = nn.Linear(config.d_model, 1) if config.copy_gate else None
        self.reader: ContextReader | None = None

    def _look(self, shown: Shown | None) -> Seen | None:
        if (shown is None) != (self.reader is None):
            raise ValueError("a context is shown to a decoder without one, or none to one that has it")
        if shown is None or self.reader is None:
            return None
        seen: Seen = self.reader(shown)
        return seen

    def _spread(self, z: Tensor) -> Tensor:
        factor = self.grid // self.config.z_grid
        spread: Tensor = repeat(z, "b i j c -> b (i p) (j q) c", p=factor, q=factor)
        return spread

    def _frames(self, codes: Tensor, z: Tensor, seen: Seen | None, at: int = 0) -> Tensor:
        x: Tensor = self.embed(codes)
        x = x if seen is None else seen.beside(x, at)
        return x if self.every_slot is None else x + self.every_slot(self._spread(z))[:, None]

    def _logits(self, hidden: Tensor, previous: Tensor) -> Tensor:
        logits: Tensor = self.head(hidden)
        if self.gate is not None:
            logits = logits + self.gate(hidden) * F.one_hot(previous, self.codebook_size).to(logits.dtype)
        return logits.float()

    def forward(self, context: Tensor, future: Tensor, z: Tensor, shown: Shown | None = None) -> Tensor:
        """Teacher forcing: context [B, m, h, w], future [B, l, h, w], z [B, s, s, c] -> logits [B, l, h, w, K]."""
        codes = torch.cat([context, future[:, :-1]], 1)
        slots = torch.cat([self.prompt(self._spread(z))[:, None], self._frames(codes, z, self._look(shown))], 1)
        m = self.config.context_frames
        return self._logits(self.body(slots)[:, m:], codes[:, m - 1:])

    def rollout(self, context: Tensor, z: Tensor, cached: bool = True,
                shown: Shown | None = None) -> tuple[Tensor, Tensor]:
        """Greedy frame-recurrent decoding: context [B, m, h, w], z [B, s, s, c] -> codes [B, l, h, w] and
        logits [B, l, h, w, K]. With ``cached`` keys and values of past slots are kept; the result is the same."""
        seen, count = self._look(shown), self.config.context_frames
        slots = torch.cat([self.prompt(self._spread(z))[:, None], self._frames(context, z, seen)], 1)
        cache: list[LayerCache] | None = None
        previous, codes, all_logits = context[:, -1], [], []
        for number in range(self.config.future_frames):
            if cached:
                hidden, cache = self.body.extend(slots, cache)
            else:
                hidden = self.body(slots)
            logits = self._logits(hidden[:, -1], previous)
            previous = logits.argmax(-1)
            codes.append(previous)
            all_logits.append(logits)
            if number == self.config.future_frames - 1:
                break
            frame = self._frames(previous[:, None], z, seen, count + number)
            slots = frame if cached else torch.cat([slots, frame], 1)
        return torch.stack(codes, 1), torch.stack(all_logits, 1)

    @torch.no_grad()
    def plan(self, context: Tensor, z: Tensor, shown: Shown | None = None) -> Tensor:
        """The codes of :meth:`rollout` [B, l, h, w], for planning: without gradients, and without logits to keep.

        On a CPU many plans are made some at a time: all together would be new memory at every call, which the kernel
        has to clear. Plans do not depend on each other, so they are the same.
        """
        numbers = len(z) * (1 + self.config.context_frames) * self.grid**2 * self.config.d_model
        parts = min(len(z), math.ceil(numbers / AT_ONCE)) if z.device.type == "cpu" and shown is None else 1
        return torch.cat([self._plan(x, drawn, shown) for x, drawn in zip(
            context.tensor_split(parts), z.tensor_split(parts), strict=True)])

    def _plan(self, context: Tensor, z: Tensor, shown: Shown | None) -> Tensor:
        order = window_order(self.grid, self.config.window).to(context.device)
        z = self._spread(z).flatten(1, 2)[:, order]
        frames = self._in_windows(self._look(shown), z, order)
        seen = context.flatten(2)[:, :, order]
        slots = torch.cat([self.prompt(z)[:, None], frames(seen, 0)], 1)
        decoding, previous, codes = Decoding(self.body), seen[:, -1], []
        for number in range(self.config.future_frames):
            hidden = decoding.newest(slots)
            logits = self.head(hidden)
            if self.gate is not None:
                logits.scatter_add_(-1, previous[..., None], self.gate(hidden))
            previous = logits.argmax(-1)
            codes.append(previous)
            if number < self.config.future_frames - 1:
                slots = frames(previous[:, None], self.config.context_frames + number)
        return torch.stack(codes, 1)[:, :, order.argsort()].view(len(z), -1, self.grid, self.grid)

    def _in_windows(self, seen: Seen | None, z: Tensor, order: Tensor) -> Callable[[Tensor, int], Tensor]:
        """:meth:`_frames` of codes [B, T, h * w] and z [B, h * w, c] in window order, the first one number ``at``."""
        added = 0.0 if self.every_slot is None else self.every_slot(z)[:, None]
        table = self.embed.project(self.embed.table.weight)  # of all codes: a plan reads far more than there are
        back = order.argsort()

        def frames(codes: Tensor, at: int) -> Tensor:
            x = F.embedding(codes, table)
            if seen is not None:
                grids = rearrange(x[:, :, back], "b t (h w) d -> b t h w d", h=self.grid)
                x = seen.beside(grids, at).flatten(2, 3)[:, :, order]
            return x + added

        return frames


class DynamicsModel(nn.Module):
    """Encoder, prior and decoder together."""

    def __init__(self, config: ModelConfig, codebook_size: int, grid: int) -> None:
        super().__init__()
        config.check_grid(grid)
        m, total = config.context_frames, config.context_frames + config.future_frames
        self.config, self.grid = config, grid
        self.encoder = GaussianHead(config, codebook_size, grid, total, config.encoder_depth)
        self.prior = GaussianHead(config, codebook_size, grid, m, config.prior_depth)
        self.decoder = Decoder(config, codebook_size, grid)

    @property
    def z_shape(self) -> tuple[int, int, int]:
        """(s, s, c)."""
        return self.config.z_grid, self.config.z_grid, self.config.z_dim

    def split(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Clips [B, m + l, h, w] -> context [B, m, h, w], future [B, l, h, w]."""
        m = self.config.context_frames
        return clips[:, :m], clips[:, m:]

    def context_noise(self, count: int, generator: torch.Generator, learning: bool = True) -> ContextNoise | None:
        """The random numbers of the contexts of ``count`` clips, or of states to plan in; none without a context."""
        reader = self.decoder.reader
        return None if reader is None else reader.draw(count, generator, learning)

    def shown_of_clips(self, clips: Tensor, noise: ContextNoise | None, online: bool = False) -> Shown | None:
        """What the decoder is shown beside clips [B, m + l, h, w] that it learns from."""
        reader = self.decoder.reader
        return None if reader is None or noise is None else reader.of_clips(clips, noise, online)

    def shown_in(self, context: Tensor, noise: ContextNoise | None) -> Shown | None:
        """What the decoder is shown in states x [B, m, h, w] whose future is not known."""
        reader = self.decoder.reader
        return None if reader is None or noise is None else reader.of_states(context, noise)

    def shown_to_plan(self, context: Tensor, generator: torch.Generator) -> Shown | None:
        """The same, with noise of its own."""
        return self.shown_in(context, self.context_noise(len(context), generator, learning=False))


def dynamics_model(config: PVDRConfig, codebook_size: int, grid: int, painter: Painter | None) -> DynamicsModel:
    """The model of a config, of random weights from torch's global generator; those of a context come last.

    Args:
        painter: the frozen tokenizer, which a context is painted by.
    """
    model = DynamicsModel(config.model, codebook_size, grid)
    if isinstance(config, PVDRContextConfig):
        if painter is None:
            raise ValueError("a context needs the tokenizer's pictures")
        model.decoder.reader = ContextReader(config, painter)
    return model


def token_cross_entropy(logits: Tensor, future: Tensor) -> Tensor:
    """-log D per token, [B, l, h, w], in nats; logits [B, l, h, w, K], future int64 [B, l, h, w]."""
    flat = rearrange(logits, "b l h w k -> (b l h w) k")
    return F.cross_entropy(flat, future.flatten(), reduction="none").view(future.shape)
