"""What became of runs: their files first, the scheduler's queue second. Reads no YAML and imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pvdr_bench.errors import BenchError, DataError, UsageError
from pvdr_bench.launch.cluster import Queue, QueuedJob
from pvdr_bench.launch.records import (
    JOB,
    STAGE,
    RunRecord,
    StageFile,
    Submission,
    failed_in_job,
    read_beat,
    read_end,
    stage_path,
    submissions,
)
from pvdr_bench.runs.archive import run_name
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.folders import Refused
from pvdr_bench.runs.folders import run_folders as every_run
from pvdr_bench.runs.holders import certainly_gone, identity
from pvdr_bench.runs.known import KnownRuns
from pvdr_bench.runs.locks import SILENT_SECONDS, FileLock
from pvdr_bench.runs.names import find_run
from pvdr_bench.runs.schema import HeartbeatFile, read
from pvdr_bench.runs.standing import Known, Standing, judge

T = TypeVar("T")
State = Literal["done", "running", "stale", "starting", "queued", "waiting", "failed", "blocked", "stopped", "lost",
                "new", "broken"]
STATES: dict[State, str] = {
    "done": "its budget is reached",
    "running": "a process writes it",
    "stale": "its process has been silent for more than three heartbeats, and may live",
    "starting": "its job runs, and has not opened it yet",
    "queued": "its job waits for the cluster",
    "waiting": "its job waits for a stage's artefact",
    "failed": "it failed; failed.json, or the job's log, says why",
    "blocked": "the stage that it waited for failed or was stopped",
    "stopped": "it was stopped, and can be continued",
    "lost": "its job is gone without a word",
    "new": "it has not started",
    "broken": "it is not what was finished, or a file of it cannot be read",
}
RETRIED: tuple[State, ...] = ("failed", "stale", "lost", "blocked", "stopped")


@dataclass(frozen=True)
class RunStatus:
    """One run, or one stage of a submission, as far as can be told."""

    run: str  # path below the results folder; a stage: SUBMISSION/stage-N
    state: State
    phase: str = ""
    env_steps: int = 0
    budget: int | None = None
    rate: float | None = None  # env_steps per second of this start
    success: float | None = None  # of the last evaluation
    seconds_left: float | None = None
    node: str | None = None
    job: str | None = None
    restarts: int = 0
    silent_seconds: float | None = None  # since its process was last heard of
    note: str = ""

    def row(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def unreadable(name: str, reason: str) -> RunStatus:
    """A folder that cannot be looked into."""
    return RunStatus(name, "broken", note=f"the folder cannot be read: {reason}")


def run_folders(results: Path, refused: Refused = lambda name, reason: None) -> list[Path]:
    """All run directories; seed-2 before seed-10."""
    found = (path for _, path in every_run(results, refused))
    return sorted(found, key=lambda run: (run.parent, len(run.name), run.name))


def named_folders(runs: Sequence[str | Path], results: Path, *, packed: bool = False) -> list[Path]:
    """The folders of runs that somebody names; see :func:`pvdr_bench.runs.names.find_run`.

    Raises:
        UsageError: one is no run of this results folder.
    """
    known = set(run_folders(results)) if packed else set()
    found = [find_run(run, results, packed=packed).resolve() for run in runs]
    for run in found:
        if results not in run.parents and run not in known:
            raise UsageError(f"this is no run below {results}", where=str(run), hint="--results names another folder")
    return list(dict.fromkeys(found))


def status_of(run: Path, results: Path, queue: Queue | None, known: Known | None = None) -> RunStatus:
    """One run's state: its :class:`~pvdr_bench.runs.standing.Standing`, and what the scheduler adds to it.

    Args:
        queue: the scheduler's answer; None where there is no scheduler.
        known: runs that were found intact before.
    """
    name, standing, unread = run_name(run, results), judge(run, known), list[str]()
    record = _tried(lambda: RunRecord.read(run), unread)
    beat = _tried(RunDir(run).read_heartbeat, unread) or HeartbeatFile()
    try:
        found = _status(run, name, queue, standing, record, beat)
    except BenchError as error:
        unread.append(error.message)
        found = RunStatus(name, standing.state, note=standing.why)
    if not unread:
        return found
    # What became of its job is not known; a run that ended without one's help is what its own files say.
    state: State = found.state if standing.state in ("done", "failed", "running") else "broken"
    return replace(found, state=state, note="; ".join(filter(None, (found.note, *unread))))


def _tried(read: Callable[[], T | None], unread: list[str]) -> T | None:
    """What a file says that only watchers need; why it cannot be read goes to ``unread``."""
    try:
        return read()
    except DataError as error:
        unread.append(f"{Path((error.where or 'a file').partition(':')[0]).name} cannot be read: {error.message}")
        return None


def _status(run: Path, name: str, queue: Queue | None, standing: Standing, record: RunRecord | None,
            beat: HeartbeatFile) -> RunStatus:
    entry = queue.get((record.name, record.index)) if queue is not None and record is not None else None
    budget = record.env_steps if record is not None else beat.get("budget")
    lock = FileLock(run / "lock")
    holder, silent = lock.holder(), lock.silence()
    facts: dict[str, Any] = {
        "phase": beat.get("phase", ""), "env_steps": beat.get("env_steps", 0), "budget": budget,
        "success": beat.get("success"), "node": beat.get("node"), "restarts": beat.get("restarts", 0),
        "job": entry.job_id if entry is not None else beat.get("job")}
    if standing.state == "broken":
        return RunStatus(name, "broken", **facts, note=standing.why)
    if holder is not None and (standing.state == "running" or standing.done is None):
        held = _held(name, holder, entry, record, queue, facts | {"rate": beat.get("rate"), "silent_seconds": silent},
                     failed=standing.failed is not None or (run / "failed.json").exists())
        # The rate of a run that has made none of its updates yet says nothing of them.
        return replace(held, seconds_left=None) if beat.get("learned") == 0.0 else held
    done = standing.done
    # Before the queue: other runs of its job may go on.
    if standing.state == "done" and done is not None and done["env_steps"] >= (budget or 0):
        return RunStatus(name, "done", **(facts | {"phase": "done", "env_steps": done["env_steps"],
                                                   "success": done.get("success_any")}))
    if entry is not None and not failed_in_job(run):
        return RunStatus(name, _queued(entry, record), **(facts | {"note": _why(entry), "node": entry.node or None}))
    if standing.state == "failed":
        return RunStatus(name, "failed", **facts, note=_message(standing))
    state, note = _gone(run, record, queue, bool(beat))
    return RunStatus(name, state, **facts, note=note)


def _message(standing: Standing) -> str:
    """The first line of why a run failed."""
    failed = standing.failed or {}
    return next(iter(str(failed.get("message") or failed.get("error") or "no message").splitlines()), "no message")


def _held(name: str, holder: Mapping[str, Any], entry: QueuedJob | None, record: RunRecord | None,
          queue: Queue | None, facts: dict[str, Any], *, failed: bool) -> RunStatus:
    """A run with a lock: alive, silent, or left behind by a process that died."""
    gone, silent = certainly_gone(holder, identity()), facts["silent_seconds"]
    if gone is True or (gone is None and silent > SILENT_SECONDS):
        if entry is not None and (gone or entry.waits):  # such as a job whose node failed, back in the queue
            return RunStatus(name, _queued(entry, record), **(facts | {"note": _why(entry), "rate": None}))
        if not gone and (entry is not None or queue is None or record is None):
            return RunStatus(name, "stale", **facts, note=f"silent for {silent:.0f} s")
        if failed:
            return RunStatus(name, "failed", **facts, note="its process died while it wrote down why")
        return RunStatus(name, "lost", **facts, note="its process is gone and left its lock; `retry` takes it over")
    rate, budget = facts.get("rate") or 0.0, facts.get("budget")
    left = max(0, budget - facts["env_steps"]) / rate if rate > 0 and budget else None
    return RunStatus(name, "running", **facts, seconds_left=left)


def _queued(entry: QueuedJob, record: RunRecord | None) -> State:
    if not entry.waits:
        return "starting"
    unasked = entry.state == "PENDING" and entry.reason == "None"  # the scheduler has not looked at it yet
    return "waiting" if entry.reason.startswith("Dependency") or (unasked and record and record.after) else "queued"


def _why(entry: QueuedJob) -> str:
    return f"{entry.state.lower()}: {entry.reason}" if entry.reason not in ("None", "") else entry.state.lower()


def _gone(run: Path, record: RunRecord | None, queue: Queue | None, began: bool) -> tuple[State, str]:
    """A run that nobody holds, no job waits for, and that is neither done nor failed."""
    if record is None:
        return ("stopped", "the same command continues") if began else ("new", "")
    if end := read_end(run):
        if end["outcome"] == "failed":  # before it was the run's writer, so there is no failed.json
            return "failed", str(end["message"]).splitlines()[0]
        if end["outcome"] == "requeued":
            return ("stopped", "it left the queue before its next start (cancelled?); `retry` continues") \
                if queue is not None else ("queued", "put back into the queue; there is no scheduler here to ask")
        return "stopped", str(end["message"])
    if note := _failed_stage(record):
        return "blocked", note
    if queue is None:
        return "queued", "submitted; there is no scheduler here to ask"
    return "lost", "its job is gone without a word (cancelled while it waited, or killed); `retry` submits it again"


def _failed_stage(record: RunRecord) -> str | None:
    """Why the stage that a run waited for will not come; its job has left the queue, or the run's would be there."""
    if record.after is None:
        return None
    folder = stage_path(Path(record.results), record.after)
    end = read_end(folder)
    if end is None or end["outcome"] not in ("failed", "stopped"):
        return None
    label = read(StageFile, folder / STAGE)["label"]
    return f"{label} {'failed' if end['outcome'] == 'failed' else 'was stopped'}: {str(end['message']).splitlines()[0]}"


def stages_of(results: Path, queue: Queue | None) -> list[RunStatus]:
    """The newest job of each stage that is not done; what came before is made good by it."""
    found: dict[str, RunStatus] = {}
    for submission in submissions(results):
        try:
            stages = submission.read()["stages"]
        except DataError as error:
            found[submission.name] = RunStatus(submission.name, "broken", note=error.message)
            continue
        for name, key in stages.items():
            found.pop(key, None)
            found[key] = _stage(submission, stage_path(results, name), queue)
    return [status for status in found.values() if status.state != "done"]


def _stage(submission: Submission, folder: Path, queue: Queue | None) -> RunStatus:
    name = f"{submission.name}/{folder.name}"
    try:
        order, beat, end = read(StageFile, folder / STAGE), read_beat(folder), read_end(folder)
    except FileNotFoundError:
        return RunStatus(name, "broken", note=f"{STAGE} is missing")
    except DataError as error:
        return RunStatus(name, "broken", note=error.message)
    phase = f"{beat['phase']} {beat['done']:,}/{beat['total']:,}" if beat else ""
    entry = queue.get((order["name"], 0)) if queue is not None else None
    facts: dict[str, Any] = {"phase": f"{order['label']} {phase}".strip(), "job": entry.job_id if entry else None}
    said = end["message"].partition("\n")[0] if end else ""
    if end and end["outcome"] == "done":
        return RunStatus(name, "done", **facts, note=said)
    if end and end["outcome"] == "failed":
        return RunStatus(name, "failed", **facts, note=said)
    if entry is not None:
        state: State = "running" if not entry.waits and beat else _queued(entry, None)
        return RunStatus(name, state, **facts, note=_why(entry), node=entry.node or None)
    if end:
        return RunStatus(name, "stopped", **facts, note=said)
    return RunStatus(name, "lost" if queue is not None else "queued", **facts, note="its job is not in the queue")


def statuses(results: Path, queue: Queue | None, only: Sequence[Path] | None = None) -> list[RunStatus]:
    """All runs of a results folder (or some of them)."""
    known = KnownRuns(results)
    found = [status_of(run, results, queue, known) for run in (run_folders(results) if only is None else only)]
    known.store()
    return found


def was_submitted(run: Path) -> bool:
    """Whether a run was ever handed to a scheduler."""
    return (run / JOB).exists()
