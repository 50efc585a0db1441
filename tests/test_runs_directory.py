"""Run directories: the same command continues, and a crash at any write loses nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.errors import (
    BenchError,
    ChangedError,
    DataError,
    LockedError,
    StorageError,
    TrainingError,
    UnreadableError,
)
from pvdr_bench.runs import faults, provenance
from pvdr_bench.runs.difference import difference
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.folders import loose_runs
from tests.damage import refusing


class FakeSpec:
    """A run's specification as the catalog would give it."""

    def __init__(self, budget=6, **recipe):
        self.budget = budget
        self._recipe = {"method": "m", "config": {"lr": 1e-5, "sizes": (1, 2), "x": float("inf")}, **recipe}

    def recipe(self):
        return self._recipe

    def model_dump(self, *, mode):
        assert mode == "json"
        return {**self._recipe, "env_steps": self.budget}


def run_to(path, budget, *, every=2, pause=0.0):
    """A whole run as the online loop does it: rows depend on a random state, a checkpoint at each ``every`` steps."""
    run = RunDir(path)
    with run.lock():
        run.open(FakeSpec(budget))
        if run.is_done(budget):
            return
        run.write_provenance()
        generator = np.random.default_rng(0)
        weights, step = np.zeros(3), 0
        if found := run.restore():
            step, state, _ = found
            weights, generator.bit_generator.state = state["weights"], state["rng"]
        while step < budget:
            weights = weights + generator.normal(size=3)
            step += 1
            run.train.append({"env_steps": step, "w": weights, "nan": float("nan")})
            run.episodes.append({"env_steps": step, "success_any": bool(weights[0] > 0)})
            run.heartbeat(every_seconds=1e9, env_steps=step)  # one per process: the same points in every run
            time.sleep(pause)
            if step % every == 0:
                run.save(step, {"weights": weights, "rng": generator.bit_generator.state})
        run.mark_done(env_steps=step)


def results_of(path):
    run = RunDir(path)
    last = run.checkpoints.steps()[-1]
    files = [path / "train.jsonl", path / "episodes.jsonl", *sorted(run.checkpoints.path(last).iterdir())]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}, run.done()["env_steps"]


def in_child(path, budget, *, every=2, **environment):
    """Run in a forked process under fault variables; returns its exit code."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.environ.update(environment)
            run_to(path, budget, every=every)
            code = 0
        except BenchError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(autouse=True)
def cheap_provenance(monkeypatch):
    monkeypatch.setattr("pvdr_bench.runs.provenance.collect", lambda: {"python": "3"})


@pytest.fixture
def reference(tmp_path):
    run_to(tmp_path / "reference", 6)
    return results_of(tmp_path / "reference")


@pytest.fixture
def short(tmp_path):
    """Four steps with a checkpoint each (so that one is pruned): its results, and every pass of every crash point."""
    trace = tmp_path / "trace"
    assert in_child(tmp_path / "short", 4, every=1, **{faults.TRACE: str(trace)}) == 0
    count: Counter[str] = Counter()
    points = []
    for name in trace.read_text().splitlines():
        count[name] += 1
        points.append(f"{name}:{count[name]}")
    return results_of(tmp_path / "short"), points


def test_a_crash_at_every_write_and_the_same_command_again_gives_the_same_bytes(tmp_path, short):
    expected, points = short
    assert {"log/train.jsonl/torn", "log/episodes.jsonl/torn", "write/run.yaml/torn", "replace/done.json",
            "write/state.safetensors/torn", "write/state.json/torn", "write/manifest.json/torn", "replace/run.yaml",
            "checkpoint/published", "checkpoint/prune", "lock/lock/taken", "sync/train.jsonl", "write/done.json/torn",
            "replace/heartbeat.json", "replace/provenance.json"} <= {point.partition(":")[0] for point in points}
    for number, point in enumerate(points):
        path = tmp_path / f"run{number}"
        assert in_child(path, 4, every=1, **{faults.CRASH_AT: point}) == faults.CRASH_CODE, point
        assert in_child(path, 4, every=1) == 0, point
        assert results_of(path) == expected, point
        assert not [file for file in path.rglob("*.tmp") if not file.name.startswith(".lock.")], point


def test_a_full_disk_at_every_write_stops_clearly_and_loses_nothing(tmp_path, short):
    expected, points = short
    for number, point in enumerate(point for point in points if "/torn:" in point):
        path = tmp_path / f"run{number}"
        assert in_child(path, 4, every=1, **{faults.FULL_AT: point}) == StorageError.exit_code, point
        assert in_child(path, 4, every=1) == 0, point
        assert results_of(path) == expected, point


def test_real_kills_at_random_moments(tmp_path):
    run_to(tmp_path / "reference", 40)
    path = tmp_path / "run"
    code = ("import sys; from pathlib import Path; from tests.test_runs_directory import run_to;"
            f"print('go', flush=True); run_to(Path({str(path)!r}), 40, pause=0.02)")
    command = [sys.executable, "-c", code]
    choose = random.Random(0)
    kills = 0
    for _ in range(3):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline() == "go\n"
        time.sleep(0.1 + 0.3 * choose.random())
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
    assert kills == 3 and RunDir(path).status() == "stopped"
    run_to(path, 40)
    assert results_of(path) == results_of(tmp_path / "reference")


def test_a_larger_budget_extends_and_a_done_run_is_left_alone(tmp_path, reference):
    path = tmp_path / "run"
    run_to(path, 2)
    stamp = (path / "done.json").read_bytes()
    run_to(path, 2)
    assert (path / "done.json").read_bytes() == stamp
    run_to(path, 6)
    assert results_of(path) == reference
    assert RunDir(path).read_run()["spec"]["env_steps"] == 6


def test_changed_recipe_is_refused_with_a_difference(tmp_path):
    run = RunDir(tmp_path / "run")
    run.open(FakeSpec())
    run.open(FakeSpec())  # tuples and infinities survive the file
    before = (run.path / "run.yaml").read_bytes()
    with pytest.raises(ChangedError) as caught:
        run.open(FakeSpec(config={"lr": 1e-4, "sizes": [1, 2], "new": 3}))
    message = str(caught.value)
    assert "config.lr: 1e-05 (there) -> 0.0001 (asked for)" in message
    assert "config.new" in message and "config.x" in message and "sizes" not in message
    assert (run.path / "run.yaml").read_bytes() == before and caught.value.exit_code == 7


def test_difference_of_equal_recipes_is_empty():
    assert difference({"a": (1, {"b": float("nan")})}, {"a": [1, {"b": float("nan")}]}) == []
    assert difference({"a": {"b": 1}}, {"a": {"b": 2}}) == ["a.b: 1 (there) -> 2 (asked for)"]


@pytest.mark.parametrize("text", ["a: [", "just text", "format: 99\nrecipe: {}"])
def test_broken_run_yaml_is_one_clear_error(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(DataError, match=r"run\.yaml"):
        RunDir(tmp_path).open(FakeSpec())


def test_two_processes_on_one_run_the_second_refuses(tmp_path):
    run = RunDir(tmp_path / "run")
    with run.lock():
        run.open(FakeSpec())
        run.train.append({"a": 1})
        assert in_child(run.path, 6) == LockedError.exit_code
        assert run.status() == "running" and run.read_train() == [{"a": 1}]
        with pytest.raises(LockedError):
            RunDir(run.path).open(FakeSpec(budget=99))  # a larger budget is not written under a running process
    assert run.status() == "stopped"


def test_a_writer_that_lost_its_lock_publishes_nothing(tmp_path):
    run = RunDir(tmp_path / "run")
    with run.lock():
        lock = json.loads((run.path / "lock").read_text())
        (run.path / "lock").write_text(json.dumps({**lock, "token": "other", "host": "thief"}))
        with pytest.raises(LockedError, match="thief"):
            run.save(1, {})
        with pytest.raises(LockedError):
            run.mark_done(env_steps=1)
    assert not run.checkpoints.steps() and run.done() is None


def test_status_failure_and_reading(tmp_path):
    run = RunDir(tmp_path / "m" / "seed-0")
    assert run.status() == "new" and run.read_run() is None and run.read_train() == []
    with run.lock():
        run.open(FakeSpec())
        run.heartbeat(every_seconds=100, env_steps=1)
        run.heartbeat(every_seconds=100, env_steps=2)
        try:
            raise TrainingError("loss is NaN", where="step 3")
        except TrainingError as error:
            run.mark_failed(error, env_steps=3)
    assert run.read_heartbeat()["env_steps"] == 1
    failed = run.failed()
    assert run.status() == "failed" and failed["exit_code"] == 8 and failed["env_steps"] == 3
    assert "step 3: loss is NaN" in failed["message"] and "test_status_failure" in failed["traceback"]
    with run.lock():
        run.mark_done(env_steps=10)
    assert run.status() == "done" and run.failed() is None and run.is_done(10) and not run.is_done(11)
    assert [path for _, path in loose_runs(tmp_path)] == [run.path]


def test_broken_checkpoint_takes_the_logs_back_to_the_one_before(tmp_path, reference):
    path = tmp_path / "run"
    run_to(path, 5)
    run = RunDir(path)
    assert run.checkpoints.steps() == [2, 4] and len(run.read_train()) == 5
    file = run.checkpoints.path(4) / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with run.lock():
        assert run.restore().step == 2
        assert [row["env_steps"] for row in run.read_train()] == [1, 2]
    run_to(path, 6)
    assert results_of(path) == reference


def test_what_is_done_and_has_no_checkpoint_is_not_begun_anew(tmp_path):
    run_to(tmp_path, 4)
    shutil.rmtree(tmp_path / "checkpoints")
    run = RunDir(tmp_path)
    with run.lock(), pytest.raises(DataError, match=r"done and has no checkpoint[^>]*\n  -> put its checkpoints back"):
        run.restore()
    assert run.done()["env_steps"] == 4 and len(run.read_train()) == 4


def test_a_checkpoint_that_cannot_be_read_leaves_the_run_as_it_is(tmp_path, reference):
    path = tmp_path / "run"
    run_to(path, 4)
    run = RunDir(path)
    with refusing(run.checkpoints.path(4) / "state.json"), run.lock(), pytest.raises(UnreadableError):
        run.restore()
    assert run.done()["env_steps"] == 4 and len(run.read_train()) == 4
    run_to(path, 6)
    assert results_of(path) == reference


def test_a_done_run_that_could_not_be_extended_stays_done(tmp_path):
    run_to(tmp_path, 4)
    run = RunDir(tmp_path)
    with run.lock():
        run.open(FakeSpec(6))
        run.write_provenance()
        run.mark_failed(TrainingError("no GL"))
    assert run.status() == "done" and run.standing().sealed and run.failed() is None
    assert run.is_done(4) and not run.is_done(6)


def test_a_log_shorter_than_its_checkpoint_is_an_error(tmp_path):
    run_to(tmp_path, 4)
    (tmp_path / "train.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match="checkpoint needs"):
        run_to(tmp_path, 6)


def test_later_starts_keep_the_first_provenance(tmp_path, monkeypatch):
    run = RunDir(tmp_path)
    run.write_provenance()
    monkeypatch.setattr("pvdr_bench.runs.provenance.collect", lambda: {"python": "3", "host": "b"})
    run.write_provenance()
    assert run.read_provenance() == {"python": "3", "resumes": [{"host": "b"}]}


def test_the_recorded_command_can_be_typed_again(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/pvdr_bench/__main__.py", "run", "--seeds", "5"])
    assert provenance.typed_command() == ["python", "-m", "pvdr_bench", "run", "--seeds", "5"]
    monkeypatch.setattr("sys.argv", ["/venv/bin/pvdr-bench", "run"])
    assert provenance.typed_command() == ["/venv/bin/pvdr-bench", "run"]


def test_the_same_code_has_the_same_hash_wherever_it_lies(tmp_path: Path) -> None:
    def sources() -> str:
        words = "from pvdr_bench.runs import provenance; print(provenance.sources(), provenance.code())"
        done = subprocess.run([sys.executable, "-c", words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    package = Path(provenance.__file__).resolve().parents[1]
    copy = tmp_path / package.name
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert sources() == f"{provenance.sources()} {{}}"  # no repository, and told all the same
    (copy / "more.py").touch()
    more = sources()
    (copy / "more.py").rename(copy / "most.py")
    assert len({provenance.sources(), more, renamed := sources()}) == 3
    (copy / "most.py").write_text("x = 1")
    assert sources() not in (more, renamed)
