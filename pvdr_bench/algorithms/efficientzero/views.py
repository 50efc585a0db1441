"""What FICC's pre-trained model can show: futures under the codes of the true one, and what each code does.

Shapes: B clips, T frames, K codes, q numbers of a code, c = 1 or 3 colours, w side of a picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvdr_bench.algorithms.efficientzero import pictures
from pvdr_bench.algorithms.efficientzero.video_model import VideoModel
from pvdr_bench.nets.quantizer import perplexity
from pvdr_bench.rl.views import Exhibits, Frames, Row, Strips, Trained, View, Views, fill, psnr

AHEAD = 5  # steps
MEASURED = 64  # clips
COLUMNS = 8  # codes that are shown, the most used ones


def as_frames(planes: Tensor) -> Frames:
    """Pictures [..., c, w, w] in [0, 1] as uint8 [..., w, w, 3]."""
    drawn = (planes.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1)
    shown: Frames = drawn.expand(*drawn.shape[:-1], 3).cpu().numpy()
    return shown


def draw(model: VideoModel, states: Tensor) -> Frames:
    """Latent states [..., C, g, g] as uint8 pictures [..., w, w, 3]."""
    flat = torch.sigmoid(model.frame_decoder(states.flatten(0, -4)))
    return as_frames(flat.view(*states.shape[:-3], *flat.shape[1:]))


@torch.no_grad()
def futures(trained: Trained) -> Exhibits:
    """Frames decoded along the codes that the inverse model reads off held-out clips; the next frame under other codes.

    Numbers: PSNR in dB of the frames after the first and of copying the first; of the next frame under its own code and
    under the code of another clip; the perplexity of the codes.
    """
    settings = trained.config.model
    model = VideoModel(settings, trained.config.pretrain)
    fill(model, trained.weights)
    model.to(trained.device).eval()
    count = max(MEASURED, trained.amounts.cases)
    clips = trained.clips(count, settings.stack + AHEAD, trained.config.schedule("pretrain").stride).frames
    planes = pictures.frames(torch.from_numpy(clips).to(trained.device), settings.input_size, settings.gray)
    observation, newest = pictures.stacks(planes, settings.stack), planes[:, settings.stack - 1:]
    found = model(observation, observation[:, 0], newest)
    true, drawn = as_frames(newest), draw(model, found.states)
    codes = found.actions.codes.view(count, AHEAD)
    usage = torch.bincount(codes.flatten().cpu(), minlength=settings.codes).float()
    other = draw(model, model.dynamics(found.states[:, 0], found.actions.z.view(count, AHEAD, -1)[:, 0].roll(1, 0)))
    numbers: dict[str, Any] = {
        "clips": count, "psnr_first": psnr(drawn[:, 0], true[:, 0]), "psnr_rolled_out": psnr(drawn[:, 1:], true[:, 1:]),
        "psnr_copy_first": psnr(np.broadcast_to(true[:, :1], true[:, 1:].shape), true[:, 1:]),
        "psnr_next": psnr(drawn[:, 1], true[:, 1]), "psnr_next_other_code": psnr(other, true[:, 1]),
        "perplexity": float(perplexity(usage)), "codes": settings.codes}
    cases = range(min(trained.amounts.cases, count))
    rows = [row for case in cases for row in (
        Row("true", tuple(true[case]), apart=case > 0), Row("by its codes", tuple(drawn[case])))]
    about = ("Held-out clips, and what the forward model draws from the first observation and the codes that the "
             "inverse model reads off the true future. Columns are steps.")
    yield "futures", Strips("Futures by latent actions", about, numbers,
                            ("now", *(f"+{step + 1}" for step in range(AHEAD))), tuple(rows))
    yield "codes", _each_code(model, found.states[:, 0], true, usage, cases)


def _each_code(model: VideoModel, states: Tensor, true: Frames, usage: Tensor, cases: range) -> Strips:
    """The next frame of the first states [B, C, g, g] under each of the most used codes."""
    most = usage.argsort(descending=True, stable=True)[:COLUMNS]
    table, rows = model.quantiser.table.detach(), []
    for case in cases:
        state = states[case:case + 1].expand(len(most), *states.shape[1:])
        after = draw(model, model.dynamics(state, table[most.to(table.device)]))
        rows.append(Row("next frame" if case == 0 else "", (true[case, 0], *after), apart=case > 0))
    shares = (usage / usage.sum()).tolist()
    about = ("The observation, and the next frame under each of the codes that held-out clips use most; the number is "
             "the code's, with its share.")
    columns = ("now", *(f"{int(code)}: {100 * shares[int(code)]:.0f} %" for code in most))
    return Strips("What each latent action does", about, {"shares": shares}, columns, tuple(rows))


ARTEFACT: Views = {"futures": View(futures, ("cases", "seed"))}
