"""Whether a corpus has what a method learns from: clips long enough in both splits, in which something moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import SetupError, UsageError
from pvdr_bench.rl.config import Schedule
from pvdr_bench.videos.generate import corpus_path
from pvdr_bench.videos.layout import HELDOUT, TRAIN
from pvdr_bench.videos.sources import sources
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.windows import episode_windows, train_frames

SAMPLE = 64  # clips that are looked at for motion
MOVED = 8  # levels of 255 by which a pixel differs that moved, and did not flicker
MOVING_PIXELS = 0.001  # share of them in a clip in which something moves
MOVING_CLIPS = 0.05  # share of such clips in a corpus that can be learned from


def find_store(corpus: str, image_size: int, data_dir: Path) -> ClipStore | None:
    """A corpus of this image size; None where it is not made yet, and can be.

    Raises:
        SetupError: it is read from files, and has not been imported.
        DataError: it is broken.
    """
    path = corpus_path(corpus, image_size, data_dir)
    if path.exists():
        return ClipStore(path)
    known = {entry.name: entry for entry in sources()}.get(corpus)
    if known is not None and known.kind == "generated":
        return None
    there = sorted(int(folder.name) for folder in path.parent.glob("*") if folder.name.isdecimal())
    sizes = f"it has them of {', '.join(map(str, there))} pixels; " if there else ""
    fetch = f"pvdr-bench videos fetch {corpus}, then " if known is not None and known.downloads and not there else ""
    source = "" if known is not None and known.downloads else " SOURCE"
    raise SetupError(f"corpus {corpus} has no videos of {image_size} pixels", where=str(path),
                     hint=f"{sizes}{fetch}pvdr-bench videos import {corpus}{source} --image-size {image_size}")


def wanted_frames(size: str, image_size: int, data_dir: Path) -> int | None:
    """Training frames that a corpus is matched to: a number, or those of another, as published or as it is here.

    Returns:
        None: that one is yet to be made.

    Raises:
        SetupError, DataError: see :func:`find_store`.
    """
    if size.isdecimal():
        return int(size)
    known = {entry.name: entry for entry in sources()}
    if size in known and known[size].train_frames:
        return known[size].train_frames
    store = find_store(size, image_size, data_dir)
    return None if store is None else train_frames(store.episodes)


def check_size(store: ClipStore, image_size: int, corpus: str, what: str) -> None:
    """Refuse a corpus whose pictures have another size than a stage's.

    Raises:
        UsageError: they have.
    """
    if store.image_size != image_size:
        raise UsageError(f"{corpus} is of {store.image_size} pixels here, and {what} needs {image_size}",
                         where=f"--videos {corpus}", hint=f"import or generate it with --image-size {image_size} too")


def check_videos(store: ClipStore, needs: Schedule, corpus: str, what: str) -> None:
    """Refuse a corpus that a stage could not learn from, before it begins.

    Args:
        store: of the size that the stage gets it in.
        what: who learns, for the message.

    Raises:
        UsageError: no clip fits into an episode of one of the splits, or nothing moves.
    """
    where = f"--videos {corpus}"
    for split in (TRAIN, HELDOUT):
        lengths = [episode.length for episode in store.episodes if episode.split == split]
        if not lengths:
            raise UsageError(f"{corpus} has no {words(split)} episode, and {what} needs some", where=where,
                             hint="it takes two episodes at least: import more videos, or cut them (--cut 300)")
        if max(lengths) < needs.span:
            kind = "holds pictures and no videos" if max(lengths) == 1 and needs.span > 1 else "is too short"
            raise UsageError(
                f"{corpus} {kind}: {what} needs {describe(needs)}, and the longest {words(split)} episode has "
                f"{max(lengths)}", where=where,
                hint="import longer videos, or keep more frames of them (--fps, --cut); or "
                     + shorter_clips(store, needs))
    if needs.span > 1 and (share := moving_share(store, needs)) < MOVING_CLIPS:
        raise UsageError(f"{corpus} is too still for {what}: something moves in {100 * share:.0f} % of its clips "
                         f"({describe(needs)})", where=where,
                         hint="look at it: pvdr-bench videos preview; keep fewer frames a second of it: import --fps 5")


def shorter_clips(store: ClipStore, needs: Schedule) -> str:
    """The change of a key with which clips would fit into half of the episodes of each split."""
    lengths = [sorted(episode.length for episode in store.episodes if episode.split == split)
               for split in (TRAIN, HELDOUT)]
    value = needs.value_for(min((one[(len(one) - 1) // 2] for one in lengths if one), default=0))
    if not needs.length_key or value < 2:
        return "shorter clips with -o"
    return f"shorter clips: -o {needs.length_key}={value} fits into half of the episodes"


def words(split: str) -> str:
    """A split for people."""
    return "held-out" if split == HELDOUT else "training"


def describe(needs: Schedule) -> str:
    """``clips of 8 frames, 3 apart: 22 frames of video``."""
    stack = f", in stacks of {needs.stack}" if needs.stack > 1 else ""
    apart = f", {needs.stride} apart" if needs.stride > 1 else ""
    whole = f": {needs.span} frames of video" if apart else ""
    return f"clips of {needs.frames} frames{stack}{apart}{whole}"


def moving_share(store: ClipStore, needs: Schedule) -> float:
    """Share of clips in which something moves, of a few spread evenly over the training split; 0 to 1."""
    windows = episode_windows(store.episodes, TRAIN, needs.frames, needs.stride)
    starts = windows[np.linspace(0, len(windows) - 1, min(SAMPLE, len(windows))).astype(np.int64)]
    steps = np.arange(needs.frames, dtype=np.int64) * needs.stride
    return float(np.mean([moved(store.take(start + steps)) >= MOVING_PIXELS for start in starts]))


def moved(frames: NDArray[np.uint8]) -> float:
    """Share of the pixels of frames [T, H, W, 3] that differ from the first frame at some time."""
    differences = np.abs(frames[1:].astype(np.int16) - frames[:1]).max(axis=(0, 3))
    return float(np.mean(differences > MOVED))
