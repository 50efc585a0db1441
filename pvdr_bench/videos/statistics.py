"""What a corpus holds, in numbers and in a picture."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import numpy as np

from pvdr_bench.needed import need
from pvdr_bench.videos.layout import HELDOUT, TRAIN, Frames
from pvdr_bench.videos.store import ClipStore

PAIRS = 2000  # neighbouring frames whose difference is measured
_AT_ONCE = 64
_GAP = 2  # pixels between the pictures of a sheet


def statistics(store: ClipStore) -> dict[str, Any]:
    """Episodes, frames and motion of a corpus.

    Returns:
        episodes, frames and those of each split; length: shortest, median and longest episode in frames; seconds of
        video, null where the frames a second are unknown; mean_motion: mean absolute difference of neighbouring
        frames, in levels of 255; still_share: share of neighbours that differ in no pixel; sources: how many.
        Motion is of up to 2000 pairs, spread evenly over all episodes.
    """
    lengths = np.array([episode.length for episode in store.episodes], np.int64)
    splits = Counter(episode.split for episode in store.episodes)
    motion, still = _motion(store)
    return {
        "episodes": len(lengths), "frames": int(lengths.sum()), "train_episodes": splits[TRAIN],
        "heldout_episodes": splits[HELDOUT],
        "train_frames": sum(episode.length for episode in store.episodes if episode.split == TRAIN),
        "length": {"shortest": int(lengths.min()), "median": float(np.median(lengths)), "longest": int(lengths.max())},
        "fps": store.fps or None, "seconds": float(lengths.sum() / store.fps) if store.fps else None,
        "mean_motion": motion, "still_share": still, "sources": len({episode.source for episode in store.episodes}),
        "image_size": store.image_size, "bytes": store.num_frames * store.image_size**2 * 3,
    }


def _motion(store: ClipStore) -> tuple[float, float]:
    starts = np.concatenate([np.arange(episode.start, episode.start + episode.length - 1, dtype=np.int64)
                             for episode in store.episodes])
    if not len(starts):
        return 0.0, 1.0
    starts = starts[np.linspace(0, len(starts) - 1, min(PAIRS, len(starts))).astype(np.int64)]
    means, moved = [], []
    for first in range(0, len(starts), _AT_ONCE):
        pairs = store.take(starts[first:first + _AT_ONCE, None] + np.arange(2)).astype(np.int16)
        differences = np.abs(pairs[:, 1] - pairs[:, 0])
        means.append(differences.mean(axis=(1, 2, 3)))
        moved.append(differences.any(axis=(1, 2, 3)))
    return float(np.concatenate(means).mean()), float(1 - np.concatenate(moved).mean())


def contact_sheet(store: ClipStore, episodes: int = 8, frames: int = 8) -> Frames:
    """Pictures of a corpus: uint8 [H, W, 3], a row for each of a few episodes, from left to right in time.

    Args:
        episodes, frames: rows and columns, fewer where there are not as many.
    """
    rows = np.unique(np.linspace(0, len(store.episodes) - 1, episodes).astype(np.int64))
    size, cell = store.image_size, store.image_size + _GAP
    sheet = np.full((len(rows) * cell - _GAP, frames * cell - _GAP, 3), 255, np.uint8)
    for row, number in enumerate(rows):
        episode = store.episodes[int(number)]
        columns = np.unique(np.linspace(0, episode.length - 1, frames).astype(np.int64))
        for column, frame in enumerate(store.take(episode.start + columns)):
            sheet[row * cell:row * cell + size, column * cell:column * cell + size] = frame
    return sheet


def sheet_png(store: ClipStore, episodes: int = 8, frames: int = 8) -> bytes:
    """The contact sheet as a PNG file.

    Raises:
        SetupError: Pillow is not installed.
    """
    module: Any = need("PIL.Image", "drawing a contact sheet", "pip install pillow")
    out = io.BytesIO()
    module.fromarray(contact_sheet(store, episodes, frames)).save(out, "PNG", optimize=True)
    return out.getvalue()
