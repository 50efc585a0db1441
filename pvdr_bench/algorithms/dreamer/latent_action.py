"""Latent actions of PreLAR (ECCV 2024): what drives the RSSM between two frames of a video, read off those frames.

Shapes: B clips, T frames, S = image size, E embedding width, A = ``action_width``. The latent action at index t led to
the frame at index t, as real ones do; at a clip's first frame it is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.dreamer.config import ModelConfig
from pvdr_bench.nets.conv import MLP
from pvdr_bench.nets.resnet import ResNetEncoder


def gaussian_kl(mean: Tensor, std: Tensor, other_mean: Tensor | float, other_std: Tensor | float) -> Tensor:
    """KL(N(mean, std^2) || N(other_mean, other_std^2)) in nats, summed over the last dimension; [...]."""
    ratio = std / other_std
    return (0.5 * (ratio.square() + ((mean - other_mean) / other_std).square() - 1) - ratio.log()).sum(-1)


@dataclass(frozen=True)
class LatentActions:
    """Latent actions of clips.

    Attributes:
        action: [B, T, A], zero at the first frame; [B, T, 0] where there is none.
        mean, std: [B, T - 1, A], of what they were drawn from, from the second frame on; None: not drawn from frames.
    """

    action: Tensor
    mean: Tensor | None = None
    std: Tensor | None = None

    def kl(self, prior_std: float) -> Tensor:
        """KL to the prior N(0, prior_std^2) in nats, the mean over all transitions; zero without a distribution."""
        if self.mean is None or self.std is None:
            return self.action.new_zeros(())
        return gaussian_kl(self.mean, self.std, 0.0, prior_std).mean()


def starting_with_none(action: Tensor) -> Tensor:
    """[B, T - 1, A], each of the step into the next frame -> [B, T, A], with zeros for the first frame."""
    return torch.cat([torch.zeros_like(action[:, :1]), action], 1)


class ImplicitAction(nn.Module):
    """Two neighbouring frames -> the latent action between them.

    ``frames``: both pictures, six channels, through a residual encoder of its own and a dense layer. ``embeddings``:
    those of the world model's encoder through the dense layer alone.
    """

    def __init__(self, config: ModelConfig, pictures: ResNetEncoder | None, embed_dim: int) -> None:
        super().__init__()
        self.gaussian = config.latent_action.kind == "gaussian"
        self.pictures = pictures
        width = 2 * embed_dim if pictures is None else pictures.embed_dim
        self.dense = MLP(width, config.action_width * (2 if self.gaussian else 1), 1, config.latent_action.units)

    def forward(self, image: Tensor, embed: Tensor, normal: Tensor) -> LatentActions:
        """Of images [B, T, 3, S, S] with embeddings [B, T, E]; normal: standard normal numbers [B, T - 1, A]."""
        if self.pictures is None:
            pairs = torch.cat([embed[:, :-1], embed[:, 1:]], -1)
        else:
            both = torch.cat([image[:, :-1], image[:, 1:]], 2)
            planes = both.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            pairs = self.pictures(planes).unflatten(0, both.shape[:2])
        out = self.dense(pairs).float()
        if not self.gaussian:
            return LatentActions(starting_with_none(out))
        mean, raw = out.chunk(2, -1)
        std = 2 * torch.sigmoid(raw / 2)
        return LatentActions(starting_with_none(mean + std * normal), mean, std)
