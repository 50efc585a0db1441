"""The networks of STG: encoder, causal transformer, critic of transitions, regressor of temporal distance.

Shapes: B clips, T frames, H = W image size, d embedding width, h heads, L context.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from pvdr_bench.algorithms.stg.config import ModelConfig
from pvdr_bench.nets.conv import preprocess
from pvdr_bench.tokenizer.shared import RowDropout, SharedBatchNorm

CONV_GAIN = 2**0.5


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse of :func:`symlog`: sign(x) (exp|x| - 1)."""
    return x.sign() * x.abs().expm1()


class Encoder(nn.Module):
    """The convolutions of Nature-DQN and one dense layer, in one of two forms."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.size, atari = config.input_size, config.cnn_form == "atari"
        channels, layers = (3, *config.cnn_channels), list[nn.Module]()
        for (inputs, outputs), kernel, stride in zip(pairwise(channels), config.cnn_kernels, config.cnn_strides,
                                                     strict=True):
            conv = nn.Conv2d(inputs, outputs, kernel, stride, bias=atari)  # a norm behind it takes every bias out
            nn.init.orthogonal_(conv.weight, CONV_GAIN)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            layers += [conv, nn.ReLU()] if atari else [conv, SharedBatchNorm(outputs, running=True), nn.LeakyReLU(0.01)]
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Linear(channels[-1] * config.map_size**2, config.width)
        self.last = nn.ReLU() if atari else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [..., H, W, 3] -> [..., d]."""
        flat = preprocess(images.flatten(0, -4), self.size) + 0.5
        features = self.last(self.dense(self.convolutions(flat).flatten(1)))
        out: Tensor = features.unflatten(0, images.shape[:-3])
        return out


class Block(nn.Module):
    """Causal self-attention and a feed-forward part of four times the width, each behind a layer norm (GPT)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.project = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.attention_dropout, self.dropout1, self.dropout2 = (RowDropout(config.dropout) for _ in range(3))
        self.expand, self.contract = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] -> the same."""
        x = x + self.dropout1(self.project(self._attend(self.norm1(x))))
        out: Tensor = x + self.dropout2(self.contract(F.gelu(self.expand(self.norm2(x)))))
        return out

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
        weights = self.attention_dropout(scores.masked_fill(future, -torch.inf).softmax(-1))
        out: Tensor = (weights @ v).transpose(1, 2).flatten(2)
        return out


class Critic(nn.Module):
    """D(e, e'): how real a transition looks; high for real ones. Spectral norm on all layers but the first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = [2 * config.width, *config.critic_widths, 1]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.norm_first = config.critic_norm_first

    def normalise(self) -> None:
        """Put the spectral norms on, after the weights have their first values."""
        for layer in self.layers[0 if self.norm_first else 1:]:
            spectral_norm(layer)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """[..., d], [..., d] -> [...]."""
        x = torch.cat([before, after], -1)
        for i, layer in enumerate(self.layers):
            x = layer(x if i == 0 else F.gelu(x))
        return x.squeeze(-1)


class TemporalDistance(nn.Module):
    """symlog of the frames from one embedding to another, from their difference.

    The released one has a self-attention in front whose gate starts at zero and is in no optimiser: it is this.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width, width, width // 2, width // 4, 1]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """[..., d], [..., d] -> [...]."""
        x = after - before
        for i, layer in enumerate(self.layers):
            x = layer(x if i == 0 else x.relu())
        return x.squeeze(-1)


class STGModel(nn.Module):
    """All of STG.

    ``critic_std`` is the standard deviation of D(e, e') - D(e, eh) on the videos: the unit of its reward.
    """

    critic_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.local_positions = nn.Parameter(torch.zeros(config.context, config.width))
        self.global_positions = nn.Parameter(torch.zeros(config.max_timestep, config.width))
        self.dropout = RowDropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm, self.step = nn.LayerNorm(config.width), nn.Linear(config.width, config.width)
        self.critic, self.distance = Critic(config), TemporalDistance(config.width)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                if not name.startswith("critic.layers.") or name == "critic.layers.0":  # the released loop misses them
                    nn.init.normal_(module.weight, std=config.init_std)
                nn.init.zeros_(module.bias)
        self.critic.normalise()
        self.register_buffer("critic_std", torch.ones(()))

    def generator_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Everything but the critic, by name."""
        yield from ((name, module) for name, module in self.named_children() if name != "critic")

    def steps(self, embeddings: Tensor, start: Tensor) -> Tensor:
        """The predicted steps to the next embeddings.

        Args:
            embeddings: [B, T, d], T at most L.
            start: int64 [B], the number of each clip's first frame in its episode.

        Returns:
            [B, T, d]: the next embedding is predicted as ``embeddings`` plus this.
        """
        positions = self.local_positions[: embeddings.shape[1]]
        when = self.global_positions[start.clamp_max(self.config.max_timestep - 1)]
        x = self.dropout(embeddings + positions + when[:, None])
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.step(self.norm(x))
        return out

    def reward_terms(self, before: Tensor, after: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of the intrinsic reward of transitions, unscaled.

        Args:
            before, after, predicted: embeddings [..., d] of a frame, of the next one, and the prediction of it.

        Returns:
            D(e, e') - D(e, eh), and symexp of the temporal distance from e to eh, in frames; each [...].
        """
        opinion = self.critic(before, after) - self.critic(before, predicted)
        return opinion, symexp(self.distance(before, predicted))
