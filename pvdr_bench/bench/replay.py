"""``bench replay``: what storing experience on disk and drawing batches from it cost, beside an update that uses them.

The promise: sampling is at most 5 % of an update, and its memory does not grow with the replay.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvdr_bench.algorithms.dreamer.learner import DreamerLearner
from pvdr_bench.bench.dreamer import ACTIONS, Stopwatch, fill, make_learner, recipe, repeat
from pvdr_bench.bench.memory import reset_peaks, resident_bytes
from pvdr_bench.rl.replay.episodes import EpisodeReplay
from pvdr_bench.rl.replay.priorities import PRIORITY, Priorities

LARGEST_SHARE = 0.05  # of an update, promised


def measure(scale: str = "cpu", method: str = "dreamerv2", entries: int = 6000, batch: int = 0, length: int = 0,
            image_size: int = 0, seconds: float = 3.0, folder: str = "", device: str = "cpu", threads: int = 1,
            seed: int = 0) -> dict[str, Any]:
    """Fill a replay with ``entries`` decisions of random pictures, sample from it, and learn from it.

    Args:
        batch, length, image_size: 0 is the scale's own.
        seconds: least time per measurement, after a warm-up.
        folder: on the disk to measure; default the system's place for temporary files. Deleted afterwards.

    Returns:
        share_of_update: median over updates of the seconds of sampling in it over its seconds; promise: at most
        largest_share, kept says whether. update_seconds: the median. sample_seconds per batch and bytes_per_second of
        pictures, the files in the system's cache; cold_sample_seconds and cold_share_of_update: of batches whose files
        were put out of that cache (null where the system has no way to; a disk of memory is never cold).
        append_seconds per decision. sample_peak_bytes: growth of the resident set while sampling, at a quarter of the
        entries and at all of them; null where there is no /proc. batch_bytes and replay_bytes of pictures; the sizes.
        prioritised_draw_seconds: choosing a batch of positions by priority among all entries; write_back_seconds: new
        priorities for them.
    """
    place, before = torch.device(device), torch.get_num_threads()
    config, protocol = recipe(method, scale)
    train = config.train.model_copy(update={"batch": batch or config.train.batch,
                                            "length": length or config.train.length})
    config, size = config.model_copy(update={"train": train}), image_size or protocol.image_size
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory(prefix="pvdr-bench-", dir=folder or None) as name:
            replay = EpisodeReplay(Path(name), protocol.num_envs, size, ACTIONS)
            try:
                found = _storing(replay, entries, train.batch, train.length, seconds, seed)
                other = Path(name) / "prioritised"
                found |= _prioritised(other, protocol.num_envs, entries, train.batch, seconds, seed)
                learner = make_learner(config, protocol, replay, place, seed)
                found |= share_of_update(learner, seconds)
            finally:
                replay.close()
    finally:
        torch.set_num_threads(before)
    cold = found["cold_sample_seconds"]
    return {**found, "cold_share_of_update": None if cold is None else cold / found["update_seconds"],
            **promise(found["share_of_update"]), "scale": scale, "method": method, "entries": entries,
            "batch": train.batch, "length": train.length, "image_size": size, "num_envs": protocol.num_envs,
            "device": device, "threads": threads}


def promise(share: float) -> dict[str, Any]:
    """The largest share of an update that sampling may take, and whether ``share`` keeps to it."""
    return {"largest_share": LARGEST_SHARE, "kept": share <= LARGEST_SHARE}


def share_of_update(learner: DreamerLearner, seconds: float) -> dict[str, Any]:
    """Time updates and the sampling inside them; the learner's replay stays wrapped."""
    stopwatch = Stopwatch(learner.device)
    stopwatch.wrap(learner.replay, "sample", "sample")
    rows = repeat(learner.update, seconds, stopwatch)
    return {"share_of_update": float(np.median([row["sample"] / row["seconds"] for row in rows])),
            "update_seconds": float(np.median([row["seconds"] for row in rows])), "measured_updates": len(rows)}


def _storing(replay: EpisodeReplay, entries: int, batch: int, length: int, seconds: float, seed: int) -> dict[str, Any]:
    """Fill a quarter, then all of it, and sample at both lengths."""
    generator, cpu = torch.Generator().manual_seed(seed), torch.device("cpu")

    def draw() -> dict[str, Tensor]:
        return replay.sample(generator, batch, length)

    spent = fill(replay, entries // 4, seed)
    peaks = {"quarter": _resident_growth(draw)}
    spent += fill(replay, entries - entries // 4, seed + 1)
    peaks["all"] = _resident_growth(draw)
    sampled = float(np.median([row["seconds"] for row in repeat(draw, seconds, Stopwatch(cpu))]))
    picture = replay.image_size**2 * 3
    return {"append_seconds": spent / entries, "sample_seconds": sampled,
            "bytes_per_second": batch * length * picture / sampled, "cold_sample_seconds": _cold_seconds(replay, draw),
            "sample_peak_bytes": peaks, "batch_bytes": batch * length * picture,
            "replay_bytes": len(replay) * picture}


def _prioritised(folder: Path, num_envs: int, entries: int, batch: int, seconds: float, seed: int) -> dict[str, Any]:
    """Draw by priority and write back; pictures are tiny, they do not matter here."""
    replay, generator = EpisodeReplay(folder, num_envs, 1, ACTIONS), torch.Generator().manual_seed(seed)
    try:
        replay.declare(priorities=Priorities())
        fill(replay, entries, seed)
        clock = Stopwatch(torch.device("cpu"))
        clock.wrap(replay, "draw", "draw")
        clock.wrap(replay, "write", "write")

        def turn() -> None:
            draw = replay.draw(generator, batch, 1, "padded", prioritised=True)
            replay.write(draw.positions, PRIORITY, torch.rand(batch, generator=generator))

        rows = repeat(turn, seconds / 4, clock)
    finally:
        replay.close()
    return {"prioritised_draw_seconds": float(np.median([row["draw"] for row in rows])),
            "write_back_seconds": float(np.median([row["write"] for row in rows]))}


def _resident_growth(draw: Callable[[], Any], times: int = 5) -> int | None:
    """By how many bytes the resident set grows at most while batches are drawn, one after the other."""
    reset_peaks(torch.device("cpu"))
    before = resident_bytes()
    for _ in range(times):
        draw()
    after = resident_bytes(peak=True)
    return None if before is None or after is None else after - before


def _cold_seconds(replay: EpisodeReplay, draw: Callable[[], Any], times: int = 5) -> float | None:
    """Median seconds of a batch whose files are not in the system's cache."""
    if not hasattr(os, "posix_fadvise"):
        return None
    spent = []
    for _ in range(times):
        for stream in replay.streams:
            stream.sync()  # only pages that are on the disk can leave the cache
            for file in stream.open_files():
                os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.perf_counter()
        draw()
        spent.append(time.perf_counter() - started)
    return float(np.median(spent))
