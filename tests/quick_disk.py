"""fsync without waiting for the disk, in the tests' processes. It is for a power cut, which no test can make, and costs
10 ms each time; a file that cannot be synced is still an error. ``test_runs_files_logs.py`` sees that it is called."""

from __future__ import annotations

import os


def _fsync(descriptor: int) -> None:
    os.fstat(descriptor)


os.fsync = _fsync  # type: ignore[assignment]
