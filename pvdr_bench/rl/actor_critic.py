"""Actor and critic on frame tokens (paper sec. 4.2, Fig. 8): an ST Transformer over m context grids and one more grid.

The further grid is z* for PVDR and the encoded goal for PPO (reading 26); a protocol without a goal image has none.
Both networks have the same structure; only the last layer differs.

Shapes: B batch, m context frames, h x w token grid, K codebook size, s x s x c the further grid, A action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from pvdr_bench.nets.distributions import DiagonalGaussian
from pvdr_bench.nets.st_transformer import STTransformer

MEAN_GAIN, VALUE_GAIN = 0.01, 1.0  # orthogonal gains of the last layers (CleanRL)
INPUT_STD = 0.1  # of embedded tokens and the further grid, so that the learned positions (0.02) are not drowned


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of one network.

    Attributes:
        grid: side h = w of the token grid.
        codebook_size: K.
        context_frames: m.
        extra_dim: channels c of the further grid; 0: there is none.
        token_dim: width of the learned token embedding (without a ``code_table``).
        readout: mean over all tokens, or ``readout_channels`` per token, flattened.
    """

    grid: int
    codebook_size: int
    context_frames: int
    extra_dim: int
    d_model: int
    heads: int
    ff: int
    depth: int
    window: int
    token_dim: int = 1024
    readout: Literal["mean_pool", "flatten"] = "mean_pool"
    readout_channels: int = 16


def orthogonal_(module: nn.Module) -> None:
    """Orthogonal weights of gain 1 and zero biases in every linear layer of ``module``."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.orthogonal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def standardised(table: Tensor) -> Tensor:
    """A code table [K, n_q] with zero mean and unit variance over the codes, per channel; constant channels become 0.

    Tokenizers differ in the scale of their codes; the networks should not.
    """
    centred = table.float() - table.float().mean(0)
    return centred / centred.std(0, correction=0).clamp_min(1e-6)


class StateNetwork(nn.Module):
    """State -> [B, outputs].

    A state has ``tokens`` (integer [B, m, h, w]) and, unless ``constant_extra`` is given or ``extra_dim`` is 0,
    ``extra`` (float [B, s, s, c], s a divisor of h).

    Args:
        config: sizes.
        outputs: number of outputs.
        gain: orthogonal gain of the last layer.
        code_table: the tokenizer's frozen code embeddings [K, n_q] (see :func:`standardised`), in place of a learned
            table.
        constant_extra: a further grid [s, s, c] that is the same for all states, such as the encoded goal.

    Neither of the last two is part of the weights: both follow from the tokenizer.
    """

    code_table: Tensor | None
    constant_extra: Tensor | None

    def __init__(self, config: NetworkConfig, outputs: int, gain: float, code_table: Tensor | None = None,
                 constant_extra: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.codebook_size, config.token_dim) if code_table is None else None
        token_dim = config.token_dim if code_table is None else code_table.shape[1]
        self.project = nn.Linear(token_dim, config.d_model)
        self.extra = nn.Linear(config.extra_dim, config.d_model) if config.extra_dim else None
        slots = config.context_frames + (self.extra is not None)
        self.body = STTransformer(config.d_model, config.heads, config.ff, config.depth, config.grid, config.window,
                                  slots, causal=False)
        flat = config.readout == "flatten"
        self.channels = nn.Linear(config.d_model, config.readout_channels) if flat else None
        tokens = slots * config.grid**2
        self.head = nn.Linear(tokens * config.readout_channels if flat else config.d_model, outputs)
        orthogonal_(self)
        nn.init.normal_(self.project.weight, std=INPUT_STD * token_dim**-0.5)
        if self.extra is not None:
            nn.init.normal_(self.extra.weight, std=INPUT_STD * config.extra_dim**-0.5)
        nn.init.orthogonal_(self.head.weight, gain)
        self.register_buffer("code_table", code_table, persistent=False)
        self.register_buffer("constant_extra", constant_extra, persistent=False)

    def _extra(self, extra: nn.Linear, grid: Tensor) -> Tensor:
        """Further grids [B, s, s, c] as a slot [B, 1, h, w, d]."""
        factor = self.config.grid // grid.shape[1]
        spread: Tensor = repeat(extra(grid), "b i j d -> b 1 (i p) (j q) d", p=factor, q=factor)
        return spread

    def _embedded(self, tokens: Tensor) -> Tensor:
        if self.embed is not None:
            embedded: Tensor = self.embed(tokens)
            return embedded
        if self.code_table is None:
            raise RuntimeError("a state network has neither a learned nor a given token embedding")
        return F.embedding(tokens, self.code_table)

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        """[B, outputs], float32."""
        tokens = state["tokens"].long()
        frames = self.project(self._embedded(tokens))
        same = None
        if self.extra is not None:  # the further grid comes first, as the prompt does in PVDR's decoder
            if self.constant_extra is not None:
                same = self._extra(self.extra, self.constant_extra[None]).to(frames.dtype)
            else:
                frames = torch.cat([self._extra(self.extra, state["extra"]).to(frames.dtype), frames], 1)
        hidden = self.body(frames, same)
        if self.channels is None:
            features = hidden.mean((1, 2, 3))
        else:
            features = rearrange(self.channels(hidden), "b t h w c -> b (t h w c)")
            # Adam moves every weight alike, so thousands of unit inputs would throw the mean action far at each step
            features = features * hidden[0, ..., 0].numel() ** -0.5
        out: Tensor = self.head(features)
        return out.float()


class Actor(nn.Module):
    """The action module Pi(a | state): a diagonal Gaussian with a state-independent log standard deviation."""

    def __init__(self, config: NetworkConfig, action_dim: int, log_std_init: float, code_table: Tensor | None = None,
                 constant_extra: Tensor | None = None) -> None:
        super().__init__()
        self.net = StateNetwork(config, action_dim, MEAN_GAIN, code_table, constant_extra)
        self.log_std = nn.Parameter(torch.full((action_dim,), float(log_std_init)))

    def forward(self, state: dict[str, Tensor]) -> DiagonalGaussian:
        """The distribution over actions [B, A]."""
        return DiagonalGaussian(self.net(state), self.log_std)


class Critic(nn.Module):
    """The state value [B].

    ``value_scale`` is the unit of the network's output: with minus one per decision returns are tens, which Adam's
    small steps reach only after hundreds of updates.
    """

    def __init__(self, config: NetworkConfig, code_table: Tensor | None = None,
                 constant_extra: Tensor | None = None, value_scale: float = 1.0) -> None:
        super().__init__()
        self.value_scale = value_scale
        self.net = StateNetwork(config, 1, VALUE_GAIN / value_scale, code_table, constant_extra)

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        """Values [B]."""
        value: Tensor = self.value_scale * self.net(state)[:, 0]
        return value
