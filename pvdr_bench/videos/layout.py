"""What lies on disk of the one clip store that all corpora share: episodes of RGB frames, memory-mapped.

A published store is an immutable folder:

=============== ====================================================================================================
``frames.u8``   raw uint8 [F, H, W, 3], all episodes one after another
``index.json``  ``image_size``, ``fps`` (0: unknown), ``episodes`` = [[start, length, source, split], ...], ``crc32``
                per episode
``truth.npz``   optional side file, arrays [F, ...] of the simulator's truth (actions, hand position). **Learning from
                videos never reads it**; it exists for offline probes (inverse dynamics, planner test) alone.
``manifest.json`` recipe, hash, bytes and sha256 of every file; of real videos ``about``: source, licence, citation
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
from typing import Any, BinaryIO

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
_AT_ONCE = 2**22  # bytes
HINT = "delete the folder and make the corpus again: pvdr-bench videos generate"

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Episode:
    """Frames ``start`` to ``start + length`` of a store."""

    start: int
    length: int
    source: str
    split: str


def split_of(episode: int | str) -> str:
    """``heldout`` for one episode in ten, by a hash of its index or name alone: stable when a corpus grows."""
    digest = hashlib.sha256(f"episode-{episode}".encode("utf-8", "surrogateescape")).digest()
    return HELDOUT if int.from_bytes(digest[:4], "big") % 100 < HELDOUT_PERCENT else TRAIN


def partial_path(path: Path) -> Path:
    """Where the unfinished store of ``path`` is written."""
    return path.with_name(path.name + ".partial")


def checksum_ahead(file: BinaryIO, size: int) -> int:
    """crc32 of the next ``size`` bytes of a file (fewer at its end), a few of them in memory at a time."""
    crc = 0
    while size > 0 and (data := file.read(min(size, _AT_ONCE))):
        crc, size = zlib.crc32(data, crc), size - len(data)
    return crc


def write_object(path: Path, value: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write a new JSON file; its bytes are part of a store's hash, so their form is fixed: sorted, indent 1."""
    write_file(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode(), durable=durable)


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
