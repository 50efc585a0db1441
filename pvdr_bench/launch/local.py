"""Runs on this machine: each in a process of its own, at most ``jobs`` at a time, with the progress of all.

A run that fails writes ``failed.json`` and leaves its siblings alone. Results depend on the number of torch threads,
so every process has one; use more jobs, not more threads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.errors import BenchError, LockedError, SetupError, StorageError, TrainingError
from pvdr_bench.runs.archive import archived_runs
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import storage_errors
from pvdr_bench.runs.folders import place_of
from pvdr_bench.runs.provenance import COMMAND, cores, typed_command

POLL_SECONDS = 0.5
WORKER = (sys.executable, "-m", "pvdr_bench.launch.worker")
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass
class Job:
    """A run and what became of it."""

    spec: RunSpec
    path: Path
    state: str = "waiting"  # waiting | running | done | skipped | stopped | failed
    exit_code: int | None = None
    message: str = ""
    process: subprocess.Popen[bytes] | None = None
    told: bool = False  # to stop
    log: IO[bytes] | None = None  # standard error, RUN/worker.log
    output: IO[bytes] | None = None  # standard output; a file, since a pipe would wait for grandchildren
    began: float | None = None  # when its process was started, and when it was gone; seconds on a clock of its own
    ended: float | None = None

    @property
    def label(self) -> str:
        """Short name for people."""
        corpus = f" · {self.spec.corpus}" if self.spec.corpus else ""
        return f"{self.spec.variant} · {self.spec.task.name}{corpus} · seed {self.spec.seed}"

    @property
    def seconds(self) -> float:
        """How long its process has run, or ran."""
        if self.began is None:
            return 0.0
        return (time.monotonic() if self.ended is None else self.ended) - self.began


class Watcher:
    """Shown the jobs about twice a second; see :mod:`pvdr_bench.launch.progress`."""

    def update(self, jobs: Sequence[Job]) -> None:
        """Called at every poll."""


class Together(Watcher):
    """Several watchers, each shown the jobs."""

    def __init__(self, *watchers: Watcher) -> None:
        self.watchers = watchers

    def update(self, jobs: Sequence[Job]) -> None:
        """Show them to all."""
        for watcher in self.watchers:
            watcher.update(jobs)


def at_a_time(runs: int, core_count: int) -> int:
    """How many of ``runs`` equal runs of one thread each should share ``core_count`` cores to be done soonest.

    Five on two cores are three and then two, which takes 2.5 times as long as one; two, two and one take 3 times. At
    most half as many again as there are cores, for the sake of memory.
    """
    def length(jobs: int) -> float:
        return sum(max(1.0, min(jobs, runs - first) / core_count) for first in range(0, runs, jobs))

    least = max(1, min(runs, core_count))
    return min(range(least, max(least, min(runs, 3 * core_count // 2)) + 1), key=length)


def run_local(specs: Sequence[RunSpec], results: Path, jobs: int, device: str, stop: Callable[[], bool],
              watcher: Watcher | None = None, command: Sequence[str] = WORKER) -> list[Job]:
    """Do all runs that are not done yet; returns every run with its outcome.

    When ``stop`` says so, running processes get SIGTERM, save nothing new and leave; none is left behind.
    """
    archived = archived_runs(results)
    todo = [Job(spec, place_of(spec.path("").as_posix(), results, archived)) for spec in specs]
    for job in todo:
        run_dir = RunDir(job.path)
        if run_dir.is_done(job.spec.protocol.env_steps) and run_dir.failed() is None:
            job.state, job.exit_code = "skipped", 0
    env_workers = max(1, cores() // max(1, min(jobs, len(todo))))
    try:
        while any(job.state in ("waiting", "running") for job in todo):
            running = [job for job in todo if job.state == "running"]
            for job in running:
                _collect(job)
            if stop():
                for job in todo:
                    if job.state == "waiting":
                        job.state, job.exit_code, job.message = "stopped", 75, "not started"
                    elif job.state == "running" and not job.told and job.process is not None:
                        job.told = True
                        job.process.terminate()
            waiting = [job for job in todo if job.state == "waiting"]
            free = jobs - sum(job.state == "running" for job in todo)
            for job in waiting[:max(0, free)]:
                _start_or_fail(job, results, device, env_workers, command)
            if watcher is not None:
                watcher.update(todo)
            time.sleep(POLL_SECONDS if any(job.state == "running" for job in todo) else 0)
    finally:
        for job in todo:
            if job.process is not None and job.process.poll() is None:
                job.process.kill()
                job.process.wait()
    return todo


def _start_or_fail(job: Job, results: Path, device: str, env_workers: int, command: Sequence[str]) -> None:
    """Start a run's process. One that cannot be started has failed and has no ``failed.json``, since it has not begun;
    those that run go on."""
    error: BenchError
    try:
        _start(job, results, device, env_workers, command)
        return
    except StorageError as found:
        error = found
    except OSError as found:
        error = SetupError(f"the run's process cannot be started: {found.strerror or found}", where=str(job.path),
                           hint="too many processes or files? use fewer --jobs; `ulimit -a` says what is allowed")
    _close_files(job)
    job.state, job.exit_code, job.message = "failed", error.exit_code, str(error)


def _start(job: Job, results: Path, device: str, env_workers: int, command: Sequence[str]) -> None:
    """Start a run's process in a session of its own, so that only this process gets the terminal's Ctrl-C."""
    with storage_errors(job.path):
        job.path.mkdir(parents=True, exist_ok=True)
        job.log = (job.path / "worker.log").open("ab")
    with storage_errors(None):  # it names the folders that were tried
        job.output = tempfile.TemporaryFile()  # noqa: SIM115
    environment = {COMMAND: json.dumps(typed_command()), **os.environ,
                   **({} if device.startswith("cuda") else dict.fromkeys(ONE_THREAD, "1"))}
    job.process = subprocess.Popen(list(command), stdin=subprocess.PIPE, stdout=job.output, stderr=job.log,
                                   env=environment, start_new_session=True)
    order = {"spec": job.spec.model_dump(mode="json"), "results": str(results), "device": device,
             "env_workers": env_workers}
    assert job.process.stdin is not None
    with suppress(BrokenPipeError):  # it died at once; its exit code tells
        job.process.stdin.write(json.dumps(order).encode() + b"\n")
        job.process.stdin.flush()
    job.state, job.began = "running", time.monotonic()


def _collect(job: Job) -> None:
    """Take a finished process's outcome."""
    assert job.process is not None and job.process.stdin is not None and job.output is not None
    code = job.process.poll()
    if code is None:
        return
    job.ended = time.monotonic()
    job.output.seek(0)
    outcome = _last_json(job.output.read())
    with suppress(BrokenPipeError):
        job.process.stdin.close()
    _close_files(job)
    if outcome is None and job.told and code == -signal.SIGTERM:
        job.exit_code, job.message = 75, "stopped before it began"  # it was not yet ready to hear of it
    elif outcome is None:
        job.exit_code, job.message = _died(job, code)
    else:
        job.exit_code, job.message = int(outcome["exit_code"]), str(outcome["message"])
    job.state = {0: "done", 75: "stopped"}.get(job.exit_code, "failed")


def _close_files(job: Job) -> None:
    """Close what its process writes to, as far as it was opened."""
    for file in (job.output, job.log):
        if file is not None:
            file.close()


def _last_json(output: bytes) -> dict[str, Any] | None:
    lines = output.strip().splitlines()
    if not lines:
        return None
    try:
        value = json.loads(lines[-1])
    except ValueError:
        return None
    return value if isinstance(value, dict) and "exit_code" in value else None


def _died(job: Job, code: int) -> tuple[int, str]:
    """A process that ended without a word: killed, or a crash below Python. Its run gets a failed.json."""
    how = f"by signal {-code}" if code < 0 else f"with code {code}"
    hint = "out of memory? use fewer --jobs" if code == -9 else f"see {job.path / 'worker.log'}"
    error = TrainingError(f"the run's process ended {how} without a word", where=str(job.path),
                          hint=f"{hint}; the same command continues from the last checkpoint")
    run_dir = RunDir(job.path)
    # Locked: another process has taken the run over, and it is theirs. A full disk must not end the other runs.
    with suppress(LockedError, StorageError), run_dir.lock():
        run_dir.mark_failed(error)
    return error.exit_code, str(error)


def exit_code_of(jobs: Sequence[Job]) -> int:
    """0 if all are done; the common code of those that are not, or 1 where they differ."""
    codes = {job.exit_code for job in jobs if job.exit_code}
    if not codes:
        return 0
    failures = codes - {75} or {75}
    return next(iter(failures)) if len(failures) == 1 else 1


