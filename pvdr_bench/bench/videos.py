"""``bench videos``: importing BAIR's shards, drawing clips, and whether memory stays as it is while a corpus grows.

The promises: 50 MB of BAIR's own shards a second on two cores, and memory that does not grow with them. The shards are
synthetic and in the true format, checksums included, so that nothing has to be downloaded.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pvdr_bench.needed import need
from pvdr_bench.videos.layout import Frames
from pvdr_bench.videos.readers.tfrecord import masked
from pvdr_bench.videos.store import ClipStore

PROMISED_MB_PER_S = 50.0
PROMISED_GROWTH_MIB = 64.0  # of the peak, while the corpus grows tenfold
LENGTH = 30  # frames of a trajectory
_CLIPS, _FRAMES = 128, 8
_MIB = 2**20


def measure(trajectories: int = 256, shards: int = 1, grown: int = 10, image_size: int = 128, jobs: int = 2,
            seconds: float = 10.0, folder: str = "", seed: int = 0) -> dict[str, Any]:
    """Write shards, import them, ten times as many, and draw clips from both.

    Args:
        trajectories: in a shard; BAIR's have 256.
        shards: of the small corpus. grown: how many times as many the large one has.
        image_size: of the stores. jobs: worker processes of the import.
        seconds: least time of drawing, from the large one.
        folder: on the disk to measure; default the system's place for temporary files. Deleted afterwards.

    Returns:
        mb_per_s: megabytes of shards imported a second, of the large corpus, processes' start and publication
        included; clips_per_s: clips of 8 frames drawn a second in batches of 128, the file in the system's cache where
        it fits; both also by second of processor time, of all processes together (a busy machine stretches the others);
        peak_mib: largest resident set of a process at both sizes, of the import and of drawing, started anew
        each time; growth_mib: how much more at the large one. kept: whether mb_per_s and growths are as promised.
    """
    with tempfile.TemporaryDirectory(prefix="pvdr-bench-", dir=folder or None) as name:
        root = Path(name)
        found = {size: _one_size(root / size, count, trajectories, image_size, jobs, seconds, seed)
                 for size, count in (("small", shards), ("large", shards * grown))}
    growth = {what: found["large"]["peak_mib"][what] - found["small"]["peak_mib"][what] for what in ("import", "draw")}
    large = found["large"]
    return {"mb_per_s": large["mb_per_s"], "clips_per_s": large["clips_per_s"],
            "mb_per_cpu_s": large["mb_per_cpu_s"], "clips_per_cpu_s": large["clips_per_cpu_s"],
            "peak_mib": {size: each["peak_mib"] for size, each in found.items()}, "growth_mib": growth,
            "store_mib": {size: each["store_mib"] for size, each in found.items()},
            "source_mb": {size: each["source_mb"] for size, each in found.items()},
            "import_seconds": {size: each["import_seconds"] for size, each in found.items()},
            "promised_mb_per_s": PROMISED_MB_PER_S, "promised_growth_mib": PROMISED_GROWTH_MIB,
            "kept": large["mb_per_s"] >= PROMISED_MB_PER_S and max(growth.values()) <= PROMISED_GROWTH_MIB,
            "image_size": image_size, "jobs": jobs, "trajectories": trajectories, "cores": os.cpu_count(),
            "load": os.getloadavg()[0]}


def _one_size(root: Path, shards: int, trajectories: int, image_size: int, jobs: int, seconds: float,
              seed: int) -> dict[str, Any]:
    size = write_shards(root / "source", shards, trajectories, seed)
    imported = _child("import", str(root / "source"), str(root / "data"), str(image_size), str(jobs))
    drawn = _child("draw", imported["path"], str(seconds), str(seed))
    store = ClipStore(imported["path"])
    return {"mb_per_s": size / 1e6 / imported["seconds"], "clips_per_s": drawn["clips_per_s"],
            "peak_mib": {"import": imported["peak_mib"], "draw": drawn["peak_mib"]}, "source_mb": size / 1e6,
            "mb_per_cpu_s": size / 1e6 / imported["cpu_seconds"], "clips_per_cpu_s": drawn["clips_per_cpu_s"],
            "store_mib": store.num_frames * image_size**2 * 3 / _MIB, "import_seconds": imported["seconds"]}


def _child(*arguments: str) -> dict[str, Any]:
    """A measurement in a process of its own, so that its peak is its own."""
    answer = subprocess.run([sys.executable, "-m", __name__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def _import(source: str, data: str, image_size: str, jobs: str) -> dict[str, Any]:
    import resource

    from pvdr_bench.videos.importing import ImportOptions, import_videos

    start = time.perf_counter()
    store = import_videos("bair", Path(source), int(image_size), data, ImportOptions(camera="aux1"), int(jobs))
    took = time.perf_counter() - start
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"path": str(store.path), "seconds": took, "cpu_seconds": sum(os.times()[:4]), "peak_mib": max(peaks) / 1024}


def _draw(path: str, seconds: str, seed: str) -> dict[str, Any]:
    import resource

    store, rng = ClipStore(path), np.random.default_rng(int(seed))
    store.draw(rng, _CLIPS, _FRAMES)
    start, used, clips = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < float(seconds):
        clips += len(store.draw(rng, _CLIPS, _FRAMES).frames)
    return {"clips_per_s": clips / (time.perf_counter() - start),
            "clips_per_cpu_s": clips / (time.process_time() - used),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


# Shards in BAIR's format ---------------------------------------------------------------------------------------------


def write_shards(root: Path, shards: int, trajectories: int, seed: int) -> int:
    """``softmotion30_44k/train`` with random pictures; returns the shards' bytes."""
    folder, rng, total = root / "softmotion30_44k" / "train", np.random.default_rng(seed), 0
    folder.mkdir(parents=True)
    for shard in range(shards):
        first = shard * trajectories
        path = folder / f"traj_{first}_to_{first + trajectories - 1}.tfrecords"
        with path.open("wb") as file:
            for _ in range(trajectories):
                pictures = rng.integers(0, 256, (2, LENGTH, 64, 64, 3), dtype=np.uint8)
                total += file.write(_record(_trajectory(pictures[0], pictures[1])))
    return total


def _record(payload: bytes) -> bytes:
    crc = need("google_crc32c", "writing TFRecords").value
    length = struct.pack("<Q", len(payload))
    return length + struct.pack("<I", masked(crc(length))) + payload + struct.pack("<I", masked(crc(payload)))


def _trajectory(main: Frames, aux: Frames) -> bytes:
    entries = []
    for t in range(len(aux)):
        for name, frame in ((f"{t}/image_main/encoded", main[t]), (f"{t}/image_aux1/encoded", aux[t])):
            value = frame.tobytes()
            entries.append(_field(1, _field(1, name.encode()) + _field(2, _field(1, _field(1, value)))))
        for name, count in ((f"{t}/action", 4), (f"{t}/endeffector_pos", 3)):
            floats = _field(2, _field(1, bytes(4 * count)))
            entries.append(_field(1, _field(1, name.encode()) + _field(2, floats)))
    return _field(1, b"".join(entries))


def _field(number: int, data: bytes) -> bytes:
    size, rest = bytearray(), len(data)
    while rest >= 0x80:
        size.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([number << 3 | 2, *size, rest]) + data


if __name__ == "__main__":
    print(json.dumps(_import(*sys.argv[2:]) if sys.argv[1] == "import" else _draw(*sys.argv[2:])))
