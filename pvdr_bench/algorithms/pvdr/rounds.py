"""The arithmetic of a round's buffers: what followed each decision, and Eqs. 3 to 6.

Shapes: T decisions in time, N environments, m context and l future frames, h x w token grid, q code dimension, B clips.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pvdr_bench.algorithms.pvdr.config import PretrainConfig
from pvdr_bench.algorithms.pvdr.context import Shown
from pvdr_bench.algorithms.pvdr.model import DynamicsModel, token_cross_entropy
from pvdr_bench.algorithms.pvdr.planner import GoalDistance
from pvdr_bench.algorithms.pvdr.pretrain import prior_loss, reduce_terms


def episode_ends(ended: Tensor) -> Tensor:
    """For every decision [T, N] the index of the last decision of its episode in the buffer (T - 1 if it goes on)."""
    ends = torch.empty_like(ended, dtype=torch.long)
    running = torch.full_like(ends[0], len(ended) - 1)
    for t in range(len(ended) - 1, -1, -1):
        running = torch.where(ended[t], t, running)
        ends[t] = running
    return ends


def future_frames(codes: Tensor, next_codes: Tensor, ended: Tensor, offsets: list[int]) -> tuple[Tensor, Tensor]:
    """The true frames y_t at ``offsets`` decisions after each one.

    Args:
        codes: [T, N, h, w], the frame that was acted on.
        next_codes: [T, N, h, w], the frame after the decision; read only where an episode ended and at T - 1.
        ended: bool [T, N], terminated or truncated.
        offsets: decisions ahead, at least 1 each.

    Returns:
        future [T, N, l, h, w], where frames after the end repeat the last one (reading 29), and valid bool [T, N]:
        whether the whole future was seen.
    """
    ends, time = episode_ends(ended), torch.arange(len(codes), device=codes.device)[:, None]
    env = torch.arange(codes.shape[1], device=codes.device)[None, :].expand_as(ends)
    frames = []
    for offset in offsets:
        at = time + offset
        inside = codes[at.clamp_max(ends), env]
        frames.append(torch.where((at > ends)[..., None, None], next_codes[ends, env], inside))
    return torch.stack(frames, 2), time + max(offsets) <= ends + 1


def mean_ahead(action: Tensor, count: int) -> Tensor:
    """Mean of the ``count`` actions from each decision on, [T, N, A]; at the end of the buffer, of those there are.

    Only decisions whose future is inside their episode are used (see :func:`future_frames`), so an episode's end
    needs no care here.
    """
    frames = action.unfold(0, count, 1).mean(-1) if len(action) >= count else action[:0]
    rest = [action[t:].mean(0) for t in range(len(frames), len(action))]
    return torch.cat([frames, torch.stack(rest)]) if rest else frames


def decision_of_plan(age: Tensor) -> Tensor:
    """The decision, by its time in the buffer, at which the plan that a decision followed was made.

    ``age`` int64 [T, N] counts decisions since then. What is known of a plan, such as its error against the future that
    was seen from there (Eq. 6), is known at that decision: ``error.gather(0, decision_of_plan(age))``.
    """
    return torch.arange(len(age), device=age.device)[:, None] - age


def reconstruction_loss(model: DynamicsModel, clips: Tensor, noise: Tensor, reduction: str,
                        shown: Shown | None = None) -> Tensor:
    """Eq. 3: -log D(y | x, z ~ E) for clips [B, m + l, h, w]; of the encoder only its head gets a gradient."""
    context, future = model.split(clips)
    with torch.no_grad():
        hidden = model.encoder.hidden(clips)
    z = model.encoder.distribution(hidden).sample(noise)
    return reduce_terms(token_cross_entropy(model.decoder(context, future, z, shown), future), reduction)


def soft_plan_features(model: DynamicsModel, distance: GoalDistance, table: Tensor, context: Tensor,
                       z: Tensor, shown: Shown | None = None) -> Tensor:
    """Expected code embeddings of a decoded plan [B, l, h, w, q], differentiable in z (reading 7). table [K, q]."""
    _, logits = model.decoder.rollout(context, z, shown=shown)
    return distance.soft_features(logits.softmax(-1) @ table)


def prior_finetuning_loss(model: DynamicsModel, distance: GoalDistance, table: Tensor, clips: Tensor, noise: Tensor,
                          lambda2: float, pretrain: PretrainConfig,
                          shown: Shown | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 4: KL(P || sg E) + lambda2 * |yhat - g|, yhat decoded from z ~ P; meant to be minimised over P alone.

    The distance is one between codes, of the planner's ``goal_frames``.

    The KL has the direction and the reduction that it had in pre-training.
    """
    context, _ = model.split(clips)
    prior = model.prior(context)
    with torch.no_grad():
        posterior = model.encoder(clips)
    kl = reduce_terms(prior_loss(prior, posterior, pretrain.prior_kl), pretrain.reduction)
    terms = {"finetune_kl_prior": kl.detach()}
    if not lambda2:
        return kl, terms
    features = soft_plan_features(model, distance, table, context, prior.sample(noise), shown)
    goal = distance.soft_plan(features)
    return kl + lambda2 * goal, terms | {"finetune_goal": goal.detach()}


def plan_error(distance: GoalDistance, plan: Tensor, future: Tensor) -> Tensor:
    """1/l * |y - yhat*| of Eq. 6: mean absolute difference of features over frames, cells and channels, [...].

    plan, future: int64 [..., l, h, w].
    """
    return (distance.features(plan) - distance.features(future)).abs().mean((-4, -3, -2, -1))
