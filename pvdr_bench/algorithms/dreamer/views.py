"""What a Dreamer can show: open-loop roll-outs beside the truth, in an episode and on held-out videos.

Shapes: B clips, T frames of them, H = W image size, S = the model's, A action dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvdr_bench.algorithms.dreamer.learner import DreamerLearner
from pvdr_bench.algorithms.dreamer.video_model import VideoModel
from pvdr_bench.algorithms.dreamer.world_model import WorldModel
from pvdr_bench.nets.conv import preprocess
from pvdr_bench.nets.rssm import RSSM, State
from pvdr_bench.rl.views import (
    Exhibits,
    Frames,
    NothingToShow,
    Played,
    Row,
    Strips,
    Trained,
    View,
    Views,
    difference,
    fill,
    psnr,
    spread_out,
)

SEEN, AHEAD = 5, 15  # frames that are filtered, and steps that are imagined after them
SHOWN = (-4, -2, 0, 1, 3, 5, 8, 10, 15)  # of a clip's frames, from the last that was seen on
MEASURED = 32  # clips that numbers are of
GAIN = 2.0


def as_frames(images: Tensor) -> Frames:
    """Images [..., 3, S, S] in [-0.5, 0.5] as uint8 [..., S, S, 3]."""
    drawn: Frames = ((images.float() + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()
    return drawn


@torch.no_grad()
def rolled_out(model: WorldModel, image: Tensor, action: Tensor, seen: int, generator: torch.Generator) -> Tensor:
    """Images drawn [B, T, 3, S, S]: the first ``seen`` from states that saw them, the others from imagined ones.

    Args:
        image: uint8 [B, T, H, W, 3]. action: [B, T, A], the one that led to each image; the first is not read.
    """
    count, length = image.shape[:2]
    latents = model.config.model.stoch

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, count, latents, generator=generator).to(image.device)

    states, features = model.initial(count, image.device), []
    for t in range(seen):
        first = torch.full((count,), t == 0, device=image.device)
        states = model.step(states, image[:, t], action[:, t] * (t > 0), first, uniform(2))
        features.append(RSSM.feature(states["rssm"]))
    state: State = states["rssm"]
    for t in range(seen, length):
        state = model.imagine(state, action[:, t], uniform())
        features.append(RSSM.feature(state))
    return _drawn(model, torch.stack(features, 1), preprocess(image[:, :seen], model.settings.input_size), generator)


def _drawn(model: WorldModel | VideoModel, feature: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
    """Images [B, T, 3, S, S] of features [B, T, F]; a context is one of the frames that were ``seen``."""
    noise = model.context_noise(len(feature), feature.shape[1], generator)
    noise = None if noise is None else noise.map(lambda x: x.to(feature.device))
    return model.draw(feature, seen, noise).view(*feature.shape[:2], *seen.shape[2:])


def strips_of(true: Frames, ways: dict[str, Frames], seen: int, cases: int, where: str, under: str = "") -> Strips:
    """Rows of true frames [B, T, S, S, 3], of each way of drawing them, and of the first way's differences.

    ``where`` and ``under`` are words for the caption: of what, and under which actions it is imagined.

    Numbers: PSNR in dB of the frames that were seen, of those that were not, by step, and of copying the last seen one.
    """
    length, first = true.shape[1], next(iter(ways))
    numbers: dict[str, Any] = {"clips": len(true), "seen": seen,
                               "psnr_seen": psnr(ways[first][:, :seen], true[:, :seen])}
    for name, drawn in ways.items():
        numbers[f"psnr_{name.replace(' ', '_')}"] = psnr(drawn[:, seen:], true[:, seen:])
    numbers["psnr_copy_last"] = psnr(np.broadcast_to(true[:, seen - 1:seen], true[:, seen:].shape), true[:, seen:])
    numbers["psnr_by_step"] = [psnr(ways[first][:, t], true[:, t]) for t in range(seen, length)]
    places = [seen - 1 + step for step in SHOWN if 0 <= seen - 1 + step < length]
    rows = []
    for case in range(min(cases, len(true))):
        rows.append(Row("true", tuple(true[case, places]), apart=case > 0))
        rows += [Row(name, tuple(drawn[case, places])) for name, drawn in ways.items()]
        away = difference(ways[first][case, places], true[case, places], GAIN)
        rows.append(Row(f"difference x {GAIN:g}", tuple(away)))
    about = (f"What the world model draws {where}: up to now from states that saw the frames, after it from states "
             f"that were imagined without seeing any{under}. Columns are steps from now.")
    columns = tuple("now" if place == seen - 1 else f"{place - seen + 1:+d}" for place in places)
    return Strips("Open-loop roll-outs", about, numbers, columns, tuple(rows))


def run_rollouts(played: Played) -> Exhibits:
    """Roll-outs along an evaluation episode, imagined under the actions that were taken.

    Raises:
        NothingToShow: the episode is too short to see anything and then imagine.
    """
    learner, decisions = played.learner, len(played.actions)
    assert isinstance(learner, DreamerLearner)
    if decisions <= SEEN:
        raise NothingToShow(f"an episode of {decisions} decisions is too short: {SEEN} frames are seen before others",
                            hint="a run of longer episodes shows roll-outs")
    length = min(SEEN + AHEAD, decisions + 1)
    starts = spread_out(decisions + 2 - length, MEASURED)
    first = [starts[place] for place in spread_out(len(starts), played.amounts.cases)]
    index = np.array([*first, *(start for start in starts if start not in first)])[:, None] + np.arange(length)
    image = torch.from_numpy(played.images[index]).to(learner.device)
    led = np.concatenate([np.zeros_like(played.actions[:1]), played.actions])[index]  # to each image
    drawn = rolled_out(learner.model, image, torch.from_numpy(led).to(learner.device), SEEN,
                       torch.Generator().manual_seed(played.amounts.seed))
    true = as_frames(preprocess(image, learner.config.model.input_size))
    yield "rollouts", strips_of(true, {"open loop": as_frames(drawn)}, SEEN, played.amounts.cases,
                                "along an evaluation episode, under the actions that were taken")


@torch.no_grad()
def artefact_futures(trained: Trained) -> Exhibits:
    """Roll-outs on held-out clips: without actions, or under latent ones read off the true frames."""
    settings, plan = trained.config.model, trained.config.schedule("pretrain")
    model = VideoModel(settings)
    fill(model, trained.weights)
    model.to(trained.device).eval()
    length = min(SEEN + AHEAD, plan.frames)
    seen, count = min(SEEN, length // 2), max(MEASURED, trained.amounts.cases)
    clips = torch.from_numpy(trained.clips(count, length, plan.stride).frames).to(trained.device)
    image, generator = preprocess(clips, settings.input_size), torch.Generator().manual_seed(trained.amounts.seed)
    embed = model.embed(image)
    normal = (torch.randn(count, length - 1, settings.action_width, generator=generator).to(trained.device)
              if settings.latent_action.kind not in ("none", "zero") else None)
    action = model.latent_actions(image, embed, normal).action
    begins = torch.zeros(count, length, dtype=torch.bool, device=trained.device)
    begins[:, 0] = True
    uniform = torch.rand(count, length, settings.stoch, generator=generator).to(trained.device)
    post, _ = model.rssm.scan(embed[:, :seen], action[:, :seen], begins[:, :seen], uniform[:, :seen])
    ways = {"open loop": action} | ({"without actions": torch.zeros_like(action)} if action.shape[-1] else {})
    drawn = {name: as_frames(_imagined(model, post, image[:, :seen], given, uniform, generator))
             for name, given in ways.items()}
    under = (", under latent actions that were read off the true frames, or under none (without actions)"
             if normal is not None else "")
    yield "futures", strips_of(as_frames(image), drawn, seen, trained.amounts.cases, "on held-out clips of its corpus",
                               under)


def _imagined(model: VideoModel, post: State, seen: Tensor, action: Tensor, uniform: Tensor,
              generator: torch.Generator) -> Tensor:
    """Images [B, T, 3, S, S] of states [B, t, ...], and of those imagined after them under actions [B, T, A]."""
    count = seen.shape[1]
    features = [RSSM.feature({name: x[:, t] for name, x in post.items()}) for t in range(count)]
    state: State = {name: x[:, -1] for name, x in post.items()}
    for t in range(count, action.shape[1]):
        state = model.rssm.imagine(state, action[:, t], uniform[:, t])
        features.append(RSSM.feature(state))
    return _drawn(model, torch.stack(features, 1), seen, generator)


ARTEFACT: Views = {"futures": View(artefact_futures, ("cases", "seed"))}
RUN: Views = {"rollouts": View(run_rollouts, ("cases", "seed"))}
