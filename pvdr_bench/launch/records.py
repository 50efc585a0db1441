"""What is written down about jobs, so that files alone tell which run belongs to which.

::

    RESULTS/.slurm/lock                      one submitter at a time
    RESULTS/.slurm/snapshots/HASH/           the code that jobs run
    RESULTS/.slurm/SUBMISSION/submission.json
                              logs/          of slurm and submitit
                              stage-0/       stage.json, heartbeat.json, job_end.json
    RUN/job.json                             the job a run was last submitted with   } one writer each:
    RUN/job_end.json                         how that job last left it               } submitter and job
"""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import ValidationError
from typing_extensions import TypedDict

from pvdr_bench.catalog.profile import Profile
from pvdr_bench.errors import DataError, UnreadableError
from pvdr_bench.launch.cluster import PREFIX
from pvdr_bench.runs.files import write_json
from pvdr_bench.runs.schema import Count, Finite, read, read_if_any
from pvdr_bench.runs.users import User

FOLDER = ".slurm"
JOB, JOB_END, STAGE, SUBMISSION = "job.json", "job_end.json", "stage.json", "submission.json"


class JobFile(TypedDict):
    """``job.json``, see :class:`RunRecord`."""

    submission: str
    name: str
    index: Count
    env_steps: Count
    results: str
    after: str | None


class StageFile(TypedDict):
    """``stage.json``: what a stage's job is there for."""

    stage: Literal["tokenize", "pretrain"]
    label: str
    name: str
    spec: dict[str, Any]


class SubmissionFile(TypedDict):
    """``submission.json``."""

    command: list[str]
    snapshot: str
    profiles: dict[str, dict[str, Any]]
    stages: dict[str, str]  # name of a stage's job -> key of the stage
    arrays: dict[str, list[list[str]]]  # name of an array -> paths of each element's runs below the results folder
    jobs: dict[str, str]  # name -> number


class EndFile(TypedDict):
    """``job_end.json``: how a job left a run or a stage."""

    time: NotRequired[Finite]
    job: NotRequired[str | None]
    outcome: Literal["requeued", "done", "failed", "stopped"]
    message: str


class BeatFile(TypedDict):
    """``heartbeat.json`` of a stage's job."""

    phase: str
    done: Count
    total: Count


@dataclass(frozen=True)
class RunRecord:
    """``RUN/job.json``: the job that a run was last submitted with."""

    submission: str
    name: str  # the job's name, which squeue shows
    index: int  # in its array
    env_steps: int  # the budget asked for
    results: str  # folder of all runs
    after: str | None  # name of the stage job it waits for

    def write(self, run: Path) -> None:
        """Into the run's folder; an earlier job's end is forgotten.

        Brought to the disk: without it nobody knows the job that is about to be in the queue.
        """
        (run / JOB_END).unlink(missing_ok=True)
        write_json(run / JOB, asdict(self))

    @classmethod
    def read(cls, run: Path) -> RunRecord | None:
        """Of a run; None where it was never submitted.

        Raises:
            DataError: another version wrote it, or it is broken. UnreadableError: it cannot be read, and may be whole.
        """
        try:
            found = read(JobFile, run / JOB)
        except FileNotFoundError:
            return None
        except UnreadableError:
            raise
        except DataError as error:
            raise DataError(f"not a job's description: {error.message}", where=error.where,
                            hint="submit the run again: it is then written anew") from error
        return cls(**{key: found[key] for key in JobFile.__annotations__})  # type: ignore[literal-required]


@dataclass(frozen=True)
class Submission:
    """One submission's folder."""

    path: Path

    @classmethod
    def new(cls, results: Path) -> Submission:
        """A folder that no other submission has; made when it is first written to."""
        return cls(home(results) / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}")

    @classmethod
    def of(cls, record: RunRecord) -> Submission:
        """The submission of a run's job."""
        return cls(home(Path(record.results)) / record.submission)

    @property
    def name(self) -> str:
        """Its name, which is part of its jobs' names."""
        return self.path.name

    @property
    def logs(self) -> Path:
        """Where slurm writes what its jobs print."""
        return self.path / "logs"

    def read(self) -> SubmissionFile:
        """``submission.json``.

        Raises:
            DataError: it was removed, or is broken.
        """
        try:
            return read(SubmissionFile, self.path / SUBMISSION)
        except FileNotFoundError as error:
            raise DataError("this submission's folder was removed", where=str(self.path / SUBMISSION),
                            hint="submit its runs again, or name a --profile") from error

    def jobs(self) -> dict[str, str]:
        """Numbers of its jobs by their names; without those whose submitter died before it wrote them down."""
        try:
            return self.read()["jobs"]
        except DataError:
            return {}

    def write(self, facts: dict[str, Any]) -> None:
        """Replace ``submission.json``."""
        write_json(self.path / SUBMISSION, facts)

    def runs_of(self, record: RunRecord) -> list[Path]:
        """All runs of the job that does this one (with several in a job, none can be ended alone); empty if unknown."""
        try:
            element = self.read()["arrays"][record.name][record.index]
        except (DataError, LookupError):
            return []
        return [Path(record.results) / path for path in element]

    @property
    def user(self) -> User:
        """All its runs, as users of what its stages make; a run that comes to stand on something else is none."""
        elements = [element for array in self.read()["arrays"].values() for element in array]
        return User(self.path.parent.parent, tuple(sorted(run for element in elements for run in element)))

    def profile(self, kind: str = "runs") -> Profile:
        """The profile of its ``runs`` or ``stages``, as it was when they were submitted.

        Raises:
            DataError: the file was removed, is broken, or of another version.
        """
        try:
            return Profile.model_validate(self.read()["profiles"][kind])
        except (KeyError, ValidationError) as error:
            raise DataError(f"the profile of {kind} does not fit this version: {error}",
                            where=str(self.path / SUBMISSION), hint="submit the runs again") from error


def home(results: Path) -> Path:
    """The folder of all that belongs to jobs."""
    return results / FOLDER


def job_name(submission: Submission, kind: str, number: int) -> str:
    """Name of a job, unique in the queue: kind ``s`` for stages, ``r`` for arrays of runs."""
    return f"{PREFIX}{submission.name}-{kind}{number}"


def stage_path(results: Path, name: str) -> Path:
    """The folder of a stage by the name of its job, in whichever submission it is."""
    submission, _, number = name.removeprefix(PREFIX).rpartition("-s")
    return home(results) / submission / f"stage-{number}"


def submissions(results: Path) -> list[Submission]:
    """All submissions of a results folder, the oldest first."""
    return [Submission(path.parent) for path in sorted(home(results).glob(f"*/{SUBMISSION}"))]


def failed_in_job(run: Path) -> bool:
    """Whether a run failed after it was last submitted; an older failure is what the job is there to mend."""
    try:
        return (run / "failed.json").stat().st_mtime_ns > (run / JOB).stat().st_mtime_ns
    except FileNotFoundError:
        return False


def read_end(run: Path) -> EndFile | None:
    """How the last job left a run (or a stage's folder); None while it has not."""
    return read_if_any(EndFile, run / JOB_END)


def read_beat(stage: Path) -> BeatFile | None:
    """How far a stage's job is; None before it began."""
    return read_if_any(BeatFile, stage / "heartbeat.json")


def write_end(run: Path, outcome: str, message: str, job: str | None) -> None:
    """``requeued``, ``done``, ``failed`` or ``stopped``, with a word why."""
    write_json(run / JOB_END, {"time": time.time(), "job": job, "outcome": outcome, "message": message}, durable=False)
