"""Serialise a step of milliseconds between processes, with ``flock`` where the file system has one."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pvdr_bench.errors import LockedError
from pvdr_bench.runs.files import storage_errors

GUARD_SECONDS = 10.0


@contextmanager
def guarded(path: Path, what: str) -> Iterator[None]:
    """Be the only one within this block, as far as the file system has flock; ``path`` is made and stays.

    Raises:
        LockedError: another process hangs in it.
        StorageError: the file cannot be made.
    """
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _flock(descriptor):
            raise LockedError(f"{what} is being locked by another process that hangs", where=str(path))
        yield
    finally:
        os.close(descriptor)  # the kernel lets the flock go, also when the process dies


def _flock(descriptor: int) -> bool:
    """Wait for the flock; False if it did not come. True where the file system has none: nothing serialises there."""
    deadline = time.monotonic() + GUARD_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                return True
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
