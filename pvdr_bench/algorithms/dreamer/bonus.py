"""APV's video-based intrinsic bonus (arXiv 2203.13880, section 3.3, as its code has it).

Shapes: B sequences, T steps, W = T - tau + 1 forward windows of tau steps, F feature width, P projection, Q queue.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvdr_bench.algorithms.dreamer.config import BonusConfig


class VideoBonus(nn.Module):
    """Distance of a window's mean feature to its neighbours among recent windows, over a running scale.

    Projection, queue, its filling and the scale are buffers: they belong to a checkpoint.
    """

    projection: Tensor
    queue: Tensor
    filled: Tensor
    scale: Tensor

    def __init__(self, config: BonusConfig, feature_dim: int) -> None:
        super().__init__()
        self.config = config
        # N(0, (1/P)^2), P the projection's width
        self.register_buffer("projection", torch.randn(feature_dim, config.projection) / config.projection)
        self.register_buffer("queue", torch.zeros(config.queue, config.projection))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def forward(self, feature: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bonuses of features [B, T, F] with the starts of episodes [B, T]. Changes queue and scale.

        Returns:
            bonuses [B, W]; which windows [B, W] have one: those that lie in one episode, and, where the others are
            cut, these too. The rest have none (zero) and do not enter the queue; the mean bonus before scaling.
        """
        config = self.config
        whole = ~is_first.unfold(1, config.window, 1)[..., 1:].any(-1)  # an episode may start with a window
        means = feature.float().unfold(1, config.window, 1).mean(-1)  # [B, W, F]
        if config.at_end == "cut" and not whole.all():
            means, whole = cut_means(feature.float(), is_first, config.window), torch.ones_like(whole)
        with torch.autocast(feature.device.type, enabled=False):  # half precision would lose the small distances
            points = means[whole] @ self.projection
        self._push(points)
        found = neighbour_distance(points, self.queue[:int(self.filled)], config.neighbours, config.distance)
        if len(found):
            self.scale.mul_(config.momentum).add_((1 - config.momentum) * found.mean())
        bonus = torch.zeros(whole.shape, device=found.device)
        bonus[whole] = found / (self.scale + 1e-8)
        return bonus, whole, found.sum() / max(len(found), 1)

    def _push(self, points: Tensor) -> None:
        """Put points [M, P] in front; the oldest fall out."""
        size = len(self.queue)
        kept = torch.cat([points, self.queue[:int(self.filled)]])[:size]
        self.queue[:len(kept)] = kept
        self.filled.fill_(len(kept))


def cut_means(feature: Tensor, is_first: Tensor, window: int) -> Tensor:
    """Means [B, W, F] of features [B, T, F] over the steps of each window before the next start of an episode."""
    later = is_first.unfold(1, window, 1)[..., 1:].cumsum(-1) == 0  # [B, W, tau - 1], in the episode of its first step
    inside = torch.cat([torch.ones_like(later[..., :1]), later], -1)[:, :, None].float()
    return (feature.unfold(1, window, 1) * inside).sum(-1) / inside.sum(-1)


def neighbour_distance(points: Tensor, among: Tensor, neighbours: int, form: str) -> Tensor:
    """Mean distance [M] of points [M, P] to their k nearest ``among`` [Q, P], or (``kth``) to the k-th.

    Where fewer than k are there, all of them are taken.
    """
    # Without matrix products: those lose the small distances, and a point's distance to itself would not be zero.
    distances = torch.cdist(points, among, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.topk(min(neighbours, len(among)), largest=False, sorted=True).values
    return nearest.mean(-1) if form == "mean" else nearest[:, -1]
