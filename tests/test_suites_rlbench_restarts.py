"""A simulator of RLBench that dies or hangs is started again a few times, at its first start as later."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pvdr_bench.errors import SimulatorError
from pvdr_bench.suites.rlbench.info import RLBENCH
from pvdr_bench.suites.vector import VectorEnv
from tests.rlbench_here import CONFIG, DOWN, envs


@pytest.mark.parametrize("how", ["exit", "raise"])
def test_a_dead_simulator_is_started_again_and_written_down(
        faked: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("FAKE_RLBENCH_DIES", f"step:3:{how}")
    with envs() as playing:
        pid, first = playing.worker_pids[0], playing.reset([0])
        seen = playing.step(DOWN[None])
        died = playing.step(DOWN[None])
        assert died.truncated[0] and not died.success[0] and died.env_steps[0] == 2 and died.dense_reward[0] == 0
        np.testing.assert_array_equal(died.final_image, seen.image, "what was seen last")
        np.testing.assert_array_equal(died.image, first)
        assert playing.worker_pids[0] != pid and not playing.step(DOWN[None]).truncated[0]
        assert [incident["worker"] for incident in playing.incidents] == [0]
        assert ("died with exit code 139" if how == "exit" else "V-REP side") in playing.incidents[0]["error"]


@pytest.mark.parametrize("how", ["exit", "raise"])
def test_one_that_dies_at_its_first_start_is_started_again(
        faked: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("FAKE_RLBENCH_DIES", f"launch:0:{how}")
    monkeypatch.setenv("FAKE_RLBENCH_DEATHS", "2")
    with VectorEnv(CONFIG, 2) as playing:
        assert playing.action_dim == 4 and playing.reset([0, 0]).std() > 5
        assert not playing.step(np.stack([DOWN, DOWN])).truncated.any()
        assert len(playing.incidents) == 2
        assert ("died with exit code 139" if how == "exit" else "cannot be started") in playing.incidents[0]["error"]
    monkeypatch.setenv("FAKE_RLBENCH_DEATHS", "100")
    with pytest.raises(SimulatorError, match="died with exit code 139" if how == "exit" else "cannot be started"):
        envs()
    assert len(list(faked.glob("deaths-*"))) == 2 + 1 + RLBENCH.restarts


def test_one_that_hangs_at_its_first_start_is_started_again(faked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvdr_bench.suites.vector.START_TIMEOUT", 10.0)
    monkeypatch.setenv("FAKE_RLBENCH_DIES", "launch:0:hang")
    with envs() as playing:
        assert playing.reset([0]).std() > 5
        assert "gave no answer in 10 s" in playing.incidents[0]["error"]


def test_one_that_dies_again_and_again_ends_the_run(faked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RLBENCH_DIES", "reset:0:exit")
    monkeypatch.setenv("FAKE_RLBENCH_DEATHS", "100")
    with envs() as playing, pytest.raises(SimulatorError, match="died with exit code 139"):
        playing.reset([0])
    assert len(playing.incidents) == RLBENCH.restarts == 5


def test_a_run_goes_on_and_has_it_in_its_folder(faked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pvdr_bench.cli.main import main

    monkeypatch.setenv("FAKE_RLBENCH_DIES", "step:5:exit")
    results = faked / "results"
    monkeypatch.setenv("FAKE_RLBENCH_DEATHS", "3")
    monkeypatch.setattr("pvdr_bench.bench.pace.measure", lambda *_: {})  # it would die there too
    with pytest.raises(SystemExit) as caught:
        main(["run", "--method", "random", "--task", "rlbench/lamp-on", "--seeds", "1", "--scale", "smoke",
              "--results", str(results), "-o", "protocol.goal_metric=pixel_l1", "--device", "cpu"])
    assert caught.value.code in (None, 0)
    (run,) = results.glob("random/rlbench-lamp-on/none/*/seed-0")
    rows = [json.loads(line) for line in (run / "incidents.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert all("died with exit code 139" in row["error"] for row in rows)
    assert rows[0]["phase"] == "grid"
    assert (run / "done.json").exists()
