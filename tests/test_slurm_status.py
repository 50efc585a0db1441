"""What became of runs: a state for every pair of files and queue; retry, cancel and logs act on just those."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvdr_bench.launch import control, watch
from pvdr_bench.launch.cluster import QueuedJob
from pvdr_bench.launch.control import cancel_and_wait, log_files
from pvdr_bench.launch.records import RunRecord, read_end, stage_path, write_end
from pvdr_bench.launch.watch import RETRIED, STATES, stages_of, status_of
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import write_json
from pvdr_bench.runs.holders import identity
from pvdr_bench.runs.locks import SILENT_SECONDS
from tests.dummies import make_spec
from tests.results_runs import finish
from tests.slurm_fakes import NAME, FakeSlurm, entry, lock, nowhere, slurm, submission, submitted_run
from tests.test_cli_run import cli

__all__ = ["nowhere", "slurm"]
STAGE = "pvdr-20260101-000000-abcd-s0"
OLD = SILENT_SECONDS + 30


def job(state: str, reason: str = "None") -> QueuedJob:
    node = "" if state == "PENDING" else "node1"
    return QueuedJob(NAME, 0, "101_0", state, node, reason, "9:00")


def nothing(run: Path) -> None:
    pass


def done(run: Path) -> None:
    finish(RunDir(run), make_spec().protocol.env_steps, success_any=0.25)


def done_smaller(run: Path) -> None:
    finish(RunDir(run), 32)


def failed(run: Path) -> None:
    RunDir(run).mark_failed(RuntimeError("it broke\nin two lines"))


def failed_before(run: Path) -> None:
    failed(run)
    then = time.time() - 60
    os.utime(run / "failed.json", (then, then))


def here(run: Path) -> None:
    """A lock that this very process holds."""
    write_json(run / "lock", identity())


def dead_here(run: Path) -> None:
    """A lock that a process of this machine left behind."""
    write_json(run / "lock", identity() | {"pid": 2**22 - 1})


def locked(age: float) -> Callable[[Path], None]:
    return lambda run: lock(run, age=age)


def end(outcome: str) -> Callable[[Path], None]:
    return lambda run: write_end(run, outcome, f"how it {outcome}", "101_0")


def stage_end(outcome: str) -> Callable[[Path], None]:
    def write(run: Path) -> None:
        folder = stage_path(run.parents[4], STAGE)
        write_json(folder / "stage.json", {"stage": "tokenize", "label": "tokenize t", "name": STAGE, "spec": {}})
        if outcome:
            write_end(folder, outcome, "why\nmore", "9")
    return write


def broken(run: Path) -> None:
    (run / "done.json").write_text("{")


def later_version(run: Path) -> None:
    write_json(run / "job.json", {"new": 1})


def both(*functions: Callable[[Path], None]) -> Callable[[Path], None]:
    def write(run: Path) -> None:
        for function in functions:
            function(run)
    return write


RUNNING, PENDING, WAITING = job("RUNNING"), job("PENDING", "Priority"), job("PENDING", "Dependency")
TABLE: list[tuple[str, Callable[[Path], None], QueuedJob | None, str, str]] = [
    # what is told, the files, the queue, state, words of the note
    ("done", done, None, "done", ""),
    ("done while other runs of the job go on", done, RUNNING, "done", ""),
    ("done with a smaller budget, queued for a larger one", done_smaller, PENDING, "queued", "pending: Priority"),
    ("a living process elsewhere", locked(5), RUNNING, "running", ""),
    ("a living process here", here, None, "running", ""),
    ("an old lock of a living process here", both(here, lambda run: os.utime(run / "lock", (0, 0))), RUNNING, "running",
     ""),
    ("silent, its job runs", locked(OLD), RUNNING, "stale", "silent for 90 s"),
    ("not yet silent for long enough", locked(SILENT_SECONDS - 10), RUNNING, "running", ""),
    ("silent since its node died, its job waits again", locked(OLD), PENDING, "queued", "pending: Priority"),
    ("silent, its job is gone", locked(OLD), None, "lost", "`retry` takes it over"),
    ("died here, its job waits again", dead_here, PENDING, "queued", ""),
    ("died here, its job starts again", dead_here, RUNNING, "starting", "running"),
    ("died here", dead_here, None, "lost", "left its lock"),
    ("died while it wrote down why", both(failed, dead_here), None, "failed", "while it wrote down why"),
    ("its job has begun", nothing, RUNNING, "starting", "running"),
    ("its job ends", nothing, job("COMPLETING"), "starting", "completing"),
    ("waits for nodes", nothing, PENDING, "queued", "pending: Priority"),
    ("held", nothing, job("PENDING", "JobHeldUser"), "queued", "JobHeldUser"),
    ("suspended", nothing, job("SUSPENDED"), "queued", "suspended"),
    ("put back, and waits", end("requeued"), job("PENDING", "BeginTime"), "queued", "BeginTime"),
    ("waits for a stage", nothing, WAITING, "waiting", "Dependency"),
    ("waits, and the scheduler has not said why", nothing, job("PENDING"), "waiting", "pending"),
    ("failed", failed, None, "failed", "it broke"),
    ("failed while other runs of the job go on", failed, RUNNING, "failed", "it broke"),
    ("failed, and is submitted again", failed_before, PENDING, "queued", "Priority"),
    ("failed, and the next job begins", failed_before, RUNNING, "starting", ""),
    ("failed before it could write why", end("failed"), None, "failed", "how it failed"),
    ("its stage failed", stage_end("failed"), None, "blocked", "tokenize t failed: why"),
    ("its stage was stopped", stage_end("stopped"), None, "blocked", "tokenize t was stopped: why"),
    ("its stage is done, its job gone", stage_end("done"), None, "lost", "without a word"),
    ("its stage has not ended, its job gone", stage_end(""), None, "lost", "without a word"),
    ("stopped", end("stopped"), None, "stopped", "how it stopped"),
    ("cancelled between two starts", end("requeued"), None, "stopped", "left the queue"),
    ("cancelled before its first start", nothing, None, "lost", "without a word"),
    ("broken", broken, None, "broken", "not a JSON file"),
    ("of another version", later_version, None, "broken", "not a job's description"),
]


@pytest.mark.parametrize(("files", "queued", "state", "note"), [row[1:] for row in TABLE],
                         ids=[row[0] for row in TABLE])
def test_states(tmp_path: Path, files: Callable[[Path], None], queued: QueuedJob | None, state: str, note: str) -> None:
    run = submitted_run(tmp_path, after=STAGE)
    files(run)
    found = status_of(run, tmp_path, {} if queued is None else {(NAME, 0): queued})
    assert (found.state, note in found.note) == (state, True), found
    assert "\n" not in found.note and found.run == "onpolicy/point/none/smoke/seed-0"
    if queued is not None and state not in ("broken",):
        assert found.job == "101_0"


@pytest.mark.parametrize(("files", "state"), [
    (nothing, "new"), (done, "done"), (failed, "failed"), (here, "running"), (locked(5), "running"),
    (locked(OLD), "stale"), (dead_here, "lost"),
    (lambda run: RunDir(run).heartbeat(env_steps=3), "stopped"),
])
def test_states_of_runs_that_were_never_submitted(tmp_path: Path, files: Any, state: str) -> None:
    run = submitted_run(tmp_path)
    (run / "job.json").unlink()
    files(run)
    assert [status_of(run, tmp_path, queue).state for queue in (None, {})] == [state, state]


@pytest.mark.parametrize(("files", "state"), [
    (nothing, "queued"), (end("requeued"), "queued"), (end("stopped"), "stopped"), (failed, "failed"), (done, "done"),
    (locked(OLD), "stale"), (locked(5), "running"), (stage_end("failed"), "blocked"),
])
def test_states_where_no_scheduler_can_be_asked(tmp_path: Path, files: Any, state: str) -> None:
    run = submitted_run(tmp_path, after=STAGE)
    files(run)
    assert status_of(run, tmp_path, None).state == state


def test_every_state_is_in_the_table_the_help_and_the_words() -> None:
    from pvdr_bench.cli.status import LIVING, STYLES, status

    assert {row[3] for row in TABLE} | {"new"} == set(STATES)
    text = " ".join((status.__doc__ or "").split())
    assert all(f" {state}" in text for state in STATES) and set(STYLES) | set(LIVING) == set(STATES)
    assert set(RETRIED) <= set(STATES) and not {"done", "running", "queued", "waiting", "starting"} & set(RETRIED)


def test_what_a_running_run_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = submitted_run(tmp_path)
    with monkeypatch.context() as in_job:
        for key, value in {"SLURM_JOB_ID": "1000", "SLURM_ARRAY_JOB_ID": "101", "SLURM_ARRAY_TASK_ID": "0",
                           "SLURM_RESTART_COUNT": "2", "SLURMD_NODENAME": "node7"}.items():
            in_job.setenv(key, value)
        RunDir(run).heartbeat(phase="online", env_steps=24, budget=64, rate=8.0, success=0.5)
    lock(run, age=3)
    found = status_of(run, tmp_path, {(NAME, 0): job("RUNNING")})
    assert (found.phase, found.env_steps, found.budget, found.rate, found.success) == ("online", 24, 64, 8.0, 0.5)
    assert (found.seconds_left, found.node, found.job, found.restarts) == (5.0, "node7", "101_0", 2)
    assert found.silent_seconds == pytest.approx(3, abs=2)
    RunDir(run).heartbeat(phase="train", env_steps=24, budget=64, rate=8.0, learned=0.0)
    assert status_of(run, tmp_path, None).seconds_left is None, "its first updates, maybe hundreds, are still to come"
    with monkeypatch.context() as in_job:  # its last decisions were of several environments, beyond the budget
        in_job.setenv("SLURM_JOB_ID", "1000")
        RunDir(run).heartbeat(phase="evaluate final", env_steps=66, budget=64, rate=8.0, success=0.5)
    assert status_of(run, tmp_path, {(NAME, 0): job("RUNNING")}).seconds_left == 0


def test_the_documentation_has_these_states() -> None:
    text = (Path(__file__).parents[1] / "docs" / "slurm.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()]
    assert dict(row for row in rows if row[0] in STATES) == STATES


# Stages ---------------------------------------------------------------------------------------------------------------


def test_states_of_stages(tmp_path: Path) -> None:
    names = [f"pvdr-20260101-000000-abcd-s{i}" for i in range(7)]
    submission(tmp_path, {name: f"key{i}" for i, name in enumerate(names)})
    folders = [stage_path(tmp_path, name) for name in names]
    for name, folder in zip(names, folders, strict=True):
        write_json(folder / "stage.json",
                   {"stage": "tokenize", "label": f"tokenize {name[-1]}", "name": name, "spec": {}})
    write_end(folders[0], "done", "/made", "7")
    write_end(folders[1], "failed", "why\nmore", "8")
    write_end(folders[2], "stopped", "no scontrol", "9")
    write_json(folders[4] / "heartbeat.json", {"phase": "videos", "done": 3, "total": 1000})
    queue = {(names[i], 0): QueuedJob(names[i], 0, str(i), state, "n", reason, "")
             for i, state, reason in ((4, "RUNNING", "None"), (5, "PENDING", "Dependency"), (6, "PENDING", "Priority"))}
    found = stages_of(tmp_path, queue)
    assert [(each.run[-7:], each.state) for each in found] == [
        ("stage-1", "failed"), ("stage-2", "stopped"), ("stage-3", "lost"), ("stage-4", "running"),
        ("stage-5", "waiting"), ("stage-6", "queued")]
    assert found[0].note == "why" and found[3].phase == "tokenize 4 videos 3/1,000" and found[3].job == "4"
    assert next(each.state for each in stages_of(tmp_path, None) if each.run.endswith("3")) == "queued"
    # a later submission makes the failed one good, and only its own is shown
    later = submission_later(tmp_path, "key1")
    assert "stage-1" not in {each.run[-7:] for each in stages_of(tmp_path, queue)}
    assert later in {each.run for each in stages_of(tmp_path, queue)}


def submission_later(results: Path, key: str) -> str:
    shutil.copytree(results / ".slurm/20260101-000000-abcd", results / ".slurm/20260102-000000-abcd")
    folder = results / ".slurm" / "20260102-000000-abcd"
    for old in folder.glob("stage-*"):
        shutil.rmtree(old)
    facts = json.loads((folder / "submission.json").read_text())
    write_json(folder / "submission.json", facts | {"stages": {"pvdr-20260102-000000-abcd-s0": key}})
    write_json(folder / "stage-0" / "stage.json", {"stage": "tokenize", "label": "t", "name":
                                                   "pvdr-20260102-000000-abcd-s0"})
    return "20260102-000000-abcd/stage-0"


# The command line -----------------------------------------------------------------------------------------------------


@pytest.fixture
def mixture(slurm: FakeSlurm, tmp_path: Path) -> Path:
    """Runs of eleven states by seed: the order is that of STATES without ``new``."""
    results = tmp_path / "results"
    submission(results, {STAGE: "key"})
    stage_end("failed")(results / "a/b/c/d/e")
    runs = [submitted_run(results, i, after=STAGE) for i in range(11)]
    states = [state for state in STATES if state != "new"]
    files = {"done": done, "running": locked(1), "stale": locked(OLD), "failed": failed, "stopped": end("stopped"),
             "lost": dead_here, "broken": broken}
    for run, state in zip(runs, states, strict=True):
        files.get(state, nothing)(run)
    rows = {"running": entry(1), "stale": entry(2), "starting": entry(3), "queued": entry(4, "PENDING", "Priority"),
            "waiting": entry(5, "PENDING", "Dependency")}
    slurm.set_rows(list(rows.values()))
    return results


def listed(capsys: pytest.CaptureFixture[str], results: Path, *words: str) -> dict[str, Any]:
    code, out, _ = cli(capsys, "status", "--results", str(results), "--json", *words)
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


def test_status_lists_filters_and_sums(mixture: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, mixture)
    assert {int(run["run"].rpartition("-")[2]): run["state"] for run in found["runs"]} == dict(
        enumerate(state for state in STATES if state != "new"))
    assert len(slurm.calls("squeue")) == 1 and [stage["state"] for stage in found["stages"]] == ["failed"]
    assert {run["state"] for run in listed(capsys, mixture, "--state", "failed,lost")["runs"]} == {"failed", "lost"}
    (run,) = {run["run"].partition("/")[0] for run in found["runs"]}
    assert len(listed(capsys, mixture, "--method", run)["runs"]) == len(found["runs"])
    for option, name in (("--methods", "ppo"), ("--tasks", "poimt")):
        code, _, err = cli(capsys, "status", "--results", str(mixture), option, name)
        assert code == 2 and f"{option}: no run here is of {name}" in err and "there is: " in err
    assert "did you mean 'point'" in err
    monkeypatch.setenv("COLUMNS", "250")
    code, out, _ = cli(capsys, "status", "--results", str(mixture))
    assert code == 0 and "\n11 runs: 1 done, 1 running, 1 " in out
    (line,) = (line for line in out.splitlines() if "seed-7 " in line)
    assert "blocked" in line and "tokenize t failed: why" in line and "0/64" in line
    assert "steps/s" not in out and out.index("seed-2 ") < out.index("seed-10 ")
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = cli(capsys, "status", "--results", str(mixture))
    assert all(any(f" {state} " in line for line in out.splitlines()) for state in STATES if state != "new")
    monkeypatch.delenv("COLUMNS")
    code, out, _ = cli(capsys, "status", "--results", str(mixture))  # into a pipe: a line per run
    assert len(out.splitlines()) == 1 + 1 + 11 + 1
    code, _, err = cli(capsys, "status", "--results", str(mixture), "--state", "runing")
    assert code == 2 and "did you mean 'running'" in err


def test_status_without_a_scheduler_or_with_one_that_is_down(mixture: Path, slurm: FakeSlurm, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    slurm.fail("squeue", "Unable to contact slurm controller")
    found = listed(capsys, mixture)
    assert "Unable to contact" in found["note"] and found["runs"][0]["state"] == "done"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert listed(capsys, mixture)["note"] == "no scheduler here: states are those of the files"


def test_retry_takes_what_failed_and_ends_silent_jobs_first(mixture: Path, slurm: FakeSlurm,
                                                            monkeypatch: pytest.MonkeyPatch,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[list[int]] = []

    def go(specs: Any, root: Path, *_: Any) -> dict[str, Any]:
        assert root == mixture
        asked.append([spec.seed for spec in specs])
        return {"runs": len(specs), "gone": "101_2" not in str(slurm.rows())}

    monkeypatch.setattr("pvdr_bench.cli.submit.hand_in", go)
    states = [state for state in STATES if state != "new"]
    wanted = sorted(states.index(state) for state in RETRIED)
    code, _, _ = cli(capsys, "retry", "--results", str(mixture), "--dry-run", "--json")
    assert code == 0 and [sorted(seeds) for seeds in asked] == [wanted] and not slurm.calls("scancel")
    code, out, _ = cli(capsys, "retry", "--results", str(mixture), "--json")
    assert code == 0 and json.loads(out) == [{"runs": 5, "gone": True}]
    assert [call["words"] for call in slurm.calls("scancel")] == [["101_2"]] and len(slurm.rows()) == 4
    run = mixture / "onpolicy/point/none/smoke"
    cli(capsys, "retry", str(run / "seed-6"), str(run / "seed-0"), "--results", str(mixture), "--json")
    assert asked[-1] == [6]
    code, out, _ = cli(capsys, "retry", str(run / "seed-0"), "--results", str(mixture))
    assert code == 0 and "nothing to retry" in out
    code, _, err = cli(capsys, "retry", str(mixture / "ppo"), "--results", str(mixture))
    assert code == 2 and "holds no run" in err
    code, _, err = cli(capsys, "retry", str(run / "seed-6"), "--results", str(mixture.parent / "other"))
    assert code == 2 and "no results folder" in err


def test_cancel(mixture: Path, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
                ) -> None:
    run = mixture / "onpolicy/point/none/smoke"
    code, out, _ = cli(capsys, "cancel", str(run / "seed-4"), str(run / "seed-0"), "--results", str(mixture), "--yes",
                       "--json")
    assert code == 0 and len(slurm.rows()) == 4
    assert json.loads(out) == {"cancelled": ["101_4"], "runs": {"101_4": [str(run / "seed-4")]}}
    code, _, err = cli(capsys, "cancel", "--results", str(mixture), "--json")
    assert code == 2 and "--yes" in err
    monkeypatch.setattr("typer.confirm", lambda text: False)
    code, out, _ = cli(capsys, "cancel", "--results", str(mixture))
    assert "nothing was cancelled" in out and len(slurm.rows()) == 4
    slurm.set_rows([*slurm.rows(), [STAGE, 90, 90, "N/A", "RUNNING", "n", "None", "1:00"]])
    (stage_path(mixture, STAGE) / "job_end.json").unlink()
    code, out, _ = cli(capsys, "cancel", "--results", str(mixture), "--yes")
    assert code == 0 and "5 jobs cancelled" in out and "stage-0" in out and slurm.rows() == []
    code, _, err = cli(capsys, "cancel", str(mixture / "ppo"), "--results", str(mixture), "--yes")
    assert code == 2 and "holds no run" in err


def test_a_job_that_scancel_does_not_end(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control.time, "sleep", lambda seconds: None)
    slurm.set_rows([entry(0)])
    (slurm.bin / "scancel").write_text("#!/bin/sh\n")
    with pytest.raises(Exception, match="101_0 are still in the queue"):
        cancel_and_wait(["101_0"], 0.0)
    cancel_and_wait([])


def test_logs_of_arrays_and_of_jobs_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = submission(tmp_path, jobs={NAME: "101", "alone": "102"})
    array, alone, local = (submitted_run(tmp_path, i) for i in range(3))
    record = RunRecord.read(alone)
    assert record is not None
    RunRecord(record.submission, "alone", 0, 64, str(tmp_path), None).write(alone)
    (local / "job.json").unlink()
    for name in ("101_0_0_log.out", "101_0_0_log.err", "101_1_0_log.out", "102_0_log.err", "102_0_log.out"):
        (found.logs / name).write_text("".join(f"{name} line {i}\n" for i in range(50)))
    (found.logs / "102_0_log.out").write_text("")
    (alone / "worker.log").write_text("from the worker\n")
    assert [path.name for path in log_files(array)] == ["101_0_0_log.out", "101_0_0_log.err"]
    assert [path.name for path in log_files(alone)] == ["worker.log", "102_0_log.err"]
    code, out, _ = cli(capsys, "logs", str(array), "-n", "2")
    assert code == 0 and out.count("101_0_0_log.out line") == 2 and "101_0_0_log.err line 49" in out
    code, out, _ = cli(capsys, "logs", str(local))
    assert code == 0 and "nothing has been printed yet" in out
    RunDir(local).mark_done(env_steps=64)
    code, out, _ = cli(capsys, "logs", str(local))
    assert code == 0 and "this run printed nothing" in out
    code, _, err = cli(capsys, "logs", str(tmp_path))
    assert code == 2 and "holds no run" in err
    shutil.rmtree(found.path)  # an old submission's folder may be removed
    assert [path.name for path in log_files(alone)] == ["worker.log"]


def test_a_thousand_runs_in_two_seconds(slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = submitted_run(tmp_path)
    submission(tmp_path)
    record = json.loads((first / "job.json").read_text())
    RunDir(first).heartbeat(phase="online", env_steps=3, budget=64, rate=2.0)
    beat = (first / "heartbeat.json").read_bytes()
    for i in range(1, 1000):
        run = first.parent / f"seed-{i}"
        run.mkdir()
        (run / "run.yaml").write_bytes(b"")
        (run / "heartbeat.json").write_bytes(beat)
        (run / "job.json").write_text(json.dumps({**record, "index": i}))
        if i < 500:
            (run / "lock").write_text('{"host": "n", "pid": 1, "scope": "s", "token": "t"}')
    slurm.set_rows([entry(i) if i < 500 else entry(i, "PENDING", "Priority") for i in range(1000)])
    begin = time.process_time()
    found = listed(capsys, tmp_path)
    assert time.process_time() - begin < 2
    assert len(found["runs"]) == 1000 and len(slurm.calls("squeue")) == 1
    counts = {state: sum(run["state"] == state for run in found["runs"]) for state in STATES}
    assert (counts["running"], counts["queued"], counts["starting"]) == (499, 500, 1)
    assert read_end(first) is None and watch.was_submitted(first)
