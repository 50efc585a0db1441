"""PVDR's z beside its actions (paper Fig. 6), in two moments of an episode and in videos.

Shapes: m context and l future frames, h x w token grid, s x s x c the shape of z, n samples, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvdr_bench.algorithms.pvdr.config import PlannerConfig
from pvdr_bench.algorithms.pvdr.futures import PIECE, learner_of, model_of, windows
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.algorithms.pvdr.planner import Planner
from pvdr_bench.rl.views import Cloud, Exhibits, NothingToShow, Panel, Played, Trained, spread_out


@torch.no_grad()
def read_actions(learner: PVDRLearner, context: Tensor, samples: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """z [n, s * s * c] of one context [1, m, h, w], drawn and read as the planner's, and what the action module reads
    them as: actions [n, A] in [-1, 1], sampled (the paper's a ~ Pi) and mean."""
    generator = torch.Generator().manual_seed(seed)
    planner = Planner(learner.model, learner.planner.config.model_copy(update={"candidates": samples}),
                      learner.distance)
    drawn = planner.candidates(context, generator)[0]
    shown = learner.model.shown_to_plan(context, generator)
    kept: list[Tensor] = []
    ways: dict[str, list[Tensor]] = {"sampled": [], "mean": []}
    for part in torch.split(drawn, PIECE):
        tokens = context.expand(len(part), *context.shape[1:])
        plan = learner.model.decoder.plan(tokens, part, shown)
        z = planner.star(tokens, part, plan)
        policy = learner.policy(tokens, z, plan)
        kept.append(z.flatten(1))
        ways["sampled"].append(policy.sample(generator).clamp(-1, 1))
        ways["mean"].append(policy.mean.clamp(-1, 1))
    return torch.cat(kept), {name: torch.cat(parts) for name, parts in ways.items()}


def words_of_z(config: PlannerConfig) -> str:
    """What :func:`read_actions` shows, for captions."""
    prior = config.z_source == "prior"
    if config.z_star == "read_back":
        source = "its prior" if prior else "N(0, I)"
        return f"z, means of the encoder for one observation and plans decoded from {source}"
    return "z from the prior of one observation" if prior else "z from N(0, I), whatever the observation"


@torch.no_grad()
def alignment(learner: PVDRLearner, played: Played) -> dict[str, float]:
    """How well the mean action for z of what came true says which actions led there, in an episode.

    Returns:
        aligned_r2: share of the variance of the actions that L_act is given which the action module's mean explains, 1
        at best; below 0 where it is worse than one constant action. aligned_cosine: mean cosine of the two;
        constant_cosine: that of the episode's mean action, which knows nothing of z.
    """
    now, clips = windows(played, learner.model)
    ahead = learner.config.lact_decisions
    kept = now[now + ahead <= len(played.actions)]
    action = np.stack([played.actions[t:t + ahead].mean(0) for t in kept]).astype(np.float64)
    codes = learner.tokenizer.encode(torch.from_numpy(clips[:len(kept)]))
    m, said = learner.model.config.context_frames, []
    for part in torch.split(codes, PIECE):
        z = learner.model.encoder(part).mean
        said.append(learner.policy(part[:, :m], z, part[:, m:]).mean.clamp(-1, 1))
    guess = torch.cat(said).cpu().numpy().astype(np.float64)
    error, variance = np.square(guess - action).sum(), np.square(action - action.mean(0)).sum()
    return {"aligned_r2": float(1 - error / max(variance, 1e-12)), "aligned_cosine": _cosine(guess, action),
            "constant_cosine": _cosine(np.broadcast_to(action.mean(0), action.shape), action)}


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mean cosine of the rows of two arrays [B, A]."""
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / np.maximum(length, 1e-12)).mean())


def latents(played: Played) -> Exhibits:
    """z as the planner has them in two moments, coloured by the actions they are read as (Fig. 6); above, the learner
    as it is, below it as it started."""
    learner, start = learner_of(played), played.start()
    assert isinstance(start, PVDRLearner)
    moments = spread_out(len(played.extras), 2)
    numbers = {"samples": played.amounts.samples, "decisions": moments,
               **alignment(learner, played),
               **{f"{name}_at_start": value for name, value in alignment(start, played).items()}}
    about = (f"{played.amounts.samples:,} visual dynamics representations {words_of_z(learner.planner.config)}, mapped "
             "to the plane by t-SNE; the colour is the action that the action module reads z as.")
    panels = [*_panels(learner, played, moments, f"after {played.env_steps:,} env_steps"),
              *_panels(start, played, moments, "before online learning")]
    yield "latents", Cloud("Representations and actions", about, numbers, tuple(panels), len(moments))


def _panels(learner: PVDRLearner, played: Played, moments: Iterable[int], when: str) -> Iterator[Panel]:
    for t in moments:
        z, actions = read_actions(learner, played.extras[t]["tokens"].long(), played.amounts.samples,
                                  played.amounts.seed)
        yield Panel(f"decision {t}, {when}", z.cpu().numpy(), _arrays(actions), played.images[t])


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: x.cpu().float().numpy() for name, x in tensors.items()}


@torch.no_grad()
def artefact_latents(trained: Trained) -> Exhibits:
    """z of held-out clips (means of the encoder), coloured by the true actions between their frames.

    No action was ever learned from.

    Raises:
        NothingToShow: the corpus does not tell its actions.
    """
    model, tokenizer, config = model_of(trained), trained.inputs["tokenize"], trained.config.model
    clips = trained.clips(trained.amounts.samples, config.context_frames + config.future_frames, config.frame_stride)
    if clips.action is None:
        raise NothingToShow("nobody knows the actions in these videos, or those of two corpora are unlike, so z has "
                            "nothing to be coloured by", hint="--videos of a corpus generated here keeps its actions")
    parts = [model.encoder(tokenizer.encode(torch.from_numpy(part))).mean.flatten(1)
             for part in np.array_split(clips.frames, max(1, len(clips.frames) // PIECE))]
    action = clips.action[:, config.context_frames - 1]
    about = (f"z of {len(clips.frames):,} held-out clips (means of the encoder), mapped to the plane by t-SNE; the "
             "colour is the mean true action from the last context frame to the next, which the model never saw.")
    panel = Panel("held-out clips of its corpus", torch.cat(parts).cpu().numpy(), {"true": action},
                  group=clips.episode)
    yield "latents", Cloud("Representations of videos and the actions in them", about,
                           {"samples": len(clips.frames), "episodes": len(np.unique(clips.episode))}, (panel,), 1)
