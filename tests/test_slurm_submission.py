"""Submitting: which jobs, who waits for whom, no run twice, whoever dies meanwhile; with a fake sbatch and squeue."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pvdr_bench.errors import ChangedError, LockedError, SetupError, UnreadableError
from pvdr_bench.launch import submission
from pvdr_bench.launch.cluster import queue
from pvdr_bench.launch.needs import StageNeed
from pvdr_bench.launch.records import RunRecord
from pvdr_bench.launch.submission import make_plan
from pvdr_bench.launch.watch import run_folders, statuses
from pvdr_bench.runs import faults
from pvdr_bench.runs.archive import write_archive
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.locks import FileLock
from tests.dummies import make_spec
from tests.processes import forked
from tests.results_runs import finish
from tests.slurm_fakes import FakeSlurm, lock, nowhere, slurm
from tests.slurm_submit import SMALL, WORDS, dummies, flag, go, names, no_stages, resolved
from tests.test_cli_run import cli

__all__ = ["no_stages", "nowhere", "slurm"]


def test_arrays_of_the_sites_size_and_several_runs_in_a_job(slurm: FakeSlurm, no_stages: None, tmp_path: Path) -> None:
    profile = SMALL.model_copy(update={"max_array": 2, "runs_per_job": 2, "array_parallelism": 1})
    specs = dummies(7)
    go(specs, tmp_path, profile)
    assert [flag(call, "array") for call in slurm.calls("sbatch")] == ["0-1%1", "0-1%1"]
    records = [RunRecord.read(spec.path(tmp_path)) for spec in specs]
    assert [record and (record.name[-2:], record.index) for record in records] == [
        ("r0", 0), ("r0", 0), ("r0", 1), ("r0", 1), ("r1", 0), ("r1", 0), ("r1", 1)]
    assert {(job.name[-2:], job.index) for job in queue().values()} == {("r0", 0), ("r0", 1), ("r1", 0), ("r1", 1)}


def test_packed_runs_are_not_submitted(slurm: FakeSlurm, no_stages: None, tmp_path: Path) -> None:
    specs, packed = dummies(3), tmp_path / "packed"
    run_dir = RunDir(specs[0].path(tmp_path))
    with run_dir.lock():
        run_dir.open(specs[0])
        finish(run_dir, specs[0].protocol.env_steps)
    write_archive(packed / "runs.zip", {path.relative_to(tmp_path).as_posix(): path for path in run_dir.path.iterdir()
                                        if path.is_file() and path.name != "lock"})
    plan = make_plan(specs, packed, SMALL, SMALL, queue())
    assert plan.skipped == {"done": specs[:1]} and plan.runs == specs[1:]


def test_shipped_artefacts_need_no_stage_job(slurm: FakeSlurm, tmp_path: Path) -> None:
    plan = make_plan([*resolved("ppo", "cpu"), *resolved("pvdr", "cpu")], tmp_path, SMALL, SMALL, queue())
    assert not plan.stages and len(plan.arrays) == 1 and plan.arrays[0].after is None


def test_a_stage_in_the_queue_is_waited_for_and_not_made_twice(slurm: FakeSlurm, tmp_path: Path) -> None:
    go(resolved("ppo"), tmp_path)
    first = [flag(call, "dependency") for call in slurm.calls("sbatch")]
    slurm.forget()
    plan = go([*resolved("ppo", seeds=3), *resolved("pvdr")], tmp_path)
    assert first == [None, "afterok:101"] and [stage.job_id for stage in plan.stages] == ["101", None]
    assert plan.skipped == {"queued": resolved("ppo")}
    # pre-training waits for the earlier tokenizer, as the other two seeds do; pvdr's run waits for pre-training
    assert [flag(call, "dependency") for call in slurm.calls("sbatch")] == ["afterok:101", "afterok:101", "afterok:103"]
    record = RunRecord.read(resolved("ppo", seeds=3)[2].path(tmp_path))
    assert record is not None and record.after == names(slurm)[0].replace(plan.submission.name, "X").replace(
        "pvdr-X-s1", plan.stages[0].name)
    slurm.set_rows([])  # the stage has left the queue, and its artefact is not there: it has to be made again
    assert [stage.job_id for stage in make_plan(resolved("ppo"), tmp_path, SMALL, SMALL, queue()).stages] == [None]


def test_no_run_twice(slurm: FakeSlurm, no_stages: None, tmp_path: Path) -> None:
    specs = dummies(6)
    plan = go(specs, tmp_path)
    name = plan.arrays[0].name
    slurm.forget()
    assert go(specs, tmp_path).skipped == {"queued": specs} and not slurm.calls("sbatch")
    assert len(slurm.calls("squeue")) == 1
    done, running, failed, stopped, lost, held = specs
    finish(RunDir(done.path(tmp_path)), done.protocol.env_steps)
    RunDir(failed.path(tmp_path)).mark_failed(RuntimeError("it broke"))
    slurm.change(name, 1, "RUNNING")
    for index in (0, 2, 3, 4, 5):
        slurm.change(name, index, None)
    lock(held.path(tmp_path), job="77")  # somebody's own process, elsewhere
    again = go(specs, tmp_path)
    assert again.runs == [failed, stopped, lost]
    assert again.skipped == {"done": [done], "running": [running, held]}
    more = make_spec(seed=0, env_steps=2 * done.protocol.env_steps)
    assert go([more], tmp_path).runs == [more]  # a larger budget extends


def test_two_submitters_at_once(slurm: FakeSlurm, no_stages: None, tmp_path: Path) -> None:
    specs = dummies(5)
    children = [forked(lambda: go(specs, tmp_path)) for _ in range(2)]
    for process in children:
        process.join(60)
    assert sorted({process.exitcode for process in children} - {LockedError.exit_code}) == [0]
    assert len(slurm.rows()) == 5
    assert {(row[0], row[3]) for row in slurm.rows()} == {
        (record.name, record.index) for spec in specs if (record := RunRecord.read(spec.path(tmp_path)))}
    with FileLock(tmp_path / ".slurm" / "lock"):
        process = forked(lambda: go(dummies(6), tmp_path))
        process.join(60)
    assert process.exitcode == LockedError.exit_code and len(slurm.rows()) == 5


def test_sbatch_refuses(slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("submit", *WORDS, "--profile", "cpu", "--results", str(tmp_path / "results"))
    slurm.fail("sbatch", "sbatch: error: invalid account")
    code, _, err = cli(capsys, *words)
    assert code == 4 and "sbatch refused a job: sbatch: error: invalid account" in err and "Traceback" not in err
    (run,) = run_folders(tmp_path / "results")
    assert [status.state for status in statuses(tmp_path / "results", queue())] == ["lost"]
    slurm.mend("sbatch")
    code, out, _ = cli(capsys, *words)
    assert code == 0 and "1 run submitted" in out and len(slurm.rows()) == 1
    code, out, _ = cli(capsys, *words)
    assert code == 0 and "skipped: 1 queued" in out and len(slurm.rows()) == 1


def test_a_warning_is_told_before_anything_is_handed_over(slurm: FakeSlurm, tmp_path: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    slurm.fail("sbatch", "sbatch: error: invalid account")
    code, out, _ = cli(capsys, "submit", "-m", "apv-no-pretrain", "-t", "reach", "--scale", "smoke", "--profile", "cpu",
                       "-o", "protocol.terminate_on_success=true",
                       "--results", str(tmp_path / "results"))
    assert code == 4 and out.startswith("warning: apv-no-pretrain: the intrinsic bonus") and "submitted" not in out


def test_no_scheduler_is_one_clear_error(nowhere: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = cli(capsys, "submit", *WORDS, "--profile", "cpu", "--results", str(tmp_path / "results"))
    assert code == 4 and "there is no squeue and no sbatch and no srun here" in err and "login node" in err
    code, _, err = cli(capsys, "retry", "--results", str(tmp_path))
    assert code == 4 and "squeue is not here" in err
    code, _, err = cli(capsys, "cancel", "--results", str(tmp_path), "--yes")
    assert code == 4 and "squeue is not here" in err


def test_a_scheduler_that_does_not_answer_stops_the_submission(slurm: FakeSlurm, no_stages: None, tmp_path: Path
                                                               ) -> None:
    slurm.fail("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    with pytest.raises(SetupError, match="Unable to contact"):
        go(dummies(1), tmp_path)  # else what is queued would be submitted again
    assert not slurm.calls("sbatch")


def test_refusals_before_anything_is_written(slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                             ) -> None:
    words = ("submit", *WORDS, "--results", str(tmp_path / "results"))
    code, _, err = cli(capsys, *words, "--profile", "a100-8x")
    assert code == 2 and "8 processes" in err and "--pretrain-profile a100-8x" in err
    code, _, err = cli(capsys, *words, "--profile", "a1000")
    assert code == 3 and "did you mean 'a100'" in err
    assert not (tmp_path / "results").exists()
    spec = resolved("random")[0]
    other = spec.model_copy(update={"protocol": spec.protocol.model_copy(update={"num_envs": 1, "sync_every": 40})})
    RunDir(spec.path(tmp_path / "results")).open(other)
    code, _, err = cli(capsys, *words, "--profile", "cpu", "--seeds", "2")
    assert code == ChangedError.exit_code and "num_envs" in err and not slurm.calls("sbatch")
    assert not (tmp_path / "results" / ".slurm").exists()


# What may die in between ----------------------------------------------------------------------------------------------


def test_a_submitter_killed_between_sbatch_and_the_jobs_number(slurm: FakeSlurm, no_stages: None, tmp_path: Path
                                                               ) -> None:
    specs = dummies(3)
    process = forked(lambda: go(specs, tmp_path), **{faults.CRASH_AT: "write/submission.json/done:2"})
    process.join(60)
    assert process.exitcode == faults.CRASH_CODE and len(slurm.rows()) == 3
    assert [status.state for status in statuses(tmp_path, queue())] == ["queued"] * 3
    slurm.forget()
    assert go(specs, tmp_path).skipped == {"queued": specs} and not slurm.calls("sbatch")


def test_a_submitter_killed_at_any_write_leaves_nothing_that_points_nowhere(
        slurm: FakeSlurm, no_stages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    specs = dummies(2)
    monkeypatch.setattr(submission, "stage_needs",
                        lambda found, catalog: {"key": StageNeed("key", "tokenize", "tokenize t", found[0])})
    monkeypatch.setattr(submission, "need_of", lambda spec, needs, catalog: "key")
    for i, target in enumerate(("write/stage.json/done", "replace/stage.json", "replace/submission.json",
                                "write/run.yaml/done", "replace/run.yaml", "replace/job.json")):
        results = tmp_path / str(i)
        process = forked(lambda folder=results: go(specs, folder), **{faults.CRASH_AT: target})
        process.join(60)
        assert process.exitcode == faults.CRASH_CODE, target
        code, out, err = cli(capsys, "status", "--results", str(results), "--json")
        assert code == 0, (target, err)
        states = {run["state"] for run in json.loads(out)["runs"]}
        assert states <= {"new", "lost"}, target
        code, _, err = cli(capsys, "retry", "--results", str(results), "--json")
        assert code == 0, (target, err)
        go(specs, results)
        assert {status.state for status in statuses(results, queue())} == {"waiting"}, target
        assert len([row for row in slurm.rows() if "-r" in row[0]]) == 2, target
        slurm.set_rows([])


def test_retry_plans_as_if_silent_jobs_were_gone(slurm: FakeSlurm, no_stages: None, tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    (spec,) = specs = dummies(1)
    plan, path = go(specs, tmp_path), spec.path(tmp_path)
    slurm.change(plan.arrays[0].name, None, "RUNNING")
    lock(path, job="101", age=90)
    code, out, _ = cli(capsys, "retry", "--results", str(tmp_path), "--dry-run", "--json")
    assert code == 0 and json.loads(out)[0]["runs"] == 1
    assert (path / "lock").exists() and len(slurm.rows()) == 1


@pytest.mark.parametrize("content", ["", '{"of": "another version"}'])
def test_a_job_file_that_cannot_be_read_is_written_anew(slurm: FakeSlurm, tmp_path: Path, content: str,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    words = ("submit", *WORDS, "--seeds", "2", "--profile", "cpu", "--results", str(results))
    assert cli(capsys, *words)[0] == 0
    slurm.set_rows([])
    first, second = run_folders(results)
    (first / "job.json").write_text(content)
    assert {status.state for status in statuses(results, queue())} == {"broken", "lost"}
    told = f"job.json of 1 run is broken, first that of {first}"
    code, out, _ = cli(capsys, *words, "--dry-run")
    assert code == 0 and told in out and (first / "job.json").read_text() == content
    code, out, err = cli(capsys, *words, "--json")
    assert code == 0 and json.loads(out)["runs"] == 2 and told in json.loads(out)["note"], err
    record = RunRecord.read(first)
    assert record is not None and {(row[0], row[3]) for row in slurm.rows()} == {(record.name, 0), (record.name, 1)}
    code, out, _ = cli(capsys, *words)
    assert code == 0 and "skipped: 2 queued" in out and "is broken" not in out


def test_a_job_file_that_may_be_whole_submits_nothing_twice(slurm: FakeSlurm, no_stages: None, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    specs = dummies(1)
    go(specs, tmp_path)
    before = slurm.rows()

    def failing(*_: object) -> None:
        raise UnreadableError("cannot be read: Input/output error", where="job.json")

    monkeypatch.setattr("pvdr_bench.launch.records.read", failing)
    with pytest.raises(UnreadableError, match="Input/output"):
        go(specs, tmp_path)
    assert slurm.rows() == before


def test_retry_and_cancel_leave_out_a_run_whose_job_cannot_be_read(slurm: FakeSlurm, no_stages: None, tmp_path: Path,
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    unread, failed, _ = specs = dummies(3)
    plan = go(specs, tmp_path)
    for index in (0, 1):
        RunDir(specs[index].path(tmp_path)).mark_failed(RuntimeError("it broke"))
        slurm.change(plan.arrays[0].name, index, None)
    path = unread.path(tmp_path)
    (path / "job.json").write_text("")
    code, out, err = cli(capsys, "retry", "--results", str(tmp_path), "--json")
    assert code == 0 and [each["runs"] for each in json.loads(out)] == [1]
    assert err.count("left out: ") == 1 and f"{path / 'job.json'}: not a job's description" in err
    record = RunRecord.read(failed.path(tmp_path))
    assert record is not None and {plan.arrays[0].name, record.name} == {row[0] for row in slurm.rows()}
    code, out, err = cli(capsys, "cancel", "--results", str(tmp_path), "--yes")
    assert code == 0 and "2 jobs cancelled" in out and not slurm.rows() and f"left out: {path / 'job.json'}" in err


def test_cancelling_one_run_tells_of_all_that_its_job_does(slurm: FakeSlurm, no_stages: None, tmp_path: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    specs = dummies(3)
    go(specs, tmp_path, SMALL.model_copy(update={"runs_per_job": 2}))
    first, second, _ = (str(spec.path(tmp_path)) for spec in specs)
    code, out, _ = cli(capsys, "cancel", second, "--results", str(tmp_path), "--yes")
    assert code == 0 and f": {first}, {second}\n" in out and len(slurm.rows()) == 1


def test_a_silent_lock_of_a_job_that_is_gone_is_taken_over(slurm: FakeSlurm, no_stages: None, tmp_path: Path) -> None:
    (spec,) = specs = dummies(1)
    plan, path = go(specs, tmp_path), spec.path(tmp_path)
    lock(path, job="101", age=90)
    assert go(specs, tmp_path).skipped == {"queued": specs}  # its job is there, so it may live
    slurm.change(plan.arrays[0].name, None, None)
    lock(path, job="999", age=90)  # another job's, of which the queue tells nothing
    assert go(specs, tmp_path).skipped == {"running": specs}
    lock(path, job="101", age=30)
    assert go(specs, tmp_path).skipped == {"running": specs}  # it was heard of a moment ago
    lock(path, job="101", age=90)
    assert make_plan(specs, tmp_path, SMALL, SMALL, queue()).runs == specs and (path / "lock").exists()
    assert go(specs, tmp_path).runs == specs and not (path / "lock").exists()


# Many -----------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_thousand_runs_in_half_a_minute(slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("submit", "-m", "random", "-t", "reach,window-open,drawer-open,drawer-close", "--seeds", "250",
             "--profile", "cpu", "--scale", "smoke", "--protocol", "apv", "--results", str(tmp_path))
    for expected in ("1000 runs submitted", "0 runs submitted with profile cpu; skipped: 1000 queued"):
        slurm.forget()
        begin = time.process_time()
        code, out, _ = cli(capsys, *words)
        assert code == 0 and expected in out and len(slurm.rows()) == 1000
        assert time.process_time() - begin < 30 and len(slurm.calls("squeue")) <= 2
