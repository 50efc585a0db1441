"""The promise of exactness: same seed, same bytes; a killed run that continues equals one never killed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from pvdr_bench.rl.replay.scratch import SCRATCH
from pvdr_bench.runs import faults
from pvdr_bench.runs.directory import RunDir
from tests import dummies
from tests.dummies import SYNC, make_spec
from tests.processes import call, start

KINDS = ("onpolicy", "recurrent", "search")
BUDGET = 2 * SYNC


def run(results: Path, kind: str, budget: int = BUDGET, seed: int = 0, **environment: str) -> int:
    """One run in a child process; its exit code."""
    return call(dummies.main, str(results), kind, str(seed), str(budget), **environment)


def run_dir(results: Path, kind: str, seed: int = 0) -> RunDir:
    return RunDir(make_spec(kind, seed).path(results))


def results_of(results: Path, kind: str, seed: int = 0) -> dict[str, bytes]:
    return bytes_of(run_dir(results, kind, seed))


def bytes_of(folder: RunDir) -> dict[str, bytes]:
    """Every byte that must not depend on interruptions: logs, newest weights and states, replay."""
    newest = folder.checkpoints.path(folder.checkpoints.steps()[-1])
    files = [folder.train.path, folder.episodes.path, newest / "state.safetensors", *folder.path.glob("replay/*")]
    return {str(path.relative_to(folder.path)): path.read_bytes() for path in sorted(files)}


@pytest.fixture(scope="module", params=KINDS)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, list[str]]:
    """Kind, results folder of an uninterrupted run, and the writes that it made."""
    folder = tmp_path_factory.mktemp(request.param)
    trace = folder / "trace"
    assert run(folder / "results", request.param, **{faults.TRACE: str(trace)}) == 0
    return request.param, folder / "results", trace.read_text().split()


def crash_targets(trace: list[str], which: str) -> list[str]:
    """Each kind of write at its middle time, or at its first and last."""
    counts = Counter(name for name in trace if "heartbeat" not in name or name.startswith("replace"))
    if which == "middle":
        return [f"{name}:{(n + 1) // 2}" for name, n in counts.items()]
    return [f"{name}:{k}" for name, n in counts.items() for k in sorted({1, n} - {(n + 1) // 2})]


def test_same_seed_same_bytes_other_seed_other_bytes(reference: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    kind, expected, _ = reference
    assert run(tmp_path, kind) == 0
    assert results_of(tmp_path, kind) == results_of(expected, kind)
    assert run(tmp_path, kind, seed=1) == 0
    assert run_dir(tmp_path, kind, 1).train.path.read_bytes() != run_dir(tmp_path, kind).train.path.read_bytes()


def test_larger_budget_extends_to_the_same_bytes(reference: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    kind, expected, _ = reference
    assert run(tmp_path, kind, BUDGET // 2) == 0
    assert {row["env_steps"] for row in run_dir(tmp_path, kind).read_episodes()} == {0, SYNC}
    assert run(tmp_path, kind) == 0
    assert results_of(tmp_path, kind) == results_of(expected, kind)


@pytest.mark.parametrize("which", ["middle", pytest.param("ends", marks=pytest.mark.long)])
def test_crash_at_every_kind_of_write(reference: tuple[str, Path, list[str]], tmp_path: Path, which: str) -> None:
    kind, expected, trace = reference
    whole = results_of(expected, kind)
    targets = crash_targets(trace, which)
    assert len(targets) > 20
    if kind == "search":  # what it has of its own: columns that are written anew
        targets = [target for target in targets if target.startswith(("replay.", "checkpoint/published"))]
        assert any(target.startswith("replay.rewrite") for target in targets)
    for i, target in enumerate(targets):
        folder = tmp_path / str(i)
        assert run(folder, kind, **{faults.CRASH_AT: target}) == faults.CRASH_CODE, target
        assert run(folder, kind) == 0, target
        assert results_of(folder, kind) == whole, target


def test_torn_log_line_and_crash_in_the_resumed_start(reference: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    kind, expected, _ = reference
    assert run(tmp_path, kind, **{faults.CRASH_AT: "log/train.jsonl/torn:4"}) == faults.CRASH_CODE
    assert run(tmp_path, kind, **{faults.CRASH_AT: "checkpoint/published:1"}) == faults.CRASH_CODE
    assert run(tmp_path, kind) == 0
    assert results_of(tmp_path, kind) == results_of(expected, kind)


@pytest.mark.parametrize("rows", [1, 5])
def test_kill_9_at_some_moment(reference: tuple[str, Path, list[str]], tmp_path: Path, rows: int) -> None:
    kind, expected, _ = reference
    process = start(dummies.main, str(tmp_path), kind, "0", str(BUDGET))
    log = run_dir(tmp_path, kind).train.path
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_bytes().count(b"\n") >= rows):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert run(tmp_path, kind) == 0
    assert results_of(tmp_path, kind) == results_of(expected, kind)


def test_signal_leaves_with_75_and_continues(reference: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    kind, expected, _ = reference
    process = start(dummies.main, str(tmp_path), kind, "0", str(50 * SYNC))
    directory = run_dir(tmp_path, kind)
    while not directory.checkpoints.steps():
        assert process.is_alive()
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 75
    assert directory.status() == "stopped"
    longest = directory.checkpoints.steps()[-1]
    assert run(tmp_path, kind, longest + SYNC) == 0
    assert run(tmp_path / "straight", kind, longest + SYNC) == 0
    assert results_of(tmp_path, kind) == results_of(tmp_path / "straight", kind)


def test_columns_that_are_written_anew_survive_the_death_of_a_node(tmp_path: Path) -> None:
    """On a node's own disk, killed between two writes, and continued on another node."""
    assert run(tmp_path / "straight", "search") == 0
    disks = [{SCRATCH: str(tmp_path / f"disk{i}")} for i in range(2)]
    assert run(tmp_path / "moved", "search", **disks[0], **{faults.CRASH_AT: "replay.rewrite:90"}) == faults.CRASH_CODE
    assert run_dir(tmp_path / "moved", "search").checkpoints.steps()
    assert run(tmp_path / "moved", "search", **disks[1]) == 0
    assert results_of(tmp_path / "moved", "search") == results_of(tmp_path / "straight", "search")
