"""Which clips a corpus has, and drawing some of them: the same for pixels and for tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import UsageError
from pvdr_bench.videos.layout import TRAIN, Episode

LEFT_OUT = "left out"  # the split of episodes beyond the size that a corpus is matched to


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


def of_size(episodes: Sequence[Episode], frames: int) -> list[Episode]:
    """Episodes of which only so many train that they have ``frames`` frames together, or hardly more; or all of them.

    The choice is by a hash of the episode's number: the same for pixels and tokens, and a larger one holds a smaller.
    """
    train = [number for number, episode in enumerate(episodes) if episode.split == TRAIN]
    train.sort(key=lambda number: hashlib.sha256(f"size-{number}".encode()).digest())
    chosen, total = set(), 0
    for number in train:
        if total >= frames:
            break
        chosen.add(number)
        total += episodes[number].length
    return [episode if episode.split != TRAIN or number in chosen else replace(episode, split=LEFT_OUT)
            for number, episode in enumerate(episodes)]


def train_frames(episodes: Sequence[Episode]) -> int:
    """Frames of the episodes that are trained on."""
    return sum(episode.length for episode in episodes if episode.split == TRAIN)


def within_episodes(episodes: Sequence[Episode], frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers within their episodes of frames [...] of a store; ``episodes`` in the order of the store."""
    begins = np.fromiter((episode.start for episode in episodes), np.int64, len(episodes))
    numbers: NDArray[np.int64] = frames - begins[episodes_of(episodes, frames)]
    return numbers


def episodes_of(episodes: Sequence[Episode], frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of ``episodes``, in the order of the store, frames [...] are in."""
    begins = np.fromiter((episode.start for episode in episodes), np.int64, len(episodes))
    numbers: NDArray[np.int64] = np.searchsorted(begins, frames, side="right") - 1
    return numbers
