"""``bench gpu-check``: a part's end, however it comes, takes no other with it; and the parts work, here on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from typer.testing import CliRunner

from pvdr_bench.bench import gpu_check, gpu_parts
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.cli.main import app
from pvdr_bench.errors import TrainingError, UsageError
from pvdr_bench.training.online import Pieces

ORDER = gpu_check.Order("plan", "cpu", "smoke", "smoke", "reach", (), 20.0, 0)
# A part's process that needs no torch. What it does is named by the part.
STAND_IN = """
import json, os, subprocess, sys, time
order = json.loads(sys.stdin.readline())
def say(**told): print(json.dumps(told), flush=True)
say(found={"first": order["part"]})
print("a broken kernel", file=sys.stderr, flush=True)
if order["part"] == "tokenizer": os.kill(os.getpid(), 11)
if order["part"] == "pretrain":
    say(found={"child": subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid})
    print('{"found": {"torn', end="", flush=True)
    time.sleep(60)
if order["part"] == "ppo": say(state="skipped", reason="no simulator")
elif order["part"] == "online": say(state="failed", error="out of memory")
else: say(found={"second": 2.5}); say(state="passed")
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "CHILD", (sys.executable, "-c", STAND_IN))


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def done(name: str, **changes: Any) -> list[dict[str, Any]]:
    """What a part finds, in this process."""
    return list(gpu_parts.PARTS[name](replace(ORDER, part=name, **changes)))


def test_every_end_of_a_part_is_written_down_and_the_rest_goes_on(stand_in: None, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    result = CliRunner().invoke(app, ["bench", "gpu-check", "--json", "-o", "device=cpu", "-o", f"out={path}", "-o",
                                      "parts=[ppo, plan, online, pretrain, tokenizer]", "-o", "minutes=0.4"])
    assert result.exit_code == 1
    found = json.loads(path.read_text())
    assert found == json.loads(result.stdout)
    parts = found["parts"]
    assert list(parts) == ["tokenizer", "pretrain", "online", "plan", "ppo"]  # in the order of their worth
    assert {name: part["state"] for name, part in parts.items()} == {
        "tokenizer": "failed", "pretrain": "out of time", "online": "failed", "plan": "passed", "ppo": "skipped"}
    assert found["failed"] == ["tokenizer", "pretrain", "online"] and found["skipped"] == ["ppo"]
    assert "by signal 11" in parts["tokenizer"]["error"] and "a broken kernel" in parts["tokenizer"]["output"]
    assert parts["online"]["error"] == "out of memory" and parts["ppo"]["reason"] == "no simulator"
    assert parts["plan"]["found"] == {"first": "plan", "second": 2.5} and "output" not in parts["plan"]
    assert parts["pretrain"]["found"]["first"] == "pretrain"  # what it had said by then
    assert not alive(parts["pretrain"]["found"]["child"])
    assert parts["pretrain"]["limit"] <= parts["pretrain"]["seconds"] < found["seconds"] < 30


def test_findings_are_on_the_disk_before_a_part_is_over(stand_in: None, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "found.json", []
    write = gpu_check.write_json

    def written(*args: Any) -> None:
        write(*args)
        seen.append(json.loads(path.read_text()))

    monkeypatch.setattr(gpu_check, "write_json", written)
    gpu_check.measure("cpu", parts=("pretrain", "plan"), minutes=0.05, out=str(path))
    early = [row["parts"]["pretrain"] for row in seen if row["parts"]["pretrain"]["state"] == "running"]
    assert early and early[-1]["found"]["first"] == "pretrain"


def test_nothing_is_begun_on_a_device_that_is_none(stand_in: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "CHILD", (sys.executable, "-c", STAND_IN.replace('"online"', '"machine"')))
    found = gpu_check.measure("cpu", parts=("machine", "plan"), out="")
    assert found["failed"] == ["machine", "plan"] and "not begun" in found["parts"]["plan"]["error"]


def test_the_whole_is_under_nine_minutes_and_time_that_is_left_goes_on(stand_in: None) -> None:
    assert sum(gpu_check.LIMITS.values()) <= 60 * 8.6 < 540
    found = gpu_check.measure("cpu", parts=("machine", "plan", "dreamerv2"), minutes=1.0, out="")
    limits = [found["parts"][name]["limit"] for name in ("machine", "plan", "dreamerv2")]
    assert limits[2] > 60 * gpu_check.LIMITS["dreamerv2"] / 140 and limits[2] == pytest.approx(60, abs=5)


def test_the_process_that_waits_holds_no_device() -> None:
    code = "import sys, pvdr_bench.bench.gpu_check; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_wrong_parts_are_refused() -> None:
    with pytest.raises(UsageError, match="no part everything"):
        gpu_check.measure(parts=("everything",))


def test_a_part_ends_when_nobody_waits() -> None:
    process = subprocess.Popen(gpu_check.CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(replace(ORDER, part="online", scale="paper"))).encode() + b"\n")
    process.stdin.close()
    assert process.wait(60) == 75


def test_a_run_is_left_out_where_nothing_can_draw_and_the_rest_is_done(tmp_path: Path) -> None:
    (tmp_path / "mujoco.py").write_text("raise ModuleNotFoundError(\"No module named 'mujoco'\", name='mujoco')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    path = tmp_path / "found.json"
    answer = subprocess.run(
        [sys.executable, "-m", "pvdr_bench", "bench", "gpu-check", "-o", "device=cpu", "-o", "scale=smoke", "-o",
         "run_scale=smoke", "-o", f"out={path}", "-o", "parts=[plan, ppo]"],
        capture_output=True, text=True, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(path.read_text())
    assert found["failed"] == [] and found["skipped"] == ["ppo"] and "mujoco" in found["parts"]["ppo"]["reason"]
    assert found["parts"]["plan"]["found"]["equal"] and found["parts"]["plan"]["found"]["candidates"] == 16


def test_what_the_device_is() -> None:
    found = {name: value for row in done("machine") for name, value in row.items()}
    assert found["torch"] == torch.__version__ and found["matmul_peak"]["float32"] > 1e8
    assert 0 < found["launch_seconds"] < 1e-2


@pytest.mark.parametrize("stage", ["tokenizer", "pretrain", "online"])
def test_steps_have_operations_and_their_share_of_the_peak(stage: str) -> None:
    (found,) = done(stage)
    steps = [found[stage][name] for name in ("decision", "finetune", "policy")] if stage == "online" else [found[stage]]
    peak = max(found["matmul_peak"].values())
    for step in steps:
        assert step["flops"] > 1e6 and step["flops_per_second"] == pytest.approx(step["flops"] / step["seconds"])
        assert step["share_of_peak"] == pytest.approx(step["flops_per_second"] / peak)


def test_updates_eager_and_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler that changes nothing: real ones take longer than this test may."""
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    monkeypatch.setattr(gpu_parts, "UPDATE_SECONDS", 0.05)
    eager, again = done("apv", compiled=("step",))
    assert eager["update"]["seconds"] > 0 and eager["scan_seconds"] > 0
    assert again["compiled"]["scan"]["step"]["equal"] and again["compiled"]["compiled_update"]["seconds"] > 0
    assert {function.__name__ for function in compiled[1:]} == {"observe", "imagine"}
    assert len(done("dreamerv2")) == 1


@pytest.mark.parametrize("method", ["contextwm", "prelar", "dreamerv3"])
def test_updates_of_the_other_world_models_are_eager(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_parts, "UPDATE_SECONDS", 0.01)
    (found,) = done(method, compiled=("step",))
    assert found["update"]["seconds"] > 0 and found["update"]["parameters"]["world_model"] > 1000


@pytest.mark.parametrize("method", ["ficc", "stg", "efficientzero"])
def test_steps_of_pre_training_and_updates_with_searches(method: str) -> None:
    last = done(method)[-1]
    assert last["seconds"] > 0 and last["first_seconds"] > 0 and last["peak_device_bytes"] is None
    assert last["metrics"] and all(np.isfinite(value) for value in last["metrics"].values())


@pytest.mark.parametrize("method", ["ppo", "pvdr"])
def test_the_beginning_of_a_run_projects_the_whole(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvdr_bench.training.stages.Stages.missing", lambda self: ["tokenize"])
    found = {name: value for row in done(method, seconds=1.0) for name, value in row.items()}
    assert found["variant"] == {"ppo": "ppo", "pvdr": "pvdr-scratch"}[method] and "untrained" in found["weights"]
    train, evaluate = (found["budget_env_steps"] / found["train_env_steps_per_second"],
                       found["evaluation_env_steps"] / found["evaluate_env_steps_per_second"])
    assert 3600 * found["whole_run_hours"] == pytest.approx(found["start_seconds"] + train + evaluate)
    assert found["evaluation_share"] == pytest.approx(evaluate / 3600 / found["whole_run_hours"])


def test_a_run_that_cannot_be_measured_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def untrained(spec: RunSpec, device: torch.device, frames: torch.Tensor) -> Pieces:
        raise ZeroDivisionError("of no use")

    monkeypatch.setattr("pvdr_bench.training.stages.Stages.missing", lambda self: ["tokenize"])
    monkeypatch.setattr(gpu_parts, "_untrained", untrained)
    with pytest.raises(TrainingError, match="how fast ppo is was not measured: ZeroDivisionError: of no use"):
        done("ppo", seconds=1.0)


def test_outcomes_of_tests_are_kept() -> None:
    class Item:
        def __init__(self, device: str | None) -> None:
            if device is not None:
                self.callspec = type("Call", (), {"params": {"device": device}})

    class Report:
        def __init__(self, test: str, when: str, outcome: str) -> None:
            self.nodeid, self.when, self.outcome = f"tests/test_device.py::{test}", when, outcome
            self.duration, self.longrepr = 0.5, "why"

    outcomes = gpu_parts.Outcomes("cuda:0")
    items = [Item("cpu"), Item("cuda"), Item(None), Item("pretended")]
    chosen = items.copy()
    outcomes.pytest_collection_modifyitems(chosen)
    assert chosen == items[1:3]
    for report in (Report("a", "setup", "passed"), Report("a", "call", "passed"), Report("b", "setup", "skipped"),
                   Report("c", "call", "failed")):
        outcomes.pytest_runtest_logreport(report)
    assert {name: row["outcome"] for name, row in outcomes.rows.items()} == {
        "a": "passed", "b": "skipped", "c": "failed"}


@pytest.mark.long
def test_all_of_it_by_the_command(tmp_path: Path) -> None:
    path, began = tmp_path / "found.json", time.monotonic()
    result = CliRunner().invoke(app, ["bench", "gpu-check", "--json", "-o", "device=cpu", "-o", "scale=smoke", "-o",
                                      "run_scale=smoke", "-o", f"out={path}"])
    assert result.exit_code == 0, result.output
    found = json.loads(path.read_text())
    assert list(found["parts"]) == list(gpu_check.PARTS) and not found["failed"] and not found["skipped"]
    assert found["parts"]["tests"]["found"]["counts"]["skipped"] == 0 and time.monotonic() - began < 540
