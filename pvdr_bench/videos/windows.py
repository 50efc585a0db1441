"""Which clips a corpus has, and drawing some of them: the same for pixels and for tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import UsageError
from pvdr_bench.videos.layout import Episode


class Drawn(NamedTuple):
    """Clips of one draw.

    Attributes:
        frames: [B, T, ...], pixels or tokens.
        start: int64 [B], number of each clip's first frame within its episode, from 0.
    """

    frames: NDArray[Any]
    start: NDArray[np.int64]


def episode_windows(episodes: Sequence[Episode], split: str | None, frames: int, stride: int) -> NDArray[np.int64]:
    """First frames [W] of every clip of ``frames`` frames, ``stride`` apart, that lies inside one episode.

    Args:
        split: ``train``, ``heldout``, or None for both.

    Raises:
        UsageError: no clip fits.
    """
    if frames < 1 or stride < 1:
        raise UsageError(f"clips need at least one frame and a stride of at least one, not {frames} and {stride}")
    span = (frames - 1) * stride
    starts = [
        np.arange(e.start, e.start + e.length - span, dtype=np.int64)
        for e in episodes if split in (None, e.split) and e.length > span
    ]
    if not starts:
        raise UsageError(
            f"no clip of {frames} frames with stride {stride} fits into an episode of split {split!r}",
            hint="make the clip shorter, or the corpus larger (a tiny corpus may have no held-out episode)",
        )
    return np.concatenate(starts)


def sample_indices(
    rng: np.random.Generator, windows: NDArray[np.int64], batch: int, frames: int, stride: int
) -> NDArray[np.int64]:
    """Frame numbers [batch, frames] of clips drawn uniformly; one draw of ``rng`` per clip, for pixels and tokens."""
    starts = windows[rng.integers(len(windows), size=batch)]
    return starts[:, None] + stride * np.arange(frames, dtype=np.int64)


def within_episodes(episodes: Sequence[Episode], frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers within their episodes of frames [...] of a store; ``episodes`` in the order of the store."""
    begins = np.array([episode.start for episode in episodes], np.int64)
    numbers: NDArray[np.int64] = frames - begins[np.searchsorted(begins, frames, side="right") - 1]
    return numbers
