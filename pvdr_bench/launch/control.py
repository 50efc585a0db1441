"""Ending jobs, and finding what they printed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from pvdr_bench.errors import SetupError
from pvdr_bench.launch import cluster
from pvdr_bench.launch.records import RunRecord, Submission

WAIT_SECONDS = 60.0


def cancel_and_wait(job_ids: Sequence[str], seconds: float = WAIT_SECONDS) -> None:
    """Cancel jobs, and wait until the scheduler has let them go.

    Raises:
        SetupError: they are still there after a while.
    """
    if not job_ids:
        return
    cluster.cancel(job_ids)
    deadline = time.monotonic() + seconds
    while left := {job.job_id for job in cluster.queue().values()} & set(job_ids):
        if time.monotonic() > deadline:
            raise SetupError(f"jobs {', '.join(sorted(left))} are still in the queue {seconds:g} s after scancel",
                             hint="their node may be down; try again later")
        time.sleep(1)


def log_files(run: Path) -> list[Path]:
    """What a run's processes and jobs printed: the run's own log first, then those of its last job's submission."""
    files = [run / "worker.log"]
    record = RunRecord.read(run)
    if record is not None:
        submission = Submission.of(record)
        job = submission.jobs().get(record.name)
        if job is not None:
            names = (f"{job}_{record.index}_0_log", f"{job}_0_log")  # of an array; of a job alone
            files += [submission.logs / f"{name}.{kind}" for name in names for kind in ("out", "err")]
    return [path for path in files if path.is_file() and path.stat().st_size]
