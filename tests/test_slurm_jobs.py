"""Jobs after their start: how they end, what they write down, and when they put themselves back into the queue."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest

from pvdr_bench.errors import Interrupted, LockedError, StorageError, TrainingError
from pvdr_bench.launch import jobs
from pvdr_bench.launch.jobs import JobStop, RunJob, StageJob
from pvdr_bench.launch.local import run_local
from pvdr_bench.launch.records import RunRecord, read_end
from pvdr_bench.launch.watch import statuses
from pvdr_bench.rl.replay.scratch import SCRATCH
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.faults import FULL_AT
from pvdr_bench.runs.files import write_json
from pvdr_bench.runs.provenance import COMMAND
from pvdr_bench.runs.users import User
from tests import dummies
from tests.dummies import SYNC, make_spec
from tests.processes import forked
from tests.slurm_fakes import PROFILE, FakeSlurm, lock, nowhere, slurm, submission, submitted_run
from tests.test_training_exact import results_of

__all__ = ["nowhere", "slurm"]
LIGHT = (sys.executable, "-m", "tests.slurm_worker")
DUMMY = (sys.executable, "-m", "tests.dummies", "worker")
ENVIRONMENT = {"SLURM_JOB_ID": "1000", "SLURM_ARRAY_JOB_ID": "101", "SLURM_ARRAY_TASK_ID": "0"}


@pytest.fixture(autouse=True)
def _worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Jobs start the light worker, and leave this process's signals and variables alone."""
    monkeypatch.chdir(Path(__file__).parents[1])
    monkeypatch.setattr(jobs, "run_local", functools.partial(run_local, command=LIGHT))
    monkeypatch.setattr(jobs, "END_SECONDS", 0.2)
    monkeypatch.setenv(COMMAND, "[]")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1,
                                                                signal.SIGUSR2)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Clock(JobStop):
    """Says that the time is out once these files are there."""

    ready: tuple[Path, ...] = ()

    def __call__(self) -> bool:
        if time.time() < self.deadline and all(path.exists() for path in self.ready):
            self.deadline = time.time()
        return super().__call__()


def run(results: Path, act: str, seed: int = 0) -> Path:
    return submitted_run(results, seed, spec=make_spec(seed=seed, config={"act": act}))


def begin(paths: list[Path], **environment: str) -> ForkProcess:
    """Start a job; its exit code is what slurm would see."""
    def work() -> None:
        RunJob(tuple(map(str, paths)))()
        sys.exit(99)

    return forked(work, **(ENVIRONMENT | environment))


def ended(process: ForkProcess) -> int | None:
    process.join(90)
    return process.exitcode


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def interrupted(paths: list[Path], number: int, **environment: str) -> int | None:
    """Send a signal to a job once all its runs wait; its exit code."""
    process = begin(paths, **environment)
    results = paths[0].parents[4]
    until(lambda: all((results / f"ready-{path.name.removeprefix('seed-')}").exists() for path in paths))
    assert process.pid is not None
    os.kill(process.pid, number)
    return ended(process)


def requeues(fake: FakeSlurm) -> list[list[str]]:
    return [call["words"] for call in fake.calls("scontrol")]


def end_of(path: Path) -> tuple[str, str]:
    found = read_end(path)
    assert found is not None and found["job"] in ("101_0", "1000")
    return found["outcome"], found["message"]


def test_done(slurm: FakeSlurm, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path)
    path = run(tmp_path, "done")
    assert ended(begin([path])) == 0
    assert end_of(path)[0] == "done" and RunDir(path).done() and not requeues(slurm)
    assert "job 101_0, start 1, " in capfd.readouterr().out
    beat = RunDir(path).read_heartbeat()
    assert beat is not None and (beat["job"], beat["restarts"]) == ("101_0", 0)


def test_a_signal_of_the_scheduler_ends_it(slurm: FakeSlurm, tmp_path: Path) -> None:
    submission(tmp_path)
    path = run(tmp_path, "wait")
    assert interrupted([path], signal.SIGTERM) == 75
    assert end_of(path)[0] == "stopped" and "ended by a signal" in end_of(path)[1] and not requeues(slurm)
    assert RunDir(path).failed() is None and RunDir(path).holder() is None


def test_after_sigterm_it_waits_for_its_end(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preempted job that left by itself within the grace time would not be requeued."""
    monkeypatch.setattr(jobs, "END_SECONDS", 60.0)
    submission(tmp_path)
    path = run(tmp_path, "wait")
    process = begin([path])
    until((tmp_path / "ready-0").exists)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    until(lambda: read_end(path) is not None)
    process.join(1)
    assert process.is_alive() and RunDir(path).holder() is None  # the run itself is over
    process.kill()
    process.join()


def test_a_warning_makes_it_leave_and_go_on(slurm: FakeSlurm, tmp_path: Path) -> None:
    submission(tmp_path)
    waits, done = run(tmp_path, "wait"), run(tmp_path, "done", 1)
    process = begin([waits, done])
    until(lambda: (tmp_path / "ready-0").exists() and RunDir(done).done())
    assert process.pid is not None
    os.kill(process.pid, signal.SIGUSR2)
    assert ended(process) == 75
    assert requeues(slurm) == [["requeue", "101_0"]]
    # no checkpoint yet, but the start was cut short: that is no failure
    assert end_of(waits)[0] == "requeued" and end_of(done)[0] == "done" and RunDir(waits).failed() is None
    finished = (done / "starts").stat().st_mtime_ns
    assert ended(begin([waits, done], SLURM_RESTART_COUNT="1")) == 0
    assert (waits / "starts").read_text() == "2" and (done / "starts").stat().st_mtime_ns == finished
    assert end_of(waits)[0] == "done" and len(requeues(slurm)) == 1


def test_a_run_that_cannot_be_started_does_not_keep_its_sibling_from_going_on(slurm: FakeSlurm, tmp_path: Path) -> None:
    submission(tmp_path, runs_per_job=2)
    waits, spoilt = run(tmp_path, "wait"), run(tmp_path, "wait", 1)
    (spoilt / "worker.log").mkdir()
    process = begin([waits, spoilt])
    until((tmp_path / "ready-0").exists)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGUSR2)
    assert ended(process) == StorageError.exit_code
    assert end_of(waits)[0] == "requeued" and requeues(slurm) == [["requeue", "101_0"]]
    assert end_of(spoilt)[0] == "failed" and "cannot write: Is a directory" in end_of(spoilt)[1]
    assert statuses(tmp_path, {}, [spoilt])[0].state == "failed"


def test_a_job_that_is_no_array_is_requeued_by_its_own_number(slurm: FakeSlurm, tmp_path: Path) -> None:
    submission(tmp_path)
    path = run(tmp_path, "wait")
    assert interrupted([path], signal.SIGUSR2, SLURM_ARRAY_JOB_ID="", SLURM_ARRAY_TASK_ID="") == 75
    assert requeues(slurm) == [["requeue", "1000"]]


def test_when_the_time_is_out_a_run_without_a_new_checkpoint_fails_and_its_sibling_goes_on(
        slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submission(tmp_path, time_min=2, runs_per_job=2)
    waits, saves = run(tmp_path, "wait"), run(tmp_path, "save", 1)
    monkeypatch.setattr(Clock, "ready", (tmp_path / "ready-0", tmp_path / "ready-1"))
    monkeypatch.setattr(jobs, "JobStop", Clock)
    assert ended(begin([waits, saves])) == TrainingError.exit_code
    failed = RunDir(waits).failed()
    assert failed is not None and "no checkpoint was published in a whole start of 2 minutes" in failed["message"]
    assert "which ended in the phase 'online'" in failed["message"] and end_of(waits)[0] == "failed"
    assert "raise time_min in the profile, then `pvdr-bench retry --profile test`" in failed["message"]
    assert "sync_every" not in failed["message"]  # it is part of the recipe, which cannot be changed any longer
    monkeypatch.setattr(jobs, "JobStop", JobStop)
    assert end_of(saves) == ("requeued", "its time was out; it continues in its next start")
    assert requeues(slurm) == [["requeue", "101_0"]]
    # its next start leaves the failed one alone
    assert ended(begin([waits, saves], SLURM_RESTART_COUNT="1")) == TrainingError.exit_code
    assert (waits / "starts").read_text() == "1" and RunDir(saves).done() and RunDir(waits).failed() == failed


def test_the_phase_of_an_earlier_start_is_not_told(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                   ) -> None:
    run_dir = RunDir(run(tmp_path, "wait"))
    assert jobs.last_phase(run_dir) is None
    for key, value in (ENVIRONMENT | {"SLURM_RESTART_COUNT": "1"}).items():
        monkeypatch.setenv(key, value)
    run_dir.heartbeat(phase="evaluate final")
    assert jobs.last_phase(run_dir) == "evaluate final"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert jobs.last_phase(run_dir) is None


def test_a_process_that_is_told_to_stop_while_it_starts_has_not_failed(
        slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "run_local", functools.partial(run_local, command=("sleep", "60")))
    submission(tmp_path)
    path = run(tmp_path, "wait")
    process = begin([path])
    until((path / "worker.log").exists)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process) == 75
    assert end_of(path)[0] == "stopped" and RunDir(path).failed() is None


def test_when_a_start_was_whole_and_who_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from pvdr_bench.catalog.profile import Profile

    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    profile = Profile.model_validate(PROFILE)  # thirty minutes, leaves one before
    stop = JobStop(profile)
    now = stop.began
    assert stop.deadline == pytest.approx(now + 29 * 60, abs=1) and not stop() and not stop.goes_on
    for seconds, over, whole in ((60, False, False), (28.5 * 60, False, True), (29.1 * 60, True, True)):
        monkeypatch.setattr(time, "time", lambda then=now + seconds: then)
        assert (stop(), stop.was_whole) == (over, whole)
    assert stop.goes_on  # by the clock
    stop.set(signal.SIGTERM)
    assert stop() and not stop.goes_on
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(now) + 600))
    monkeypatch.setattr(time, "time", lambda: now)
    assert JobStop(profile).deadline == int(now) + 540
    monkeypatch.setenv("SLURM_JOB_END_TIME", "Unknown")
    assert JobStop(profile).deadline == now + 29 * 60


def test_without_scontrol_nothing_is_lost(slurm: FakeSlurm, tmp_path: Path) -> None:
    submission(tmp_path)
    broken, missing = run(tmp_path, "wait"), run(tmp_path, "wait", 1)
    slurm.fail("scontrol", "slurm_requeue error: Requested operation is presently disabled")
    assert interrupted([broken], signal.SIGUSR2) == 75
    outcome, message = end_of(broken)
    assert outcome == "stopped" and "presently disabled" in message and "`retry`, continues" in message
    assert len(requeues(slurm)) == 1
    empty = tmp_path / "bin"
    empty.mkdir()
    assert interrupted([missing], signal.SIGUSR2, PATH=str(empty)) == 75
    assert end_of(missing)[0] == "stopped" and "command scontrol is not here" in end_of(missing)[1]
    assert RunDir(broken).failed() is None and RunDir(missing).failed() is None
    assert ended(begin([broken])) == 0


def test_a_full_disk_does_not_keep_a_job_from_going_on(slurm: FakeSlurm, tmp_path: Path,
                                                       capfd: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path)
    path = run(tmp_path, "wait")
    assert interrupted([path], signal.SIGUSR2, **{FULL_AT: "write/job_end.json/done"}) == 75
    assert requeues(slurm) == [["requeue", "101_0"]] and "disk is full" in capfd.readouterr().out


def test_a_full_disk_of_the_log_does_not_keep_a_job_from_going_on(slurm: FakeSlurm, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    submission(tmp_path)
    path = run(tmp_path, "wait")
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert interrupted([path], signal.SIGUSR2) == 75
        monkeypatch.undo()
    assert requeues(slurm) == [["requeue", "101_0"]] and end_of(path)[0] == "requeued"


def test_a_failed_run_gives_its_code_and_is_not_done_again_by_its_job(slurm: FakeSlurm, tmp_path: Path) -> None:
    submission(tmp_path)
    path = run(tmp_path, "fail")
    for restarts in ("0", "1"):
        assert ended(begin([path], SLURM_RESTART_COUNT=restarts)) == TrainingError.exit_code
        assert end_of(path)[0] == "failed" and "the loss is nan" in end_of(path)[1]
        assert (path / "starts").read_text() == "1"
    record = RunRecord.read(path)
    assert record is not None
    record.write(path)  # submitted again: now it is the old failure that the job is to mend, in whichever of its starts
    assert read_end(path) is None
    assert ended(begin([path], SLURM_RESTART_COUNT="1")) == TrainingError.exit_code
    assert (path / "starts").read_text() == "2" and not requeues(slurm)


def test_starts_are_counted(slurm: FakeSlurm, tmp_path: Path) -> None:
    submission(tmp_path, max_restarts=2)
    path = run(tmp_path, "wait")
    assert interrupted([path], signal.SIGUSR2, SLURM_RESTART_COUNT="2") == 75
    outcome, message = end_of(path)
    assert outcome == "stopped" and "started 3 times" in message and "max_restarts" in message and not requeues(slurm)


def test_a_run_that_another_process_writes_is_left_to_it(slurm: FakeSlurm, tmp_path: Path) -> None:
    submission(tmp_path)
    path = run(tmp_path, "wait")
    lock(path, job="77")
    assert ended(begin([path])) == LockedError.exit_code
    assert end_of(path)[0] == "stopped" and "node1, job 77" in end_of(path)[1]  # how it ends is that process's to say
    assert RunDir(path).failed() is None and (path / "lock").exists()


# Stages ---------------------------------------------------------------------------------------------------------------


def stage(results: Path, monkeypatch: pytest.MonkeyPatch, make: Any, **environment: str) -> tuple[Path, StageJob]:
    for key, value in ({"SLURM_JOB_ID": "1000"} | environment).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(jobs, "make_artefact", make)
    folder = (results / ".slurm" / "20260101-000000-abcd" if (results / ".slurm").exists()
              else submission(results).path) / "stage-0"
    write_json(folder / "stage.json", {"stage": "tokenize", "label": "tokenize t", "name": "pvdr-x-s0",
                                       "spec": make_spec().model_dump(mode="json")})
    return folder, StageJob(str(folder))


def test_a_stage_that_is_done_interrupted_or_fails(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                   ) -> None:
    def make(spec: Any, what: str, profile: Any, stop: JobStop, user: User, folder: Path) -> Path:
        assert (what, spec.algorithm, folder.name) == ("tokenize", "onpolicy", "stage-0")
        return Path("/made")

    def warned(spec: Any, what: str, profile: Any, stop: JobStop, user: User, folder: Path) -> Path:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop()
        raise Interrupted("stopped")

    def fails(*_: Any) -> Path:
        raise TrainingError("the loss is nan")

    def crashes(*_: Any) -> Path:
        raise ZeroDivisionError("x / 0")

    folder, job = stage(tmp_path, monkeypatch, warned)
    with pytest.raises(SystemExit) as caught:
        job()
    assert caught.value.code == 75 and requeues(slurm) == [["requeue", "1000"]] and end_of(folder)[0] == "requeued"
    folder, job = stage(tmp_path, monkeypatch, warned, SLURM_PROCID="1")
    with pytest.raises(SystemExit):
        job()
    assert len(requeues(slurm)) == 1  # one process speaks for the job
    folder, job = stage(tmp_path, monkeypatch, fails)
    with pytest.raises(TrainingError):
        job()
    assert end_of(folder)[0] == "requeued"
    monkeypatch.setenv("SLURM_PROCID", "0")
    for error, kind, message in ((fails, TrainingError, "the loss is nan"),
                                 (crashes, ZeroDivisionError, "ZeroDivisionError: x / 0")):
        folder, job = stage(tmp_path, monkeypatch, error)
        with pytest.raises(kind):
            job()
        assert end_of(folder) == ("failed", message)
    folder, job = stage(tmp_path, monkeypatch, make)
    job()
    assert end_of(folder) == ("done", "/made")


# Bytes ----------------------------------------------------------------------------------------------------------------


def test_interruptions_leave_no_trace_in_the_bytes(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                   ) -> None:
    """A warning, a killed node and a restart on another node's disk, against a run that nothing disturbed."""
    monkeypatch.setattr(jobs, "run_local", functools.partial(run_local, command=DUMMY))
    spec = make_spec("recurrent", env_steps=240 * SYNC, eval_every=80 * SYNC, eval_episodes=1, eval_final_episodes=1)
    submission(tmp_path / "a")
    path = submitted_run(tmp_path / "a", spec=spec)
    store = RunDir(path).checkpoints
    for restarts, number in enumerate((signal.SIGUSR2, signal.SIGKILL)):
        before = store.steps()
        process = begin([path], SLURM_RESTART_COUNT=str(restarts), **{SCRATCH: str(tmp_path / f"disk{restarts}")})
        until(lambda known=before: store.steps() != known)
        assert process.pid is not None
        os.kill(process.pid, number)
        assert ended(process) == (75 if number == signal.SIGUSR2 else -9)
        until(lambda: not (path / "lock").exists())
        assert RunDir(path).done() is None
    assert ended(begin([path], SLURM_RESTART_COUNT="2", **{SCRATCH: str(tmp_path / "disk2")})) == 0
    assert [call["words"] for call in slurm.calls("scontrol")] == [["requeue", "101_0"]]
    assert dummies.do_run(spec, tmp_path / "b")
    assert results_of(tmp_path / "a", "recurrent") == results_of(tmp_path / "b", "recurrent")
    assert not list((tmp_path / "disk2").glob("*")) and len(list((path / "replay").glob("*.u8"))) == 2
