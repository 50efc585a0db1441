"""What a state-to-go model knows of videos: its reward on true and false transitions, the direction of time; and
whether its embeddings have collapsed.

Shapes: B clips, T transitions, so T + 1 frames, d embedding width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pvdr_bench.algorithms.stg.networks import STGModel, symlog

PIECE = 16  # clips at a time


def auc(positive: Tensor, negative: Tensor) -> float:
    """The probability that a value of ``positive`` [P] is above one of ``negative`` [Q], ties counted half."""
    from scipy.stats import mannwhitneyu  # half a second to import

    ours, theirs = (values.flatten().double().cpu().numpy() for values in (positive, negative))
    # only the statistic is read; "auto" would work out an exact p-value, for minutes where one sample is small
    return float(mannwhitneyu(ours, theirs, method="asymptotic").statistic / (len(ours) * len(theirs)))


def embedded(model: STGModel, clips: Tensor, device: torch.device) -> Tensor:
    """Embeddings [B, T + 1, d] of clips uint8 [B, T + 1, H, W, 3]."""
    return torch.cat([model.encoder(part.to(device)) for part in torch.split(clips, PIECE)])


def predicted(model: STGModel, frames: Tensor, start: Tensor) -> Tensor:
    """Predictions [B, T, d] of the embeddings ``frames[:, 1:]``."""
    before = frames[:, :-1]
    return torch.cat([part + model.steps(part, at) for part, at in zip(
        torch.split(before, PIECE), torch.split(start, PIECE), strict=True)])


def collapse(frames: Tensor) -> dict[str, float]:
    """How much room embeddings [B, T + 1, d] take up.

    embedding_std: mean over units of the standard deviation over frames. embedding_rank: effective rank, exp of the
    entropy of the covariance's spectrum, from 1 to d. embedding_dead: share of units that never move.
    embedding_motion: mean square of a step over the total variance; 2 for frames in random order.
    """
    flat = frames.flatten(0, 1).double()
    variance = flat.var(0, correction=0)
    values = torch.linalg.eigvalsh(torch.cov(flat.T)).clamp_min(0)
    share = values / values.sum().clamp_min(1e-12)
    rank = torch.exp(-(share * share.clamp_min(1e-12).log()).sum())
    motion = (frames[:, 1:] - frames[:, :-1]).double().square().sum(-1).mean() / variance.sum().clamp_min(1e-12)
    return {"embedding_std": float(variance.sqrt().mean()), "embedding_rank": float(rank),
            "embedding_dead": float((variance < 1e-10).double().mean()), "embedding_motion": float(motion)}


def direction_of_time(model: STGModel, frames: Tensor) -> dict[str, float]:
    """The regressor on all pairs of different frames of each clip.

    time_forward: share of pairs whose distance in their order in time is above that in the other order; 0.5 for
    chance, 0 for a constant. time_correlation: of predicted and true symlog distances. time_error: their mean squared
    difference.
    """
    numbers = torch.arange(frames.shape[1], device=frames.device)
    pairs = numbers[None] > numbers[:, None]
    first, second = pairs.nonzero(as_tuple=True)
    earlier, later = frames[:, first], frames[:, second]
    ahead, back = model.distance(earlier, later), model.distance(later, earlier)
    true = symlog((second - first).double()).expand(len(frames), -1)
    guess, wanted = torch.cat([ahead, back], 1).double().flatten(), torch.cat([true, -true], 1).flatten()
    both = torch.stack([guess, wanted])
    correlation = torch.corrcoef(both)[0, 1] if guess.std() > 0 else torch.zeros(())
    return {"time_forward": float((ahead > back).double().mean()), "time_correlation": float(correlation),
            "time_error": float((guess - wanted).square().mean())}


def opinions(model: STGModel, frames: Tensor, start: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """The critic's part of the reward, [B, T] each.

    true: of the clips. shuffled: with the next frame of another moment of any clip in place of the true one.
    same_clip: of another moment of the same clip. reversed: of the clips played backwards.
    """
    before, after, guess = frames[:, :-1], frames[:, 1:], predicted(model, frames, start)
    flat = after.flatten(0, 1)
    anywhere = flat[torch.randperm(len(flat), generator=generator).to(flat.device)].view_as(after)
    order = torch.rand(after.shape[:2], generator=generator).argsort(1).to(flat.device)
    inside = after.gather(1, order[..., None].expand_as(after))
    backwards = frames.flip(1)
    found = {"true": model.reward_terms(before, after, guess)[0],
             "shuffled": model.reward_terms(before, anywhere, guess)[0],
             "same_clip": model.reward_terms(before, inside, guess)[0]}
    return found | {"reversed": model.reward_terms(backwards[:, :-1], backwards[:, 1:],
                                                   predicted(model, backwards, start))[0]}


@torch.no_grad()
def judged(model: STGModel, clips: Tensor, start: Tensor, device: torch.device, seed: int = 0) -> dict[str, Any]:
    """Everything above for clips uint8 [B, T + 1, H, W, 3], the model in evaluation mode.

    prediction_gain: one less the squared error of predicted steps over that of predicting none.
    auc, auc_same_clip, auc_reversed: how often the reward of a true transition is above that of a false one.
    """
    frames, start = embedded(model, clips, device), start.to(device)
    step = frames[:, 1:] - frames[:, :-1]
    error = (predicted(model, frames, start) - frames[:, 1:]).square().mean()
    found = opinions(model, frames, start, torch.Generator().manual_seed(seed))
    areas = {name: auc(found["true"], found[false]) for name, false in (
        ("auc", "shuffled"), ("auc_same_clip", "same_clip"), ("auc_reversed", "reversed"))}
    return {"prediction": float(error), "prediction_gain": float(1 - error / step.square().mean().clamp_min(1e-12)),
            **areas, "opinion_mean": float(found["true"].mean()), "opinion_std": float(found["true"].std()),
            **direction_of_time(model, frames), **collapse(frames)}
