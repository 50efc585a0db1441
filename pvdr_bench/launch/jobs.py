"""What a job does once it has started: ``RunJob`` some runs, ``StageJob`` one artefact.

Submitit's pickle holds one of these, and they hold paths; everything else is read from the files at those paths, so a
job that waited in the queue for a week is still understood. Nothing depends on a signal: every start looks for a
checkpoint. SIGUSR2 (the time limit comes, or a preemption that warns) and the job's own clock make it save, leave and
put itself back into the queue. SIGTERM is scancel or a preemption, and a job cannot tell which: it stops its runs and
waits for its end. Leaving by itself would cost a preempted job its place (slurm does not requeue a job that ends within
the grace time), and putting itself back would undo a scancel.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pvdr_bench.catalog.profile import Profile
from pvdr_bench.catalog.specs import RunSpec, written_spec
from pvdr_bench.errors import BenchError, DataError, Interrupted, LockedError, StorageError, TrainingError
from pvdr_bench.launch.cluster import requeue
from pvdr_bench.launch.local import Job, exit_code_of, run_local
from pvdr_bench.launch.progress import PlainLines
from pvdr_bench.launch.records import STAGE, RunRecord, StageFile, Submission, failed_in_job, write_end
from pvdr_bench.launch.worker import StopFlag
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import write_json
from pvdr_bench.runs.holders import job_id, restarts
from pvdr_bench.runs.provenance import COMMAND, cores
from pvdr_bench.runs.schema import read
from pvdr_bench.runs.users import User
from pvdr_bench.streams import of_no_matter

END_TIME = "SLURM_JOB_END_TIME"  # seconds since 1970; not every version of slurm sets it
STOPPED = Interrupted.exit_code
END_SECONDS = 600.0  # that a job waits for its end after SIGTERM; longer than slurm's usual grace time and KillWait
WHOLE = 0.8  # of the time until the deadline; slurm's warning may come a minute early


class JobStop(StopFlag):
    """Set by signals, as everywhere, and by the clock before the job's time is out."""

    def __init__(self, profile: Profile) -> None:
        super().__init__()
        end = os.environ.get(END_TIME, "")
        limit = float(end) if end.isdigit() else time.time() + 60 * profile.time_min
        self.began, self.deadline = time.time(), limit - profile.leave_s

    def __call__(self) -> bool:
        """Whether to leave."""
        return self.is_set or time.time() >= self.deadline

    @property
    def goes_on(self) -> bool:
        """Whether the job itself has to see to its next start: it was stopped by time, and nobody ended it."""
        ended = {signal.SIGTERM, signal.SIGINT} & set(self.signals)
        return self() and not ended

    @property
    def was_whole(self) -> bool:
        """Whether this start had about all the time that one can have; a preemption may cut it short."""
        return time.time() - self.began >= WHOLE * (self.deadline - self.began)


@dataclass(frozen=True)
class RunJob:
    """Does or continues some runs at the same time, and puts itself back into the queue when its time is out.

    Args:
        paths: the runs' folders; each has ``run.yaml`` and ``job.json``.
    """

    paths: tuple[str, ...]

    @of_no_matter()  # the log's disk may be full
    def __call__(self) -> None:
        """Called by submitit in the job.

        Raises:
            SystemExit: with the documented code, unless all runs are done.
        """
        runs = [Path(path) for path in self.paths]
        record = RunRecord.read(runs[0])
        if record is None:
            raise DataError("this run has no job.json", where=str(runs[0]), hint="submit it again")
        submission = Submission.of(record)
        profile = submission.profile()
        stop = JobStop(profile)
        stop.install()
        os.environ.setdefault(COMMAND, json.dumps(submission.read()["command"]))  # for the runs' provenance
        say(f"job {job_id()}, start {restarts() + 1}, {cores()} cores")
        # A run that failed in an earlier start of this very job would fail again; `retry` is for those.
        todo = [run for run in runs if not failed_in_job(run)]
        before = {run: checkpoints(run) for run in todo}
        with PlainLines(Console(width=200)) as watcher:
            jobs = run_local([read_spec(run) for run in todo], Path(record.results), max(1, len(todo)), profile.device,
                             stop, watcher)
        whole = stop.goes_on and stop.was_whole
        stuck = [run for run in todo if before[run] == checkpoints(run)] if whole else []
        sys.exit(self._end([*jobs, *(failed_before(run) for run in runs if run not in todo)], profile, stop, stuck))

    @staticmethod
    def _end(jobs: Sequence[Job], profile: Profile, stop: JobStop, stuck: Sequence[Path]) -> int:
        """Write down how each run was left, put the job back if it goes on; returns its exit code."""
        stopped = [job for job in jobs if job.state == "stopped"]
        for job in (job for job in stopped if job.path in stuck):
            fail_stuck(job, profile)
        again = [job for job in stopped if job.state == "stopped"]
        for job in jobs:
            if job not in again:
                note_end(job.path, outcome_of(job), job.message)
        if again:
            leave([job.path for job in again], profile, stop)
        return exit_code_of(jobs)


@dataclass(frozen=True)
class StageJob:
    """Makes one artefact, in one process or as one of several.

    Args:
        path: the stage's folder in its submission; has ``stage.json``: stage, spec, submission.
    """

    path: str

    @of_no_matter()  # the log's disk may be full
    def __call__(self) -> None:
        """Called by submitit in every process of the job.

        Raises:
            SystemExit: with the documented code, unless the artefact is there.
        """
        folder = Path(self.path)
        order = read(StageFile, folder / STAGE)
        submission = Submission(folder.parent)
        profile = submission.profile("stages")
        os.environ.setdefault(COMMAND, json.dumps(submission.read()["command"]))  # for the artefact's provenance
        stop = JobStop(profile)
        stop.install()
        say(f"job {job_id()}, start {restarts() + 1}: {order['stage']}")
        try:
            spec = written_spec(order["spec"], str(folder / STAGE))
            path = make_artefact(spec, order["stage"], profile, stop, submission.user, folder)
        except Interrupted:
            if leads():
                leave([folder], profile, stop)
            else:
                time.sleep(END_SECONDS)  # the first process ends the job; one that left before would end it too soon
            sys.exit(STOPPED)
        except Exception as error:
            if leads():
                kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
                note_end(folder, "failed", f"{kind}{error}")
            raise
        if leads():
            note_end(folder, "done", str(path))


def outcome_of(job: Job) -> str:
    """How a job leaves a run that it does not put back into the queue."""
    if job.exit_code == LockedError.exit_code:  # another process has it: what becomes of it is that one's to say
        return "stopped"
    return "failed" if job.state == "failed" else "done"


def leads() -> bool:
    """Whether this process speaks for the job."""
    return os.environ.get("SLURM_PROCID", "0") == "0"


def make_artefact(spec: RunSpec, stage: str, profile: Profile, stop: JobStop, user: User, folder: Path) -> Path:
    """Find or make an artefact, together with the job's other processes, telling watchers how far it is.

    Args:
        user: the runs that may come to stand on it.
    """
    import torch

    from pvdr_bench.rl.distributed import process_group
    from pvdr_bench.training.stages import Stages

    torch.set_num_threads(1)
    told = [0.0]

    def report(what: str, done: int, total: int) -> None:
        if leads() and time.monotonic() - told[0] > 1:
            told[0] = time.monotonic()
            write_json(folder / "heartbeat.json", {"time": time.time(), "job": job_id(), "phase": what, "done": done,
                                                   "total": total, "restarts": restarts()}, durable=False)

    with process_group(profile.device) as group:
        stages = Stages(spec, str(group.device), stop, workers=cores(), report=report, say=say, user=user)
        return stages.artefact(stage).path


def leave(folders: Sequence[Path], profile: Profile, stop: JobStop) -> None:
    """Put the job back into the queue if it goes on, and write down what was done; else wait for its end."""
    job, (outcome, message) = job_id(), verdict(profile, stop)
    for folder in folders:  # before the requeue: the scheduler ends this process soon after
        note_end(folder, outcome, message)
    say(f"left: {message}")
    if outcome == "requeued" and job is not None:
        try:
            requeue(job)
        except TrainingError as error:
            say(str(error))
            for folder in folders:
                note_end(folder, "stopped", str(error))
    elif job is not None and not stop.goes_on:
        time.sleep(END_SECONDS)


def verdict(profile: Profile, stop: JobStop) -> tuple[str, str]:
    """``requeued`` or ``stopped``, and why."""
    if not stop.goes_on:
        return "stopped", "ended by a signal; the scheduler starts it again if it was preempted, else `retry` continues"
    if restarts() >= profile.max_restarts:
        return "stopped", f"started {restarts() + 1} times, all that max_restarts allows; `retry` continues"
    if job_id() is None:
        return "stopped", "not in a job that could be put back; the same command continues"
    return "requeued", "its time was out; it continues in its next start"


def note_end(folder: Path, outcome: str, message: str) -> None:
    """Write down how this job left a run or a stage; a full disk must not keep it from going on."""
    try:
        write_end(folder, outcome, message, job_id())
    except StorageError as error:
        say(str(error))


def fail_stuck(job: Job, profile: Profile) -> None:
    """A whole time limit without a checkpoint would repeat itself for ever."""
    run_dir = RunDir(job.path)
    phase = last_phase(run_dir)
    error = TrainingError(f"no checkpoint was published in a whole start of {profile.time_min} minutes"
                          + (f", which ended in the phase {phase!r}" if phase else ""), where=str(job.path),
                          hint=f"raise time_min in the profile, then `pvdr-bench retry --profile {profile.name}`")
    try:
        with run_dir.lock():
            run_dir.mark_failed(error)
    except LockedError:
        return  # another process has taken it over, and it is theirs
    job.state, job.exit_code, job.message = "failed", error.exit_code, str(error)


def last_phase(run_dir: RunDir) -> str | None:
    """What a run told of last in this start of the job, such as ``evaluate final``; None where it told nothing."""
    beat = run_dir.last_beat()
    return beat.get("phase") if (beat.get("job"), beat.get("restarts")) == (job_id(), restarts()) else None


def failed_before(run: Path) -> Job:
    """A run that failed in an earlier start of this job."""
    failed = RunDir(run).failed() or {}
    return Job(read_spec(run), run, "failed", int(failed.get("exit_code", 1)), str(failed.get("message", "")))


def checkpoints(run: Path) -> list[int]:
    """Steps of a run's checkpoints."""
    return RunDir(run).checkpoints.steps()


def read_spec(run: Path) -> RunSpec:
    """A run's specification from its own ``run.yaml``.

    Raises:
        DataError: there is none, or it is broken.
    """
    found = RunDir(run).read_run()
    if found is None:
        raise DataError("this run has no run.yaml", where=str(run), hint="submit it again")
    return written_spec(found["spec"], str(run / "run.yaml"))


def say(text: str) -> None:
    """A line for the job's log."""
    print(text, flush=True)
