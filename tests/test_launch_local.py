"""The local pool: several runs in processes, one of which fails, dies or is stopped."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from pvdr_bench.errors import BenchError, DataError, LockedError
from pvdr_bench.launch import worker
from pvdr_bench.launch.local import Job, Watcher, at_a_time, exit_code_of, run_local
from pvdr_bench.launch.plan import plan_runs
from pvdr_bench.launch.progress import LiveTable, PlainLines, duration
from pvdr_bench.runs.directory import RunDir
from tests.dummies import SYNC, make_spec

COMMAND = (sys.executable, "-m", "tests.dummies", "worker")


@pytest.fixture(autouse=True)
def _in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])


class Script(Watcher):
    """Calls a function at every poll."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def update(self, jobs: Sequence[Job]) -> None:
        self.function(jobs)


def test_failures_leave_siblings_alone_and_a_second_call_skips(tmp_path: Path) -> None:
    specs = [make_spec(seed=0), make_spec(seed=1, config={"nan_at": 1}), make_spec(seed=2, config={"die": True})]
    states: list[list[str]] = []
    output = io.StringIO()
    lines = PlainLines(Console(file=output, width=200))

    def watch(jobs: Sequence[Job]) -> None:
        states.append([job.state for job in jobs])
        lines.update(jobs)

    jobs = run_local(specs, tmp_path, 2, "cpu", lambda: False, Script(watch), COMMAND)
    assert [(job.state, job.exit_code) for job in jobs] == [("done", 0), ("failed", 8), ("failed", 8)]
    assert all(row.count("running") <= 2 for row in states)
    assert exit_code_of(jobs) == 8
    nan, died = (RunDir(job.path).failed() for job in jobs[1:])
    assert nan is not None and "in learn" in nan["traceback"] and "nan" in nan["message"]
    assert died is not None and "signal 9" in died["message"] and died["exit_code"] == 8
    text = output.getvalue()
    assert "seed 0: done" in text and "seed 2: failed" in text and "64/64 env_steps" in text
    again = run_local(specs[:1], tmp_path, 1, "cpu", lambda: False, command=COMMAND)
    assert [(job.state, job.exit_code) for job in again] == [("skipped", 0)]
    table = io.StringIO()
    with LiveTable(Console(file=table, width=160, force_terminal=True)) as live:
        live.update(jobs)
    assert "seed 1" in table.getvalue()


def no_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder stands where the run's log should be, as where a colleague's folder cannot be written."""
    (path / "worker.log").mkdir(parents=True)


def second_fails(function: Any, number: int) -> Any:
    """A function that fails at its second call."""
    calls: list[int] = []

    def call(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(number, os.strerror(number))
        return function(*args, **more)

    return call


def no_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", second_fails(subprocess.Popen, errno.EAGAIN))


def full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", second_fails(tempfile.TemporaryFile, errno.ENOSPC))


@pytest.mark.parametrize(("spoil", "code", "words"), [
    (no_log, 9, "Is a directory"), (no_process, 4, "cannot be started: Resource temporarily unavailable"),
    (full_disk, 9, "No space left on device")])
def test_a_run_that_cannot_be_started_leaves_its_siblings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                spoil: Any, code: int, words: str) -> None:
    """One runs when the second cannot be started, and one waits."""
    specs = [make_spec(seed=seed) for seed in range(3)]
    spoil(specs[1].path(tmp_path), monkeypatch)
    running: list[list[str]] = []
    jobs = run_local(specs, tmp_path, 2, "cpu", lambda: False,
                     Script(lambda jobs: running.append([job.state for job in jobs])), COMMAND)
    assert running[0] == ["running", "failed", "waiting"]
    assert [(job.state, job.exit_code) for job in jobs] == [("done", 0), ("failed", code), ("done", 0)]
    failed = jobs[1]
    assert words in failed.message and exit_code_of(jobs) == code and failed.process is None
    assert all(file is None or file.closed for file in (failed.log, failed.output))
    assert RunDir(failed.path).failed() is None  # it has not begun: the same command begins it


def test_a_stop_reaches_running_and_waiting_runs(tmp_path: Path) -> None:
    specs = [make_spec(seed=seed, env_steps=50_000 * SYNC) for seed in (0, 1)]
    first = RunDir(specs[0].path(tmp_path))
    jobs = run_local(specs, tmp_path, 1, "cpu", lambda: bool(first.checkpoints.steps()), command=COMMAND)
    assert [(job.state, job.exit_code) for job in jobs] == [("stopped", 75), ("stopped", 75)]
    assert exit_code_of(jobs) == 75 and first.holder() is None
    assert not RunDir(specs[1].path(tmp_path)).path.exists()
    reached = first.checkpoints.steps()[-1]
    plans = plan_runs([make_spec(seed=0, env_steps=reached + SYNC), make_spec(seed=1)], tmp_path)
    assert [(plan.state, plan.env_steps) for plan in plans] == [("continue", SYNC), ("new", 2 * SYNC)]
    assert plans[1].evaluation_steps == (3 * 3 + 5) * 8


def test_runs_stop_when_the_pool_is_killed(tmp_path: Path) -> None:
    script = ("from pathlib import Path; from pvdr_bench.launch.local import run_local; from tests.dummies import *; "
              f"run_local([make_spec(env_steps=50_000 * SYNC)], Path({str(tmp_path)!r}), 1, 'cpu', lambda: False, "
              f"command={COMMAND!r})")
    run_dir = RunDir(make_spec().path(tmp_path))
    pool = subprocess.Popen([sys.executable, "-c", script])
    while not run_dir.checkpoints.steps():
        assert pool.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(pool.pid).children(recursive=True)
    assert len(workers) == 1
    os.kill(pool.pid, signal.SIGKILL)
    pool.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    assert run_dir.status() == "stopped" and run_dir.failed() is None


def test_runs_are_packed_onto_cores() -> None:
    assert [at_a_time(runs, 2) for runs in range(8)] == [1, 1, 2, 3, 2, 3, 2, 2]
    assert [at_a_time(runs, 4) for runs in range(3, 10)] == [3, 4, 5, 6, 4, 4, 5]
    assert at_a_time(17, 3) == 3  # 4, 4, 4, 4 and 1 would take longer than 3, 3, 3, 3, 3 and 2
    assert at_a_time(3, 1) == 1 and at_a_time(100, 64) == 64 and at_a_time(90, 64) == 90
    assert all(at_a_time(runs, cores) <= min(runs, 1.5 * cores) for cores in (1, 3, 8) for runs in range(1, 60))


def test_exit_codes_and_durations() -> None:
    def jobs(*codes: int) -> list[Job]:
        return [Job(make_spec(), Path(), exit_code=code) for code in codes]

    assert [exit_code_of(jobs(*codes)) for codes in ((0, 0), (0, 8, 75), (8, 9), (75, 0), (6,))] == [0, 8, 1, 75, 6]
    assert [duration(value) for value in (None, 59.9, 61, 3723, float("inf"))] == ["-", "0:59", "1:01", "1:02:03", "-"]


def test_a_worker_whose_log_cannot_be_written_still_tells_its_outcome() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(COMMAND, input=b"{}\n", stdout=subprocess.PIPE, stderr=full, timeout=90)
    assert json.loads(done.stdout)["message"].startswith("KeyError") and done.returncode == 1


@pytest.mark.parametrize(("error", "traces"), [(LockedError("node1 has this run"), False), (DataError("torn"), True)])
def test_a_run_that_another_process_has_leaves_no_traceback_in_its_log(
        error: BenchError, traces: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def work(*_: object) -> bool:
        raise error

    monkeypatch.setattr(worker, "read_order", dict)
    monkeypatch.setattr(worker, "watch_lifeline", lambda stop: None)
    monkeypatch.setattr(worker.StopFlag, "install", lambda self: self)
    assert worker.main(work) == error.exit_code
    out, err = capsys.readouterr()
    assert json.loads(out)["message"] == str(error) and ("Traceback" in err) == traces
