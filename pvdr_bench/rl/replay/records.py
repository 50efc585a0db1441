"""A file of records of one size. Imports no torch."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import DataError
from pvdr_bench.rl.replay.scratch import copy_bytes
from pvdr_bench.runs.files import storage_errors


class RecordFile:
    """Records one after the other in ``folder``; or in ``scratch``, and in the folder what was saved.

    Args:
        size: bytes of a record.
    """

    def __init__(self, folder: Path, name: str, size: int, scratch: Path | None = None) -> None:
        self.path, self.saved, self.size = (scratch or folder) / name, folder / name, size
        self.fd = _open(self.path)
        self.home = None if scratch is None else _open(self.saved)

    def write(self, start: int, data: bytes) -> None:
        """Write whole records from record ``start`` on.

        Raises:
            StorageError: the disk is full.
        """
        with storage_errors(self.path):
            if os.pwrite(self.fd, data, start * self.size) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read(self, start: int, count: int) -> bytes:
        """Records [start, start + count)."""
        return os.pread(self.fd, count * self.size, start * self.size)

    def read_into(self, start: int, place: NDArray[np.uint8]) -> None:
        """Records from ``start`` on, as many as fill ``place``: no copy is made on the way.

        Raises:
            DataError: the file ends before.
        """
        if (found := os.preadv(self.fd, [place.data], start * self.size)) < place.nbytes:
            raise DataError(f"replay ends at byte {start * self.size + found}", where=str(self.path),
                            hint="another process shortened it; delete the run folder and start the run again")

    def save(self, start: int, end: int) -> None:
        """Bring records [start, end) to the run's folder, where that is another one than they are in.

        Raises:
            StorageError: its disk is full.
        """
        if self.home is not None:
            with storage_errors(self.saved):
                copy_bytes(self.fd, self.home, start * self.size, end * self.size)

    def sync(self) -> None:
        """Force what the run's folder has to its disk.

        Raises:
            StorageError: the disk is full; a network file system may say so only now.
        """
        with storage_errors(self.saved):
            os.fsync(self.fd if self.home is None else self.home)

    def cut(self, needed: int, length: int) -> None:
        """Keep at most the first ``length`` records, those that the run's folder has.

        Raises:
            DataError: there are fewer than ``needed``.
        """
        if self.home is not None:
            self._fetch(length)
        have = os.fstat(self.fd).st_size
        if have < needed * self.size:
            raise DataError(f"replay ends at byte {have}, the checkpoint needs {needed * self.size}",
                            where=str(self.path), hint="delete the run folder and start the run again")
        if have > length * self.size:
            os.ftruncate(self.fd, length * self.size)

    def _fetch(self, length: int) -> None:
        """Copy the first ``length`` records back from the run's folder, as far as it has them, and cut it there."""
        assert self.home is not None
        end = min(length * self.size, os.fstat(self.home).st_size)
        with storage_errors(self.path):
            os.ftruncate(self.fd, 0)
            copy_bytes(self.home, self.fd, 0, end)
            os.ftruncate(self.home, end)

    def close(self) -> None:
        """Close the file and the run's copy.

        Raises:
            StorageError: the disk is full, see :meth:`sync`.
        """
        with storage_errors(self.saved):
            os.close(self.fd)
            if self.home is not None:
                os.close(self.home)


def _open(path: Path) -> int:
    """For reading and writing; made where it is missing."""
    with storage_errors(path):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
