"""The product on a real cluster: submitted runs are preempted, their node dies, and the results are those of `run`.

The scheduler is real (tests/slurm_cluster.py), the runs are real, at smoke scale.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pvdr_bench.launch.records import RunRecord, Submission, submissions
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import read_json
from tests.slurm_cluster import Cluster, eventually

pytestmark = pytest.mark.slurm
SAME = ("train.jsonl", "episodes.jsonl")  # hold no wall time; equal bytes in equal runs
PREEMPTING = ("--partition=high", "--exclusive", "--time=1")


class Bench:
    """The command line, with results and data of its own, on the cluster."""

    def __init__(self, cluster: Cluster, folder: Path, data: Path) -> None:
        self.cluster, self.results = cluster, folder / "results"
        self.env = {**cluster.env, "PVDR_BENCH_DATA": str(data), "MUJOCO_GL": "osmesa",
                    "OMP_NUM_THREADS": "1"}

    def __call__(self, *words: str, results: Path | None = None, code: int = 0) -> str:
        line = [sys.executable, "-m", "pvdr_bench", *words, "--results", str(results or self.results)]
        done = subprocess.run(line, env=self.env, capture_output=True, text=True, timeout=1200, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def states(self) -> dict[str, dict[str, Any]]:
        """Status by run."""
        return {row["run"]: row for row in json.loads(self("status", "--json"))["runs"]}

    def preempt(self) -> None:
        """Take both nodes for a moment: whatever runs there goes back into the queue."""
        for _ in range(2):
            self.cluster.submit("sleep 2", *PREEMPTING)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos and artefacts, made by the stage jobs of the first test."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def bench(cluster: Cluster, tmp_path: Path, data: Path) -> Iterator[Bench]:
    found = Bench(cluster, tmp_path, data)
    yield found
    subprocess.run(["scancel", "--user", os.environ.get("USER", "root")], env=cluster.env, check=False)


def starts(run: Path) -> int:
    """How often a run's process was started: its provenance has the first, and what differed in each later one."""
    path = run / "provenance.json"
    return 1 + len(read_json(path)["resumes"]) if path.exists() else 0


def unique_episodes(run: Path) -> None:
    """No evaluation lost or twice."""
    rows = RunDir(run).read_episodes()
    keys = [(row["env_steps"], row["point"], row["eval_seed"]) for row in rows]
    assert len(keys) == len(set(keys))


def assert_equal_to_local(bench: Bench, local: Path, runs: list[str]) -> None:
    for run in runs:
        unique_episodes(bench.results / run)
        for name in SAME:
            assert (bench.results / run / name).read_bytes() == (local / run / name).read_bytes(), f"{run}/{name}"


def write_profile(bench: Bench, folder: Path, name: str, text: str) -> None:
    """A profile of the user's own."""
    (folder / "slurm").mkdir(parents=True)
    (folder / "slurm" / f"{name}.yaml").write_text(
        f"partition: low\ndevice: cpu\nscale: smoke\ncpus_per_task: 1\nsetup: [export MUJOCO_GL=osmesa]\n"
        f"env: {{OMP_NUM_THREADS: '1'}}\n{text}\n")
    bench.env["PVDR_BENCH_PATH"] = str(folder)


def test_preempted_runs_give_the_bytes_of_a_local_run(bench: Bench, tmp_path: Path, data: Path) -> None:
    """The artefact they need is made by two processes on two nodes."""
    write_profile(bench, tmp_path / "site", "two", "nodes: 2\ntime_min: 30\nleave_s: 60")
    grid = ("--methods", "random", "--tasks", "reach", "--seeds", "2", "--scale", "smoke",
            "-o", "protocol.env_steps=1600")
    told = json.loads(bench("submit", *grid, "--profile", "local-sandbox", "--pretrain-profile", "two", "--json"))
    assert told["runs"] == 2 and told["arrays"][0]["jobs"] == 2
    assert [stage["what"].split()[0] for stage in told["stages"]] == ["tokenize"]  # rewards are distances of codes
    again = json.loads(bench("submit", *grid, "--profile", "local-sandbox", "--json"))
    assert again["runs"] == 0 and sum(again["skipped"].values()) == 2  # no run twice

    runs = [bench.results / run for run in bench.states()]
    eventually(lambda: all(RunDir(run).checkpoints.steps() for run in runs), 400, "a checkpoint of each run")
    (metrics,) = data.glob("artefacts/tokenize/*/metrics.json")
    assert read_json(metrics)["processes"] == 2
    bench.preempt()
    eventually(lambda: all(row["state"] == "done" for row in bench.states().values()), 400, "all runs done")
    assert all(starts(run) >= 2 for run in runs)
    assert all(row["restarts"] >= 1 for row in bench.states().values())

    bench("run", *grid, "--jobs", "2", results=tmp_path / "local")
    assert_equal_to_local(bench, tmp_path / "local", list(bench.states()))
    snapshot = read_json(runs[0] / "provenance.json")["git"]["snapshot"]
    assert Path(submissions(bench.results)[0].read()["snapshot"]).name == snapshot  # the copied code ran, not ours


def test_cancelled_runs_stop_and_retry_continues_them(bench: Bench) -> None:
    grid = ("--methods", "random", "--tasks", "reach", "--seeds", "0,", "--scale", "smoke",
            "-o", "protocol.env_steps=8000")
    bench("submit", *grid, "--profile", "local-sandbox")
    (run,) = (bench.results / name for name in bench.states())
    eventually(lambda: RunDir(run).checkpoints.steps(), 240, "a checkpoint")
    bench("cancel", "--yes")
    name = run.relative_to(bench.results).as_posix()
    # "lost" where KillWait, short in the sandbox, was over before the process was.
    eventually(lambda: bench.states()[name]["state"] in ("stopped", "lost"), 150, "stopped")
    before = max(RunDir(run).checkpoints.steps())
    assert "1 run submitted" in bench("retry")
    eventually(lambda: max(RunDir(run).checkpoints.steps()) > before, 240, "it goes on")
    bench("cancel", "--yes")


def test_time_limit_saves_leaves_and_is_requeued(bench: Bench, tmp_path: Path) -> None:
    """The job's own clock: of three minutes it uses two."""
    write_profile(bench, tmp_path / "site", "short", "time_min: 3\nleave_s: 60")
    bench("submit", "--methods", "random", "--tasks", "reach", "--seeds", "0,", "--scale", "smoke",
          "-o", "protocol.env_steps=200000", "--profile", "short")
    (name,) = bench.states()
    eventually(lambda: bench.states()[name]["restarts"] >= 1, 300, "the second start")
    record = RunRecord.read(bench.results / name)
    assert record is not None
    assert "its time was out" in (Submission.of(record).logs / f"{bench.states()[name]['job']}_0_log.out").read_text()
    steps = RunDir(bench.results / name).checkpoints.steps()
    eventually(lambda: max(RunDir(bench.results / name).checkpoints.steps()) > max(steps), 120, "it goes on")
    bench("cancel", "--yes")


@pytest.mark.long
def test_ten_runs_two_methods_all_preempted_and_a_node_killed(cluster: Cluster, tmp_path: Path) -> None:
    """The whole way, artefact stages included: every job is preempted at least once, and a node dies."""
    bench = Bench(cluster, tmp_path, tmp_path / "data")
    grid = ("--methods", "pvdr,ppo", "--tasks", "reach", "--seeds", "5", "--scale", "smoke")
    told = json.loads(bench("submit", *grid, "--profile", "local-sandbox", "--json"))
    assert told["runs"] == 10 and {stage["what"].split()[0] for stage in told["stages"]} == {"tokenize", "pretrain"}
    runs = [bench.results / run for run in bench.states()]
    killed, deadline = False, time.monotonic() + 3000
    while not all((run / "done.json").exists() for run in runs):
        assert time.monotonic() < deadline, bench("status")
        fresh = [run for run in runs if starts(run) == 1 and RunDir(run).status() == "running"]
        if fresh:
            bench.preempt()
        nodes = [row["node"] for row in bench.states().values() if row["state"] == "running" and row["node"]]
        if nodes and not killed:
            killed = bench.cluster.control("kill-node", nodes[0]).returncode == 0
            time.sleep(20)
            bench.cluster.control("start-node", nodes[0])
        time.sleep(10)
    assert killed and all(starts(run) >= 2 for run in runs)
    bench("run", *grid, "--jobs", "2", results=tmp_path / "local")
    assert_equal_to_local(bench, tmp_path / "local", [run.relative_to(bench.results).as_posix() for run in runs])
