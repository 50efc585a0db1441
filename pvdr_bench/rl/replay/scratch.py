"""Replay on a node's own disk: the folder, and copying to and from the run's. Imports no torch."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pvdr_bench.errors import SetupError
from pvdr_bench.runs.files import content_hash

SCRATCH = "PVDR_BENCH_SCRATCH"
_COPY_BYTES = 2**24


def scratch_folder(folder: Path) -> Path | None:
    """Where the streams of ``folder`` live while they are used; None: in the folder itself.

    Raises:
        SetupError: the variable is set to nothing: what it was made of does not exist on this node.
    """
    chosen = os.environ.get(SCRATCH)
    if chosen is None:
        return None
    if not chosen:
        raise SetupError("the scratch folder's name is empty on this node", where=SCRATCH,
                         hint="the profile's `scratch` names a variable that is not set here; null: replay in the run")
    return Path(chosen) / f"replay-{os.getuid()}-{content_hash(str(folder.resolve()))}"


def copy_bytes(source: int, target: int, start: int, end: int) -> None:
    """Copy bytes [start, end) of an open file to the same place of another.

    Raises:
        OSError: the disk is full.
    """
    while start < end:
        data = os.pread(source, min(_COPY_BYTES, end - start), start)
        if os.pwrite(target, data, start) < len(data) or not data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        start += len(data)
