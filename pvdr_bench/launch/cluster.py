"""The scheduler's commands, as few of them as will do: one question about all jobs, cancel, requeue.

Jobs are found by name and array index (``pvdr-SUBMISSION-JOB``, index), which are chosen before anything is submitted:
a submitter that dies between ``sbatch`` and writing the job's number loses nothing. Accounting is never needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pvdr_bench.errors import SetupError, TrainingError

PREFIX = "pvdr-"
_FIELDS = "%j|%A|%F|%K|%T|%N|%r|%L"  # name, job, array job, array index, state, nodes, reason, time left
_SECONDS = 60.0
# SQUEUE_PARTITION or SQUEUE_STATES of a user's shell would hide jobs, which would then be submitted again.
_INHERITED = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_", "PMI_", "PMIX_", "SQUEUE_", "SCANCEL_")
_DISTRIBUTED = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_KEPT = ("SLURM_CONF",)  # without it no command of a site that sets it works


@dataclass(frozen=True)
class QueuedJob:
    """One job, or one element of an array, that the scheduler knows."""

    name: str
    index: int  # of the array; 0 for a job that is none
    job_id: str  # as scancel and scontrol take it: 12 or 12_3
    state: str  # PENDING, RUNNING, COMPLETING, ...
    node: str
    reason: str  # why it waits
    left: str  # time left, as squeue prints it

    @property
    def waits(self) -> bool:
        """Whether it has not started (or not again)."""
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "CONFIGURING")


Queue = Mapping[tuple[str, int], QueuedJob]  # by name and array index


@contextmanager
def clean_environment() -> Iterator[None]:
    """Hide what an enclosing job put into the environment: sbatch would take it for the new job's wishes."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ)
              if name not in _KEPT and (name.startswith(_INHERITED) or name in _DISTRIBUTED)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def command(words: Sequence[str]) -> str:
    """Standard output of a scheduler's command.

    Raises:
        SetupError: it is not installed here, or it failed.
    """
    if shutil.which(words[0]) is None:
        raise SetupError(f"the command {words[0]} is not here, so this is no machine to submit from",
                         hint="log in to the cluster's login node, or try slurm/sandbox; `run` needs no scheduler")
    try:
        with clean_environment():
            done = subprocess.run(list(words), capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"{words[0]} did not answer within {_SECONDS:g} s", hint="is slurmctld up? try `sinfo`"
                         ) from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]  # the last one is the verdict
        raise SetupError(f"{words[0]} failed: {said}",
                         where=" ".join(words[:3]), hint="is slurmctld up? try `sinfo`")
    return done.stdout


def has_scheduler() -> bool:
    """Whether jobs can be asked for here."""
    return shutil.which("squeue") is not None


def queue() -> Queue:
    """All of this user's jobs that pvdr-bench submitted, by name and array index; one call, whatever their number."""
    # By number: USER is another one's after `sudo -E` or in some containers, and that one has no jobs.
    text = command(["squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format", _FIELDS])
    jobs = [job for line in text.splitlines() if (job := _parse(line)) is not None]
    return {(job.name, job.index): job for job in jobs}


def queue_if_any() -> tuple[Queue | None, str]:
    """The queue, or None and why it could not be asked: for commands that only look."""
    if not has_scheduler():
        return None, "no scheduler here: states are those of the files"
    try:
        return queue(), ""
    except SetupError as error:
        return None, f"{error.message}; states are those of the files"


def _parse(line: str) -> QueuedJob | None:
    parts = [part.strip() for part in line.split("|")]
    if len(parts) != 8 or not parts[0].startswith(PREFIX):
        return None
    name, number, array, index, state, node, reason, left = parts
    if index.isdigit():
        return QueuedJob(name, int(index), f"{array}_{index}", state, node, reason, left)
    return QueuedJob(name, 0, number, state, node, reason, left)


def cancel(job_ids: Sequence[str]) -> None:
    """Take jobs out of the queue, or ask running ones to leave; their last checkpoints stand."""
    for start in range(0, len(job_ids), 200):  # a command line has a limit
        command(["scancel", *job_ids[start:start + 200]])


def requeue(job_id: str) -> None:
    """Put a running job back into the queue; the scheduler ends this process soon after.

    Raises:
        TrainingError: the node has no scontrol, or it failed; nothing is lost.
    """
    try:
        command(["scontrol", "requeue", job_id])
    except SetupError as error:
        raise TrainingError(f"job {job_id} could not be put back into the queue: {error.message}",
                            hint="nothing is lost: the same `submit` command, or `retry`, continues") from error
