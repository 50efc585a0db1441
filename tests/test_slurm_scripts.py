"""What is handed to sbatch, byte for byte, and what --dry-run tells of it; with a fake sbatch and squeue."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from pvdr_bench.launch import submission
from pvdr_bench.launch.records import Submission
from pvdr_bench.launch.submission import script
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import read_json
from tests.results_runs import finish
from tests.slurm_fakes import ID, FakeSlurm, nowhere, slurm
from tests.slurm_submit import BIG, SMALL, WORDS, dummies, fixed, flag, go, names, resolved, script_of
from tests.test_cli_run import cli

__all__ = ["fixed", "nowhere", "slurm"]
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
    seconds = spec.protocol.env_steps * 3600 / 640
    run_dir.timing.append({"env_steps": spec.protocol.env_steps, "point": "final", "wall_seconds": seconds,
                           "evaluation_seconds": 1.0, "device": "cuda"})
    finish(run_dir, spec.protocol.env_steps, wall_seconds=seconds)
    run_dir.timing.close()
    facts = json.loads(cli(capsys, "submit", *WORDS, "--seeds", "5", "--profile", "a100", "--results", str(tmp_path),
                           "--dry-run", "--json")[1])
    assert facts["skipped"] == {"done": 1} and facts["run_hours"] == pytest.approx(4 * 0.5)
    assert facts["gpu_hours"] == pytest.approx(2.0) and facts["disk_bytes"] > 4 * 1000
