"""The network ``pixels`` of ``bench rivals``: stable-baselines3's convolutions over the frames that our learner keeps.

Shapes: B states, m frames of context, H = W image size, A action dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.ppo.learner import PPOLearner
from pvdr_bench.nets.distributions import DiagonalGaussian
from pvdr_bench.rl.contract import LearnerContext


class Packed:
    """Pictures as a grid of one integer a pixel, so that our learner takes them for tokens."""

    codebook_size, code_dim = 2**24, 3

    def __init__(self, image_size: int) -> None:
        self.grid = image_size

    @staticmethod
    def encode(images: Tensor) -> Tensor:
        """int64 [..., H, W] of uint8 [..., H, W, 3]."""
        red, green, blue = images.long().unbind(-1)
        return (red << 16) | (green << 8) | blue

    @staticmethod
    def embed(codes: Tensor) -> Tensor:
        """Colours float [..., H, W, 3] in [0, 1]."""
        return torch.stack([(codes >> shift) & 255 for shift in (16, 8, 0)], -1).float() / 255


class Convolutions(nn.Module):
    """The network of Mnih et al. (2015), as in stable-baselines3's ``NatureCNN``, and a linear layer."""

    def __init__(self, frames: int, size: int, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        parts: list[nn.Module] = []
        for channels, last, kernel, stride in ((32, 3 * frames, 8, 4), (64, 32, 4, 2), (64, 64, 3, 1)):
            parts += [nn.Conv2d(last, channels, kernel, stride), nn.ReLU()]
        body = nn.Sequential(*parts, nn.Flatten())
        with torch.no_grad():
            width = body(torch.zeros(1, 3 * frames, size, size)).shape[1]
        self.net = nn.Sequential(body, nn.Linear(width, 512), nn.ReLU(), nn.Linear(512, outputs))

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        """[B, outputs] of packed pictures ``tokens`` [B, m, H, W]."""
        pictures = Packed.embed(state["tokens"].long()).permute(0, 1, 4, 2, 3).flatten(1, 2)
        out: Tensor = self.scale * self.net(pictures.contiguous())
        return out


class PixelActor(Convolutions):
    """A diagonal Gaussian over pictures."""

    def __init__(self, frames: int, size: int, actions: int, log_std: float) -> None:
        super().__init__(frames, size, actions)
        self.log_std = nn.Parameter(torch.full((actions,), log_std))

    def forward(self, state: dict[str, Tensor]) -> DiagonalGaussian:  # type: ignore[override]
        """The distribution over actions [B, A]."""
        return DiagonalGaussian(super().forward(state), self.log_std)


class PixelCritic(Convolutions):
    """The value [B] of pictures."""

    def forward(self, state: dict[str, Tensor]) -> Tensor:
        """Values [B]."""
        return super().forward(state)[:, 0]


class PixelPPO(PPOLearner):
    """Our learner with convolutions over pictures."""

    def _networks(self, context: LearnerContext) -> Any:
        config, size, actions = self.config, self.tokenizer.grid, context.task.action.dim
        return (PixelActor(config.context_frames, size, actions, config.log_std_init),
                PixelCritic(config.context_frames, size, 1, config.value_scale))
