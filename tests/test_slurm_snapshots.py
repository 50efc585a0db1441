"""What jobs find: a clean environment, pickles of paths, and a copy of the code; with a fake sbatch and squeue."""

from __future__ import annotations

import json
import os
import pickletools
import subprocess
import sys
from pathlib import Path

import pytest

from pvdr_bench.errors import BenchError
from pvdr_bench.launch import snapshot as snapshots
from pvdr_bench.launch.cluster import QueuedJob, clean_environment, queue
from pvdr_bench.launch.jobs import RunJob, StageJob, read_spec
from pvdr_bench.runs import faults, provenance
from pvdr_bench.runs.files import read_json
from tests.slurm_fakes import FakeSlurm, slurm
from tests.slurm_submit import SMALL, dummies, fixed, go, no_stages, resolved

__all__ = ["fixed", "no_stages", "slurm"]


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
