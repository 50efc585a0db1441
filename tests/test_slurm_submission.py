"""Submitting: scripts byte for byte, who waits for whom, and no run twice; with a fake sbatch and squeue."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickletools
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.catalog.profile import Profile
from pvdr_bench.errors import BenchError, ChangedError, LockedError, SetupError
from pvdr_bench.launch import snapshot as snapshots
from pvdr_bench.launch import submission
from pvdr_bench.launch.cluster import QueuedJob, clean_environment, queue
from pvdr_bench.launch.jobs import RunJob, StageJob, read_spec
from pvdr_bench.launch.needs import StageNeed
from pvdr_bench.launch.records import RunRecord, Submission
from pvdr_bench.launch.submission import make_plan, script, submit
from pvdr_bench.launch.watch import run_folders, statuses
from pvdr_bench.runs import faults, provenance
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import read_json
from pvdr_bench.runs.locks import FileLock
from tests.dummies import make_spec
from tests.slurm_fakes import PROFILE, FakeSlurm, lock, nowhere, slurm
from tests.test_cli_run import cli

__all__ = ["nowhere", "slurm"]
ID = "20260101-000000-abcd"
WORDS = ("-m", "random", "-t", "reach", "--scale", "smoke", "--protocol", "apv")  # no artefacts
SMALL = Profile.model_validate(PROFILE)
BIG = Profile.model_validate({
    "name": "big", "partition": "gpu", "account": "lab", "qos": "normal", "constraint": "a100_80gb",
    "exclude": ["n1", "n2"], "gpu": {"style": "gres", "type": "a100"}, "device": "cuda", "scale": "gpu",
    "cpus_per_task": 12, "mem_gb": 60, "time_min": 1440, "leave_s": 300, "array_parallelism": 2,
    "setup": ["module load cuda"], "wrapper": ["xvfb-run", "-a"], "env": {"OMP_NUM_THREADS": "1", "WORDS": "a b"},
    "scratch": "$SLURM_TMPDIR", "extra": {"comment": "pvdr"}})


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One name for all submissions."""
    monkeypatch.setattr(Submission, "new", classmethod(lambda cls, results: cls(results / ".slurm" / ID)))


@pytest.fixture
def no_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dummy runs, which no catalog knows, and no copy of the code."""
    monkeypatch.setattr(submission, "stage_needs", lambda specs: {})
    monkeypatch.setattr(submission, "need_of", lambda spec, needs: None)
    monkeypatch.setattr(snapshots, "take_snapshot", lambda folder: folder / "code")


def resolved(method: str, scale: str = "smoke", seeds: int = 1) -> list[Any]:
    """Runs of the catalog; ``random`` in the protocol whose reward needs no tokenizer."""
    protocol = "apv" if method == "random" else "pvdr"
    return [load_catalog().resolve(method, "reach", seed, scale, protocol) for seed in range(seeds)]


def dummies(count: int) -> list[Any]:
    return [make_spec(seed=seed) for seed in range(count)]


def go(specs: Sequence[Any], results: Path, runs: Profile = SMALL, stages: Profile | None = None) -> Any:
    return submit(specs, results, runs, stages or runs)


def script_of(call: dict[str, Any], results: Path) -> str:
    """A submitted script with placeholders for the paths."""
    text = call["script"].replace(str(results), "RESULTS").replace(sys.executable, "PYTHON")
    return re.sub(r"snapshots/[0-9a-f]{12}", "snapshots/HASH", text)


def child(function: Callable[[], Any], **environment: str) -> multiprocessing.Process:
    """Start a function in a forked process; the exit code is that of its error."""
    def work() -> None:
        os.environ.update(environment)
        try:
            function()
        except BenchError as error:
            os._exit(error.exit_code)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def names(fake: FakeSlurm) -> list[str]:
    return [re.findall(r"job-name=(\S+)", call["script"])[0] for call in fake.calls("sbatch")]


def flag(call: dict[str, Any], name: str) -> str | None:
    found = re.findall(rf"^#SBATCH --{name}(?:=(.*))?$", call["script"], re.M)
    return found[0] if found else None


# Scripts --------------------------------------------------------------------------------------------------------------

ARRAY = f"""#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-2%2
#SBATCH --comment=pvdr
#SBATCH --constraint=a100_80gb
#SBATCH --cpus-per-task=12
#SBATCH --error=RESULTS/.slurm/{ID}/logs/%A_%a_0_log.err
#SBATCH --exclude=n1,n2
#SBATCH --gres=gpu:a100:1
#SBATCH --job-name=pvdr-{ID}-r0
#SBATCH --mem=61440M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=RESULTS/.slurm/{ID}/logs/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --signal=USR2@150
#SBATCH --time=1440

# setup
export OMP_NUM_THREADS=1
export WORDS='a b'
export PYTHONPATH=RESULTS/.slurm/snapshots/HASH
export PYTHONSAFEPATH=1
export PVDR_BENCH_PATH=RESULTS/.slurm/snapshots/HASH/yaml-0
module load cuda
export PVDR_BENCH_SCRATCH="$SLURM_TMPDIR"

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output RESULTS/.slurm/{ID}/logs/%A_%a_%t_log.out --error \
RESULTS/.slurm/{ID}/logs/%A_%a_%t_log.err --cpus-per-task 12 xvfb-run -a PYTHON -u -m submitit.core._submit \
RESULTS/.slurm/{ID}/logs
"""

STAGE = f"""#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=1
#SBATCH --dependency=afterok:101
#SBATCH --error=RESULTS/.slurm/{ID}/logs/%j_0_log.err
#SBATCH --job-name=pvdr-{ID}-s1
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=RESULTS/.slurm/{ID}/logs/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@30
#SBATCH --time=30

# setup
export PYTHONPATH=RESULTS/.slurm/snapshots/HASH
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output RESULTS/.slurm/{ID}/logs/%j_%t_log.out --error RESULTS/.slurm/{ID}/logs/%j_%t_log.err \
--cpus-per-task 1 --kill-on-bad-exit=1 PYTHON -u -m submitit.core._submit RESULTS/.slurm/{ID}/logs
"""


def test_an_arrays_script_to_the_byte(slurm: FakeSlurm, fixed: None, tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own" / "methods").mkdir(parents=True)
    (tmp_path / "own" / "methods" / "mine.yaml").write_text("extends: ppo\n")
    monkeypatch.setenv("PVDR_BENCH_PATH", str(tmp_path / "own"))
    results = tmp_path / "results"
    plan = go(resolved("random", seeds=3), results, BIG)
    (call,) = slurm.calls("sbatch")
    assert script_of(call, results) == ARRAY
    code = Path(read_json(plan.submission.path / "submission.json")["snapshot"])
    assert script(plan, plan.arrays[0], code) == call["script"]  # what --dry-run shows


def test_scripts_of_stages_and_of_a_job_alone(slurm: FakeSlurm, fixed: None, tmp_path: Path) -> None:
    results = tmp_path / "results"
    wide = SMALL.model_copy(update={"nodes": 2, "tasks_per_node": 4})
    plan = go([*resolved("pvdr"), *resolved("ppo", seeds=2), *resolved("random")], results, SMALL, wide)
    calls = slurm.calls("sbatch")
    assert [name[-2:] for name in names(slurm)] == ["s0", "s1", "r0", "r1", "r2"]
    assert [flag(call, "dependency") for call in calls] == [None, "afterok:101", "afterok:102", "afterok:101", None]
    assert [flag(call, "kill-on-invalid-dep") for call in calls] == [None, "yes", "yes", "yes", None]
    assert [flag(call, "array") for call in calls] == [None, None, None, "0-1%2", None]
    assert [flag(call, "nodes") for call in calls] == ["2", "2", "1", "1", "1"]
    assert [stage.need.stage for stage in plan.stages] == ["tokenize", "pretrain"]
    assert script_of(calls[1], results) == STAGE
    alone = STAGE.replace("-s1", "-r0").replace("nodes=2", "nodes=1").replace("node=4", "node=1")
    alone = alone.replace(" --kill-on-bad-exit=1", "")  # one process has no others to end
    assert script_of(calls[2], results) == alone.replace("afterok:101", "afterok:102")
    free = script_of(calls[4], results)
    assert free == re.sub(r"#SBATCH --(dependency|kill).*\n", "", alone).replace("-r0", "-r2")
    for array in plan.arrays[:2]:
        code = Path(read_json(plan.submission.path / "submission.json")["snapshot"])
        assert re.sub(r"afterok:\S+", "afterok:N", script(plan, array, code)) in [
            re.sub(r"afterok:\S+", "afterok:N", call["script"]) for call in calls]
    assert not any("wckey" in call["script"] for call in calls)


def test_options_that_change_a_script(tmp_path: Path) -> None:
    def text(**changes: Any) -> str:
        plan = submission.Plan(tmp_path, Submission(tmp_path / ID), {"runs": SMALL.model_copy(update=changes)})
        return script(plan, submission.ArrayPlan("n", (tuple(dummies(1)),), None), tmp_path / "code")

    assert "#SBATCH --no-requeue\n" in text(requeue=False) and "#SBATCH --requeue" not in text(requeue=False)
    assert "#SBATCH --wckey=mine\n" in text(wckey="mine")
    assert "#SBATCH --mem-per-cpu=2560M\n" in text(mem_per_cpu_gb=2.5) and "--mem=" not in text(mem_per_cpu_gb=2.5)
    assert " --cpu-bind none PYTHON" in text(srun_args=("--cpu-bind", "none")).replace(sys.executable, "PYTHON")
    assert "--cpus-per-task 1" not in text(srun_args=())
    assert "#SBATCH --signal=USR2@5\n" in text(leave_s=10)


def test_a_dry_run_needs_no_scheduler_and_writes_nothing(nowhere: None, tmp_path: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    words = ["submit", "-m", "ppo,pvdr", "-t", "reach", "--seeds", "2", "--profile", "a100", "--scale", "smoke",
             "--results", str(tmp_path / "results"), "--dry-run"]
    code, out, _ = cli(capsys, *words)
    assert code == 0 and "4 runs would be submitted with profile a100" in out and "tokenize tokenizer" in out
    assert "#SBATCH --gres=gpu:a100:1" in out and "cost: unknown" in out
    facts = json.loads(cli(capsys, *words, "--json")[1])
    assert facts["runs"] == 4 and [array["jobs"] for array in facts["arrays"]] == [2, 2]
    assert [array["after"] for array in facts["arrays"]] == [stage["name"] for stage in facts["stages"]]
    assert "#SBATCH --array=0-1%2" in facts["script"] and facts["stages"][1]["after"] == facts["stages"][0]["name"]
    assert not (tmp_path / "results").exists()


def test_the_cost_as_finished_runs_went(slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = resolved("random")[0]
    run_dir = RunDir(spec.path(tmp_path))
    run_dir.open(spec)
    run_dir.mark_done(env_steps=spec.protocol.env_steps, wall_seconds=spec.protocol.env_steps * 3600 / 640)
    facts = json.loads(cli(capsys, "submit", *WORDS, "--seeds", "5", "--profile", "a100", "--results", str(tmp_path),
                           "--dry-run", "--json")[1])
    assert facts["skipped"] == {"done": 1} and facts["run_hours"] == pytest.approx(4 * 0.5)
    assert facts["gpu_hours"] == pytest.approx(2.0) and facts["disk_bytes"] > 4 * 1000


# Which jobs -----------------------------------------------------------------------------------------------------------


def test_arrays_of_the_sites_size_and_several_runs_in_a_job(slurm: FakeSlurm, no_stages: None, tmp_path: Path) -> None:
    profile = SMALL.model_copy(update={"max_array": 2, "runs_per_job": 2, "array_parallelism": 1})
    specs = dummies(7)
    go(specs, tmp_path, profile)
    assert [flag(call, "array") for call in slurm.calls("sbatch")] == ["0-1%1", "0-1%1"]
    records = [RunRecord.read(spec.path(tmp_path)) for spec in specs]
    assert [record and (record.name[-2:], record.index) for record in records] == [
        ("r0", 0), ("r0", 0), ("r0", 1), ("r0", 1), ("r1", 0), ("r1", 0), ("r1", 1)]
    assert {(job.name[-2:], job.index) for job in queue().values()} == {("r0", 0), ("r0", 1), ("r1", 0), ("r1", 1)}


def test_shipped_artefacts_need_no_stage_job(slurm: FakeSlurm, tmp_path: Path) -> None:
    plan = make_plan([*resolved("ppo", "cpu"), *resolved("pvdr", "cpu")], tmp_path, SMALL, SMALL)
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
    assert [stage.job_id for stage in make_plan(resolved("ppo"), tmp_path, SMALL, SMALL).stages] == [None]


def test_no_run_twice(slurm: FakeSlurm, no_stages: None, tmp_path: Path) -> None:
    specs = dummies(6)
    plan = go(specs, tmp_path)
    name = plan.arrays[0].name
    slurm.forget()
    assert go(specs, tmp_path).skipped == {"queued": specs} and not slurm.calls("sbatch")
    assert len(slurm.calls("squeue")) == 1
    done, running, failed, stopped, lost, held = specs
    RunDir(done.path(tmp_path)).mark_done(env_steps=done.protocol.env_steps)
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
    children = [child(lambda: go(specs, tmp_path)) for _ in range(2)]
    for process in children:
        process.join(60)
    assert sorted({process.exitcode for process in children} - {LockedError.exit_code}) == [0]
    assert len(slurm.rows()) == 5
    assert {(row[0], row[3]) for row in slurm.rows()} == {
        (record.name, record.index) for spec in specs if (record := RunRecord.read(spec.path(tmp_path)))}
    with FileLock(tmp_path / ".slurm" / "lock"):
        process = child(lambda: go(dummies(6), tmp_path))
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
    assert code == 0 and "1 runs submitted" in out and len(slurm.rows()) == 1
    code, out, _ = cli(capsys, *words)
    assert code == 0 and "skipped: 1 queued" in out and len(slurm.rows()) == 1


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
    process = child(lambda: go(specs, tmp_path), **{faults.CRASH_AT: "write/submission.json/done:2"})
    process.join(60)
    assert process.exitcode == faults.CRASH_CODE and len(slurm.rows()) == 3
    assert [status.state for status in statuses(tmp_path, queue())] == ["queued"] * 3
    slurm.forget()
    assert go(specs, tmp_path).skipped == {"queued": specs} and not slurm.calls("sbatch")


def test_a_submitter_killed_at_any_write_leaves_nothing_that_points_nowhere(
        slurm: FakeSlurm, no_stages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    specs = dummies(2)
    monkeypatch.setattr(submission, "stage_needs", lambda found: {"key": StageNeed("key", "tokenize", found[0], None)})
    monkeypatch.setattr(submission, "need_of", lambda spec, needs: "key")
    for i, target in enumerate(("write/stage.json/done", "replace/stage.json", "replace/submission.json",
                                "write/run.yaml/done", "replace/run.yaml", "replace/job.json")):
        results = tmp_path / str(i)
        process = child(lambda folder=results: go(specs, folder), **{faults.CRASH_AT: target})
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
    assert make_plan(specs, tmp_path, SMALL, SMALL).runs == specs and (path / "lock").exists()
    assert go(specs, tmp_path).runs == specs and not (path / "lock").exists()


# What jobs get --------------------------------------------------------------------------------------------------------


def test_what_an_enclosing_job_left_in_the_environment_is_hidden(slurm: FakeSlurm, no_stages: None, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = {"SLURM_JOB_ID": "5", "SLURM_CPUS_PER_TASK": "1", "SBATCH_PARTITION": "debug", "SRUN_DEBUG": "1",
                 "SUBMITIT_EXECUTOR": "local", "RANK": "3", "SQUEUE_STATES": "RUNNING", "PMIX_RANK": "1"}
    kept = {"SLURM_CONF": "/etc/slurm.conf", "MY_OWN": "1"}
    for key, value in {**inherited, **kept}.items():
        monkeypatch.setenv(key, value)
    go(dummies(1), tmp_path)
    for call in (*slurm.calls("sbatch"), *slurm.calls("squeue")):
        assert not set(inherited) & set(call["env"]) and {**call["env"], **kept} == call["env"]
    assert {**os.environ, **inherited, **kept} == os.environ  # and it is all there again
    with pytest.raises(ZeroDivisionError), clean_environment():
        raise ZeroDivisionError
    assert os.environ["SLURM_JOB_ID"] == "5"


def test_squeue_is_asked_once_by_number_of_the_user(slurm: FakeSlurm) -> None:
    slurm.set_rows([["pvdr-x-r0", 7, 7, "N/A", "PENDING", "", "Priority", "1:00"],
                    ["pvdr-x-r1", 9, 8, 3, "RUNNING", "n1", "None", "0:59"],
                    ["vim", 3, 3, "N/A", "RUNNING", "", "", ""]])
    assert queue() == {("pvdr-x-r0", 0): QueuedJob("pvdr-x-r0", 0, "7", "PENDING", "", "Priority", "1:00"),
                       ("pvdr-x-r1", 3): QueuedJob("pvdr-x-r1", 3, "8_3", "RUNNING", "n1", "None", "0:59")}
    (call,) = slurm.calls("squeue")
    assert call["words"] == ["--noheader", "--array", "--user", str(os.getuid()), "--format", "%j|%A|%F|%K|%T|%N|%r|%L"]


def test_a_jobs_pickle_holds_paths_only(slurm: FakeSlurm, fixed: None, tmp_path: Path) -> None:
    from submitit.core.utils import DelayedSubmission

    specs = resolved("ppo", seeds=2)
    plan = go(specs, tmp_path, SMALL.model_copy(update={"runs_per_job": 2}))
    pickles = sorted(plan.submission.logs.glob("*_submitted.pkl"))
    assert [path.name for path in pickles] == ["101_submitted.pkl", "102_submitted.pkl"]
    stage, job = (DelayedSubmission.load(path) for path in pickles)
    assert stage.function == StageJob(str(plan.submission.path / "stage-0"))
    assert job.function == RunJob(tuple(str(spec.path(tmp_path)) for spec in specs))
    assert not (job.args or job.kwargs or stage.args or stage.kwargs) and job._timeout_min == 30
    for path in pickles:
        words = [str(argument) for _, argument, _ in pickletools.genops(path.read_bytes())]
        assert not any("lambda" in word or "cloudpickle" in word for word in words) and len(path.read_bytes()) < 1000
    # all the rest is read from these paths
    assert read_spec(specs[1].path(tmp_path)) == specs[1]
    assert plan.submission.profile("runs") == SMALL.model_copy(update={"runs_per_job": 2})
    order = read_json(plan.submission.path / "stage-0" / "stage.json")
    assert order["stage"] == "tokenize" and order["spec"] == specs[0].model_dump(mode="json")


# The code that jobs run -----------------------------------------------------------------------------------------------


def test_snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, own = tmp_path / "src" / "pvdr_bench", tmp_path / "own"
    for path, text in ((package / "a.py", "1"), (package / "__pycache__" / "a.pyc", "x"), (own / "methods/m.yaml", "y"),
                       (package.parent / "methods" / "pvdr.yaml", "z"), (package.parent / "secret.txt", "no")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(snapshots, "PACKAGE", package)
    monkeypatch.setenv("PVDR_BENCH_PATH", str(own))
    first = snapshots.take_snapshot(tmp_path / "shots")
    assert sorted(str(path.relative_to(first)) for path in first.rglob("*") if path.is_file()) == [
        "methods/pvdr.yaml", "pvdr_bench/a.py", "snapshot.json", "yaml-0/methods/m.yaml"]
    assert snapshots.environment(first) == {"PYTHONPATH": str(first), "PYTHONSAFEPATH": "1",
                                            "PVDR_BENCH_PATH": str(first / "yaml-0")}
    (package / "__pycache__" / "a.pyc").write_text("other")
    assert snapshots.take_snapshot(tmp_path / "shots") == first
    seen = {first}
    for path in (package / "a.py", own / "methods/m.yaml", package.parent / "methods" / "pvdr.yaml"):
        path.write_text("edited")
        seen.add(snapshots.take_snapshot(tmp_path / "shots"))
    assert len(seen) == 4 and (first / "pvdr_bench" / "a.py").read_text() == "1"
    (package / "b.py").write_text("")
    monkeypatch.setenv(faults.FULL_AT, "write/snapshot.json/done")
    with pytest.raises(BenchError, match="disk is full"):
        snapshots.take_snapshot(tmp_path / "shots")
    monkeypatch.delenv(faults.FULL_AT)
    whole = snapshots.take_snapshot(tmp_path / "shots")
    assert whole not in seen and (whole / "snapshot.json").exists()
    (whole / "snapshot.json").unlink()  # as a crash before its mark leaves it
    (whole / "pvdr_bench" / "a.py").unlink()
    assert snapshots.take_snapshot(tmp_path / "shots") == whole and (whole / "pvdr_bench" / "a.py").exists()


def test_jobs_run_the_copy_and_say_what_it_was_copied_from(tmp_path: Path) -> None:
    code = snapshots.take_snapshot(tmp_path)
    words = ("import json, pvdr_bench; from pvdr_bench.runs import provenance; from pvdr_bench.catalog import "
             "load_catalog; print(json.dumps([pvdr_bench.__file__, provenance.code(), load_catalog().profiles()]))")
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[1], env={**os.environ, **snapshots.environment(code)})
    place, found, profiles = json.loads(done.stdout)
    assert place == str(code / "pvdr_bench" / "__init__.py") and "a100" in profiles
    assert found == {**provenance.code(), "snapshot": code.name} and code.name == snapshots.describe(code)["hash"]


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
