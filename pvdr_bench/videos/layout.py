"""What lies on disk of the one clip store that all corpora share: episodes of RGB frames, memory-mapped.

A published store is an immutable folder:

=============== ====================================================================================================
``frames.u8``   raw uint8 [F, H, W, 3], all episodes one after another
``index.json``  ``image_size``, ``fps``, ``episodes`` = [[start, length, source, split], ...], ``crc32`` per episode
``truth.npz``   optional side file, arrays [F, ...] of the simulator's truth (actions, hand position). **Learning from
                videos never reads it**; it exists for offline probes (inverse dynamics, planner test) alone.
``manifest.json`` recipe, hash, bytes and sha256 of every file
=============== ====================================================================================================

A store being written lives beside it in ``<path>.partial`` with a journal, one line per complete episode, so that a
killed writer continues after the last episode that is wholly on disk. ``store.py`` reads, ``writer.py`` writes.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import DataError
from pvdr_bench.runs.files import read_json, write_file

FORMAT_VERSION = 1
FRAMES, INDEX, TRUTH, MANIFEST, JOURNAL, TRUTH_RAW = (
    "frames.u8", "index.json", "truth.npz", "manifest.json", "journal.jsonl", "truth.f32",
)
TRAIN, HELDOUT = "train", "heldout"
HELDOUT_PERCENT = 10
HINT = "delete the folder and make the corpus again: pvdr-bench videos generate"

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Episode:
    """Frames ``start`` to ``start + length`` of a store."""

    start: int
    length: int
    source: str
    split: str


def split_of(index: int) -> str:
    """``heldout`` for one episode in ten, by a hash of its index alone: stable when a corpus grows."""
    digest = hashlib.sha256(f"episode-{index}".encode()).digest()
    return HELDOUT if int.from_bytes(digest[:4], "big") % 100 < HELDOUT_PERCENT else TRAIN


def partial_path(path: Path) -> Path:
    """Where the unfinished store of ``path`` is written."""
    return path.with_name(path.name + ".partial")


def checksum(frames: Frames) -> int:
    """crc32 of an episode's bytes."""
    return zlib.crc32(frames.tobytes())


def write_object(path: Path, value: Mapping[str, Any]) -> None:
    """Write a new JSON file to disk; its bytes are part of a store's hash, so their form is fixed: sorted, indent 1."""
    write_file(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_object(path: Path, hint: str = HINT) -> dict[str, Any]:
    """Read what :func:`write_object` wrote.

    Raises:
        DataError: it is missing or broken; says where in it, and what to do.
    """
    try:
        return read_json(path)
    except FileNotFoundError:
        raise DataError("file is missing", where=str(path), hint=hint) from None
    except DataError as error:
        raise DataError(error.message, where=error.where, hint=hint) from error
