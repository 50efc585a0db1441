"""The main job through its real command, at smoke scale: what it leaves behind, and that kill -9 changes no byte."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pvdr_bench.catalog.catalog import load_catalog
from pvdr_bench.cli.main import main
from pvdr_bench.runs.directory import RunDir
from tests.processes import start as start_child
from tests.test_training_exact import bytes_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first run puts the corpus and the artefacts that the others find."""
    return tmp_path_factory.mktemp("data")


def environment(data: Path) -> dict[str, str]:
    return {**os.environ, "PVDR_BENCH_DATA": str(data), "OMP_NUM_THREADS": "1"}


def start(method: str, results: Path, data: Path) -> subprocess.Popen[str]:
    """``pvdr-bench run --method METHOD --task reach --seeds 1 --scale smoke``."""
    words = ["run", "--method", method, "--task", "reach", "--seeds", "1", "--scale", "smoke", "--videos", "metaworld",
             "--device", "cpu", "--results", str(results)]
    return subprocess.Popen([sys.executable, "-m", "pvdr_bench", *words], env=environment(data), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[str]) -> None:
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out


def run_dir(method: str, results: Path) -> RunDir:
    return RunDir(load_catalog().resolve(method, "reach", 0, "smoke", videos="metaworld").path(results))


def kill_after_a_checkpoint(process: subprocess.Popen[str], run: RunDir) -> None:
    """kill -9 of the run and of the command above it, in the middle of training."""
    deadline = time.monotonic() + 400
    while not (run.checkpoints.steps() and run.read_train()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    holder = run.holder()
    assert holder is not None
    os.kill(holder["pid"], signal.SIGKILL)
    process.kill()
    process.communicate(timeout=60)
    while run.status() == "running":
        assert time.monotonic() < deadline, "the killed run is said to be running"
        time.sleep(0.02)
    assert run.status() == "stopped"


def pace_is_known(straight: RunDir, killed: RunDir) -> None:
    """A finished run of its kind beside it: only the first start has to measure how fast such runs go here."""
    shutil.copytree(straight.path, killed.path.with_name("seed-1"))


def command(out: str, error: str, words: list[str]) -> None:
    """``pvdr-bench WORDS``, its streams into files; leaves with its exit code."""
    torch.set_num_threads(1)
    with Path(out).open("w") as sys.stdout, Path(error).open("w") as sys.stderr:
        try:
            main(words)
        except SystemExit as end:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(int(end.code or 0))


def evaluate(run: RunDir, data: Path, *more: str) -> tuple[int, str, str]:
    """Exit code and streams of ``pvdr-bench evaluate``, in a child of a server that has imported torch already."""
    out, error = data / "out", data / "error"
    words = ["evaluate", str(run.path), "--device", "cpu", "--json", *more]
    process = start_child(command, str(out), str(error), words, PVDR_BENCH_DATA=str(data))
    process.join(600)
    assert process.exitcode is not None, "the evaluation hangs"
    return process.exitcode, out.read_text(), error.read_text()


def returns(rows: list[dict[str, Any]]) -> list[float]:
    return [row["return"] for row in rows]


@pytest.mark.parametrize("method", ["pvdr", "apv"])
def test_a_killed_run_continues_to_the_same_bytes_and_is_evaluated_again(method: str, data: Path, tmp_path: Path
                                                                         ) -> None:
    finish(start(method, tmp_path / "straight", data))
    straight = run_dir(method, tmp_path / "straight")
    rows = straight.read_episodes()
    assert {row["point"] for row in rows} == {"grid", "final"}
    assert straight.done() is not None and json.loads((straight.path / "artefacts.json").read_text())
    killed = run_dir(method, tmp_path / "killed")
    pace_is_known(straight, killed)
    kill_after_a_checkpoint(start(method, tmp_path / "killed", data), killed)
    first = killed.checkpoints.path(killed.checkpoints.steps()[0]) / "state.safetensors"
    written = first.stat().st_mtime_ns
    finish(start(method, tmp_path / "killed", data))
    assert first.stat().st_mtime_ns == written, "it went on from its checkpoint and did not begin anew"
    assert bytes_of(killed) == bytes_of(straight)
    before = bytes_of(straight)
    code, out, _ = evaluate(straight, data)
    again = json.loads(out)
    assert code == 0 and not again["mean_policy"]
    assert returns(again["rows"]) == returns([r for r in rows if r["point"] == "final"])
    code, out, _ = evaluate(straight, data, "--mean-policy")
    played = json.loads(out)
    assert played["mean_policy"] and returns(played["rows"]) != returns(again["rows"])
    code, out, error = evaluate(straight, data, "--action-std", "0")
    if method == "pvdr":
        assert json.loads(out) == played
    else:
        assert code == 2 and "spread of apv's actions in evaluation cannot be set" in error and not out
    code, out, error = evaluate(straight, data, "--action-std", "0.1", "--mean-policy")
    assert code == 2 and "two ways to act" in error and not out
    assert bytes_of(straight) == before
