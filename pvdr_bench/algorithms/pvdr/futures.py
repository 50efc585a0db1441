"""PVDR's predicted futures beside the true ones (paper Fig. 15), in videos and in an episode.

Shapes: B clips, m context and l future frames, h x w token grid, H = W image size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvdr_bench.algorithms.pvdr.model import DynamicsModel, dynamics_model
from pvdr_bench.algorithms.pvdr.online import PVDRLearner
from pvdr_bench.algorithms.pvdr.pretrain import rollout_accuracy
from pvdr_bench.rl.views import Exhibits, Frames, NothingToShow, Played, Row, Strips, Trained, fill, psnr, spread_out
from pvdr_bench.tokenizer.frozen import Tokenizer

PIECE = 128  # clips or candidates at a time
MEASURED = 64  # clips that numbers of futures are of
WAYS = {"posterior": "z of the true future", "prior": "z from the prior", "prior again": "z from the prior, again"}


def pictures(tokenizer: Tokenizer, codes: Tensor) -> Frames:
    """Codes [..., h, w] as uint8 [..., H, W, 3]."""
    drawn: Frames = tokenizer.decode(codes.long()).cpu().numpy()
    return drawn


def steps_of(model: DynamicsModel) -> list[str]:
    """Labels of a clip's columns: decisions from the last context frame on."""
    config, total = model.config, model.config.context_frames + model.config.future_frames
    places = [config.frame_stride * (k - config.context_frames + 1) for k in range(total)]
    return ["now" if place == 0 else f"{place:+d}" for place in places]


@torch.no_grad()
def predicted(model: DynamicsModel, clips: Tensor, seed: int) -> dict[str, Tensor]:
    """Futures [B, l, h, w] of clips [B, m + l, h, w], by the words of :data:`WAYS`: decoded from z of the encoder (its
    mean) and, twice, of the prior."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((2, len(clips), *model.z_shape), generator=generator).to(clips.device)
    found: dict[str, list[Tensor]] = {name: [] for name in WAYS}
    for rows in torch.split(torch.arange(len(clips)), PIECE):
        part = clips[rows]
        context = part[:, :model.config.context_frames]
        prior, shown = model.prior(context), model.shown_to_plan(context, generator)
        for name, z in zip(WAYS, (model.encoder(part).mean, *(prior.sample(noise[i, rows]) for i in range(2))),
                           strict=True):
            found[name].append(model.decoder.plan(context, z, shown))
    return {name: torch.cat(parts) for name, parts in found.items()}


def futures_of(model: DynamicsModel, tokenizer: Tokenizer, frames: Frames, cases: int, seed: int,
               where: str) -> Strips:
    """Futures of clips uint8 [B, m + l, H, W, 3]: a picture of the first ``cases``, and numbers of all.

    Numbers: PSNR in dB against the true frames of both kinds of futures, of the true tokens drawn again (what no
    future on tokens can surpass) and of copying the last context frame; shares of tokens that are right.
    """
    m = model.config.context_frames
    codes = tokenizer.encode(torch.from_numpy(frames))
    found = predicted(model, codes, seed)
    drawn = {name: pictures(tokenizer, future) for name, future in found.items()}
    again, true = pictures(tokenizer, codes[:, m:]), frames[:, m:]
    numbers: dict[str, Any] = {
        "clips": len(frames), "psnr_tokens": psnr(again, true), "psnr_posterior": psnr(drawn["posterior"], true),
        "psnr_prior": psnr(drawn["prior"], true),
        "psnr_copy_last": psnr(np.broadcast_to(frames[:, m - 1:m], true.shape), true)}
    for name in ("posterior", "prior"):
        shares = rollout_accuracy(found[name], codes[:, m:], codes[:, :m])
        numbers |= {f"tokens_right_{name}": shares["all"], f"moved_tokens_right_{name}": shares["moved"]}
    numbers["tokens_unlike_between_priors"] = float((found["prior"] != found["prior again"]).float().mean())
    rows = []
    for case in range(min(cases, len(frames))):
        rows.append(Row("true", tuple(frames[case]), apart=case > 0))
        rows += [Row(words, (None,) * m + tuple(drawn[name][case])) for name, words in WAYS.items()]
    about = (f"Futures predicted by the visual dynamics model in {where}: what was seen, the future decoded from z of "
             "the encoder, which has seen it, and two futures decoded from z of the prior, which has not. Columns are "
             "decisions from now.")
    return Strips("Predicted futures", about, numbers, tuple(steps_of(model)), tuple(rows))


def artefact_futures(trained: Trained) -> Exhibits:
    """Predicted futures beside the true ones on held-out clips of the corpus (Fig. 15)."""
    model, tokenizer = model_of(trained), trained.inputs["tokenize"]
    size = model.config
    clips = trained.clips(max(MEASURED, trained.amounts.cases), size.context_frames + size.future_frames,
                          size.frame_stride)
    yield "futures", futures_of(model, tokenizer, clips.frames, trained.amounts.cases, trained.amounts.seed,
                                "held-out clips of its corpus")


def model_of(trained: Trained) -> DynamicsModel:
    """The model of an artefact."""
    tokenizer: Tokenizer = trained.inputs["tokenize"]
    model = dynamics_model(trained.config, tokenizer.codebook_size, tokenizer.grid, tokenizer)
    fill(model, trained.weights)
    return model.to(trained.device).eval()


def windows(played: Played, model: DynamicsModel) -> tuple[NDArray[np.int64], Frames]:
    """The decisions [B] whose whole clip the episode shows, and the clips uint8 [B, m + l, H, W, 3].

    Raises:
        NothingToShow: the episode is shorter than a predicted future.
    """
    m, length, stride = model.config.context_frames, model.config.future_frames, model.config.frame_stride
    if len(played.actions) < length * stride:
        raise NothingToShow(f"an episode of {len(played.actions)} decisions shows no whole future, which has "
                            f"{length * stride}", hint="a run of longer episodes shows one")
    now = np.arange(len(played.actions) - length * stride + 1)
    place = now[:, None] + stride * np.arange(1 - m, length + 1)
    return now, played.images[place.clip(0)]


def run_futures(played: Played) -> Exhibits:
    """The same for the model of a run, in the episode that it played."""
    learner = learner_of(played)
    _, clips = windows(played, learner.model)
    chosen = clips[spread_out(len(clips), MEASURED)]
    order = np.concatenate([first := np.array(spread_out(len(chosen), played.amounts.cases)),
                            np.setdiff1d(np.arange(len(chosen)), first)])
    yield "futures", futures_of(learner.model, learner.tokenizer, chosen[order], played.amounts.cases,
                                played.amounts.seed, "an evaluation episode that its policy played")


def learner_of(played: Played) -> PVDRLearner:
    """The learner of a run, as what it is."""
    assert isinstance(played.learner, PVDRLearner)
    return played.learner
