"""Planning-based inference (paper Eq. 2): sample candidates, decode plans, take the one nearest to the goal.

Shapes: B states, N candidates, l plan frames, h x w token grid, q code dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange, repeat
from torch import Tensor

from pvdr_bench.algorithms.pvdr.config import PlannerConfig
from pvdr_bench.algorithms.pvdr.model import DynamicsModel
from pvdr_bench.nets.blur import of_metric

if TYPE_CHECKING:
    from pvdr_bench.tokenizer.frozen import Tokenizer


class GoalDistance:
    """Mean absolute difference to the goal under the planner's metric; the goal is encoded once."""

    def __init__(self, config: PlannerConfig, tokenizer: Tokenizer, goal_codes: Tensor) -> None:
        self.config, self.tokenizer, self.goal_codes = config, tokenizer, goal_codes
        self.goal = self.features(goal_codes)
        self.soft_goal = self.soft_features(tokenizer.embed(goal_codes))

    def features(self, codes: Tensor) -> Tensor:
        """What is compared: codes int64 [..., h, w] -> blurred code embeddings, or pixels in [0, 1]."""
        if self.config.metric == "pixel_l1":
            return self.tokenizer.decode(codes).float() / 255
        return of_metric(self.tokenizer.embed(codes), self.config.metric, self.config.blur)

    def soft_features(self, embedded: Tensor) -> Tensor:
        """What Eq. 4 compares: code embeddings [..., h, w, q], blurred where its own metric is (a pyramid of them
        [..., h, w, L * q])."""
        return of_metric(embedded, self.config.codes_of_goal_term, self.config.blur)

    def of_frame(self, codes: Tensor) -> float:
        """Distance of a frame int64 [h, w] to the goal, as Eqs. 2 and 6 measure it."""
        return float((self.features(codes) - self.goal).abs().mean())

    def soft_of_frame(self, codes: Tensor) -> float:
        """The same, as Eq. 4 measures it."""
        return float((self.soft_features(self.tokenizer.embed(codes)) - self.soft_goal).abs().mean())

    def plan(self, codes: Tensor) -> Tensor:
        """Distance of plans [..., l, h, w] to the goal, averaged over the compared frames: [...]."""
        frames = codes[..., -1:, :, :] if self.config.goal_frames == "last" else codes
        return (self.features(frames) - self.goal).abs().mean((-4, -3, -2, -1))

    def soft_plan(self, features: Tensor) -> Tensor:
        """The same, differentiable and meant over states (scalar), of :meth:`soft_features` [B, l, h, w, q] of plans.

        Between codes under every metric (reading 6 offers pixels for Eqs. 2 and 6 alone).
        """
        frames = features[:, -1:] if self.config.goal_frames == "last" else features
        return (frames - self.soft_goal).abs().mean()


@dataclass
class Plans:
    """The chosen candidate of each state and what it was chosen from."""

    z: Tensor  # [B, s, s, c], as the action module reads it
    codes: Tensor  # int64 [B, l, h, w], the plan
    ends: Tensor  # int64 [B, N, h, w], the last frame of every candidate
    distance: Tensor  # [B, N], of every candidate
    chosen: Tensor  # int64 [B], which candidate that is
    diversity: Tensor  # [B], share of tokens in which a candidate differs from the first one


class Planner:
    """Eq. 2 for a batch of states."""

    def __init__(self, model: DynamicsModel, config: PlannerConfig, distance: GoalDistance) -> None:
        self.model, self.config, self.distance = model, config, distance

    def candidates(self, context: Tensor, generator: torch.Generator) -> Tensor:
        """z [B, N, s, s, c] for contexts [B, m, h, w]."""
        shape = (self.config.candidates, context.shape[0], *self.model.z_shape)
        noise = torch.randn(shape, generator=generator).to(context.device)
        if self.config.z_source == "prior":
            noise = self.model.prior(context).sample(noise)
        z: Tensor = rearrange(noise, "n b i j c -> b n i j c")
        return z

    @torch.no_grad()
    def plan(self, context: Tensor, generator: torch.Generator) -> Plans:
        """Choose z* for contexts int64 [B, m, h, w]."""
        z = self.candidates(context, generator)
        n = z.shape[1]
        shown = self.model.shown_to_plan(context, generator)
        codes = self.model.decoder.plan(repeat(context, "b m h w -> (b n) m h w", n=n), z.flatten(0, 1), shown)
        codes = rearrange(codes, "(b n) l h w -> b n l h w", n=n)
        distance = self.distance.plan(codes)
        best = distance.argmin(1) if self.config.selection == "best" else distance.new_zeros(len(z), dtype=torch.long)
        rows = torch.arange(len(best), device=best.device)
        others = (codes[:, 1:] != codes[:, :1]).float()
        diversity = others.mean((1, 2, 3, 4)) if n > 1 else distance.new_zeros(len(z))
        return Plans(self.star(context, z[rows, best], codes[rows, best]), codes[rows, best], codes[:, :, -1],
                     distance, best, diversity)

    def star(self, context: Tensor, drawn: Tensor, plan: Tensor) -> Tensor:
        """z* [B, s, s, c] of the chosen plan [B, l, h, w], as the action module reads it."""
        if self.config.z_star == "drawn":
            return drawn
        read: Tensor = self.model.encoder(torch.cat([context, plan], 1)).mean
        return read
