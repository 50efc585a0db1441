"""Videos of a run: the observation beside the plan that it followed, and the goal.

Shapes: T frames, H = W image size, l frames of a plan.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import UsageError
from pvdr_bench.needed import need
from pvdr_bench.playing.canvas import BACKGROUND, HEAD, INK, enlarge, label, paste
from pvdr_bench.runs.files import make_folder, storage_errors

if TYPE_CHECKING:
    from pvdr_bench.api import Episode
    from pvdr_bench.rl.contract import Learner

Frames = NDArray[np.uint8]

_GAP = 8
_SMALL = 112  # a plan's frame is at least as wide
_GREEN = (0, 158, 115)
SUFFIXES = (".mp4", ".gif")


def _check(frames: Frames, plans: Frames | None) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise UsageError(f"observations must be uint8 [T, H, W, 3], not {frames.dtype} {list(frames.shape)}")
    if plans is not None and (plans.dtype != np.uint8 or plans.ndim != 5 or plans.shape[-1] != 3 or plans.shape[1] == 0
                              or len(plans) != len(frames)):
        raise UsageError(f"plans must be uint8 [T, l, H, W, 3] with the observations' T = {len(frames)}, "
                         f"not {plans.dtype} {list(plans.shape)}")


def plan_strip(frames: Frames, plans: Frames | None, *, goal: Frames | None = None,
               success: NDArray[np.bool_] | None = None) -> Frames:
    """Lay out observation, plan and goal side by side.

    Args:
        frames: observations [T, H, W, 3].
        plans: [T, l, H, W, 3], the plan followed at each observation, or None.
        goal: [H, W, 3], drawn on the right.
        success: [T], frames the observation in green where True.

    Returns:
        Pictures uint8 [T, height, width, 3] with even sides, as video formats need; observations are numbered.

    Raises:
        UsageError: shapes or types do not fit.
    """
    _check(frames, plans)
    small = enlarge(frames[:1], _SMALL).shape[1]
    # A plan stands in two rows, so the observation beside it may be twice as large.
    count = 0 if plans is None else plans.shape[1]
    rows = 2 if count > 1 else 1
    large = enlarge(frames[:1], rows * small).shape[1]
    columns = -(-count // rows)
    cell = enlarge(plans[0, :1], small).shape[1] if plans is not None else 0
    goal_size = enlarge(goal, small).shape[1] if goal is not None else 0
    plan_left = _GAP + large + _GAP
    goal_left = plan_left + columns * (cell + _GAP)
    height = max(large, rows * (cell + _GAP) - _GAP if count else 0, goal_size) + HEAD + 2 * _GAP
    width = goal_left + (goal_size + _GAP if goal is not None else 0)
    pictures = np.full((len(frames), height + height % 2, width + width % 2, 3), BACKGROUND, np.uint8)
    top = _GAP + HEAD
    for t, picture in enumerate(pictures):
        solved = success is not None and bool(success[t])
        paste(picture, label(f"success {t}" if solved else f"observation {t}", _GREEN if solved else INK), _GAP, _GAP)
        if solved:
            picture[top - 3:top + large + 3, _GAP - 3:_GAP + large + 3] = _GREEN
        paste(picture, enlarge(frames[t], rows * small), top, _GAP)
        if plans is not None:
            paste(picture, label(f"plan, frames ahead: {count}"), _GAP, plan_left)
            for k in range(count):
                row, column = divmod(k, columns)
                place = top + row * (cell + _GAP), plan_left + column * (cell + _GAP)
                paste(picture, enlarge(plans[t, k], small), *place)
        if goal is not None:
            paste(picture, label("goal"), _GAP, goal_left)
            paste(picture, enlarge(goal, small), top, goal_left)
    return pictures


def write_video(frames: Frames, out: Path, *, fps: float = 10.0) -> Path:
    """Write pictures [T, H, W, 3] as ``.mp4`` (H.264) or ``.gif``, beside first and then renamed.

    Raises:
        UsageError: another suffix.
        SetupError: the package that writes mp4 is missing.
    """
    suffix = out.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"videos end in {' or '.join(SUFFIXES)}, not {out.suffix!r}", where=str(out))
    make_folder(out.parent)
    temporary = out.with_name(f".{out.stem}.{os.getpid()}{suffix}")
    try:
        with storage_errors(out):
            (_write_mp4 if suffix == ".mp4" else _write_gif)(frames, temporary, fps)
            temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return out


def _write_gif(frames: Frames, path: Path, fps: float) -> None:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)


def _write_mp4(frames: Frames, path: Path, fps: float) -> None:
    from fractions import Fraction

    av = need("av", "mp4", "pip install av, or choose a name that ends in .gif")
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


@dataclass(frozen=True)
class Video:
    """What was written, and what it shows."""

    path: Path
    eval_seed: int
    env_steps: int
    decisions: int
    success: bool
    with_plan: bool


def episode_pictures(episode: Episode) -> Frames:
    """Pictures of an episode: each observation with the plan followed there, then the last observation once more.

    The last observation has no plan of its own and keeps the one before.
    """
    plans = episode.plans
    if plans is not None:
        plans = np.concatenate([plans, plans[-1:]])
    success = np.concatenate([[False], episode.success])
    return plan_strip(episode.images, plans, goal=episode.goal_image, success=success)


def film_strip(pictures: Frames, count: int = 5, moment: int | None = None) -> Frames:
    """``count`` of the pictures [T, h, w, 3], evenly spread from the first to the last, below one another; picture
    ``moment`` stands for the one nearest to it."""
    chosen = np.linspace(0, len(pictures) - 1, min(count, len(pictures))).round().astype(int)
    if moment is not None:
        chosen[np.abs(chosen - moment).argmin()] = moment
    return np.concatenate(list(pictures[chosen]))


def write_picture(picture: Frames, out: Path) -> Path:
    """Write a picture [h, w, 3] as PNG."""
    import io

    from PIL import Image

    from pvdr_bench.runs.files import atomic_write

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png")
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(out, buffer.getvalue())
    return out


def ask_for_plans(learner: Learner) -> None:
    """Have a learner that plans decode its plans, which it does only where they are shown."""
    if hasattr(learner, "render_plans"):
        learner.render_plans = True


def played(run_dir: Path | str, episode: int, device: str = "cpu") -> tuple[Episode, int]:
    """An evaluation episode with a run's newest checkpoint, its plans decoded; and the checkpoint's env_steps.

    Raises:
        UsageError: no run, or no checkpoint. DataError: run or checkpoint are broken.
    """
    from pvdr_bench.api import load_run

    with load_run(run_dir).open(device) as session:
        ask_for_plans(session.learner)
        return session.play(episode), session.env_steps


def render_video(run_dir: Path | str, out: Path | str, *, episode: int = 0, fps: float = 10.0,
                 device: str = "cpu") -> Video:
    """Play one evaluation episode with a run's newest checkpoint and write it.

    Args:
        episode: number of the evaluation episode, which gives its seed.

    Raises:
        UsageError: no run, no checkpoint, or an unknown suffix.
        DataError: run or checkpoint are broken.
    """
    out = Path(out)
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"videos end in {' or '.join(SUFFIXES)}, not {out.suffix!r}", where=str(out))
    seen, env_steps = played(run_dir, episode, device)
    write_video(episode_pictures(seen), out, fps=fps)
    return Video(out, seen.seed, env_steps, len(seen.actions), bool(seen.success.any()), seen.plans is not None)
