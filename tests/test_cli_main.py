"""The command line: fast help, one message per error, JSON that parses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pvdr_bench.cli.lazy import load_command
from pvdr_bench.cli.main import MainGroup, main
from pvdr_bench.errors import EXIT_CODES, SetupError
from tests.results_runs import finish

HEAVY = ("torch", "pandas", "numpy", "pydantic", "metaworld", "mujoco", "matplotlib", "rich", "yaml")


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    out = capsys.readouterr()
    code = caught.value.code
    return code if isinstance(code, int) else 0, out.out, out.err


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    code = ("import sys, time; begin = time.process_time()\nfrom pvdr_bench.cli.main import main\n"
            "try: main(['--help'])\nexcept SystemExit: pass\n"
            f"print([m for m in {HEAVY} if m in sys.modules]); print(time.process_time() - begin)")
    best = 9.0
    for _ in range(3):
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        *help_lines, modules, seconds = answer.stdout.strip().splitlines()
        assert modules == "[]"
        best = min(best, float(seconds))
    assert best < 0.3, "seconds of processor time"
    text = "\n".join(help_lines)
    for name in MainGroup.table:
        assert f"  {name} " in text


def test_the_main_help_has_whole_lines_in_the_parts_of_the_readme(capsys: pytest.CaptureFixture[str],
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    told: dict[str, set[str]] = {}
    for row in re.findall(r"^\| (.*?) \| ", readme, re.MULTILINE):
        if row.startswith("**"):
            told[row.strip("*").capitalize()] = set()
        elif told and row.startswith("`"):
            told[list(told)[-1]] |= {words.split()[0] for words in re.findall(r"`([^`]+)`", row)}
    assert {part: set(commands) for part, commands in MainGroup.parts.items()} == told
    for columns in ("40", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        out = call(capsys, "--help")[1]
        assert [line[:-1] for line in out.splitlines() if line[:-1] in MainGroup.parts] == list(MainGroup.parts)
        assert "..." not in out.partition("Look:")[2]
        for lazy in MainGroup.table.values():
            assert lazy.help in re.sub(r"-\n +", "-", out) or lazy.help in re.sub(r"\n +", " ", out)


def test_every_command_of_the_table_loads() -> None:
    for name, lazy in MainGroup.table.items():
        command = load_command(name, lazy.target)
        assert command.name == name
        assert command.help


def test_help_of_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    for name in MainGroup.table:
        code, out, _ = call(capsys, name, "--help")
        assert code == 0
        assert f"pvdr-bench {name}" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--version")
    assert code == 0 and out.startswith("pvdr-bench ")


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["rnu"], 2, "did you mean 'run'"),
    (["describe", "pdvr"], 3, "did you mean 'pvdr'"),
    (["describe", "pvdr", "-o", "lamda1=1"], 3, "did you mean 'pretrain.lambda1'"),
    (["describe", "pvdr", "--scale", "huge"], 3, "paper, gpu, cpu, quick, smoke"),
    (["describe", "task:pvdr"], 3, "unknown name"),
    (["bench", "plan", "-o", "repeat=3"], 3, "did you mean 'repeats'"),
    (["bench", "plan", "-o", "repeats=x"], 2, "kind of its default"),
    (["bench", "plan", "-o", "repeats=true"], 2, "kind of its default"),
    (["bench", "plan", "-o", "repeats=1.5"], 2, "kind of its default"),
    (["list", "methodz"], 2, "kind: 'methodz' is not one of the choices\n  -> did you mean 'methods'? allowed: meth"),
    (["list", "foo"], 2, "-> allowed: methods, tasks, "),
    (["bench", "rendr"], 2, "did you mean 'render'?"),
    (["plot", "--kind", "curve"], 2, "did you mean 'curves'?"),
    (["plot", "--axis", "env_step"], 2, "--axis: 'env_step' is not one of"),
    (["run", "--jobs", "x"], 2, "--jobs"),
    (["list", "--jsn"], 2, "--json"),
])
def test_errors_are_one_message_and_a_code(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int,
                                           words: str) -> None:
    found, out, err = call(capsys, *arguments)
    assert found == code
    assert words in err
    assert "Traceback" not in err


def test_a_missing_package_is_named() -> None:
    with pytest.raises(SetupError, match="package no_such_module"):
        load_command("x", "no_such_module:x")


def test_exit_codes_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "--help")
    words = set(out.replace(",", " ").replace(".", " ").split())
    assert {*map(str, EXIT_CODES), "130"} <= words


def test_list(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    code, out, _ = call(capsys, "list", "--json")
    found = json.loads(out)
    assert code == 0 and set(found) == {"methods", "tasks", "suites", "protocols", "corpora", "scales", "profiles",
                                       "experiments"}
    _, out, _ = call(capsys, "list", "tasks", "--json")
    rows = json.loads(out)
    assert len(rows) >= 50
    assert {row["set"] for row in rows} == {"set1", "set2", "set3", "rlbench", None}
    _, out, _ = call(capsys, "list", "tasks")
    lines = out.splitlines()
    assert len(lines) == len(rows) and all(row["name"] in line for row, line in zip(rows, lines, strict=True))
    assert call(capsys, "list", "runs", "--results", str(tmp_path))[1] == "no runs here\n"
    _, out, _ = call(capsys, "list")
    assert "\ntasks: name, suite, env id, set, title\n" in out


def test_list_runs(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    from pvdr_bench.catalog import load_catalog
    from pvdr_bench.runs.directory import RunDir

    spec = load_catalog().resolve("random", "reach", 2, "smoke")
    run = RunDir(spec.path(tmp_path))
    with run.lock():
        run.open(spec)
        run.heartbeat(env_steps=160)
        _, out, _ = call(capsys, "list", "runs", "--results", str(tmp_path), "--json")
        assert json.loads(out) == [{"run": "random/reach/none/smoke/seed-2", "status": "running", "env_steps": 160}]
        finish(run, 320)
    _, out, _ = call(capsys, "list", "runs", "--results", str(tmp_path), "--json")
    assert json.loads(out)[0] == {"run": "random/reach/none/smoke/seed-2", "status": "done", "env_steps": 320}


def test_describe_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "describe", "ppo", "--scale", "paper", "--task", "reach", "-o", "gamma=0.5", "--json")
    found = json.loads(out)
    assert found["name"] == "ppo@gamma=0.5"
    keys = {row["key"]: row for row in found["keys"]}
    assert all(row["meaning"] and row["source"] for row in keys.values())
    assert (keys["gamma"]["value"], keys["gamma"]["set_in"]) == (0.5, "-o gamma")
    assert keys["clip"]["value"] == 0.6
    assert "methods/ppo.yaml:" in keys["clip"]["set_in"]
    assert keys["minibatch"]["set_in"] is None
    _, text, _ = call(capsys, "describe", "ppo", "--scale", "paper")
    for row in found["keys"]:
        assert f"  {row['key']} = " in text and row["meaning"] in text


def test_describe_a_name_that_is_two_things(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "describe", "pvdr", "--json")
    assert [entry["kind"] for entry in json.loads(out)] == ["method", "protocol"]
    _, out, _ = call(capsys, "describe", "protocol:pvdr", "--json")
    found = json.loads(out)
    assert {row["kind"] for row in found["keys"]} == {"meaning", "means"}
    for name, kind in (("reach-v3", "task"), ("fetch-push", "corpus"), ("smoke", "scale")):
        _, out, _ = call(capsys, "describe", name, "--json")
        assert json.loads(out)["kind"] == kind


def test_bench_passes_typed_arguments(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import pvdr_bench.bench.plan as plan

    def measure(repeats: int = 3, seconds: float = 1.0, sizes: tuple[int, ...] = (1,),
                device: str = "cpu") -> dict[str, object]:
        return {"repeats": repeats, "seconds": seconds, "nested": {"sizes": sizes}, "device": device}

    monkeypatch.setattr(plan, "measure", measure)
    _, out, _ = call(capsys, "bench", "plan", "-o", "repeats=7", "-o", "seconds=2", "-o", "sizes=[1,2]", "--json")
    assert json.loads(out) == {"repeats": 7, "seconds": 2.0, "nested": {"sizes": [1, 2]}, "device": "cpu"}
    _, out, _ = call(capsys, "bench", "plan")
    assert "  repeats: 3" in out


@pytest.mark.parametrize(("words", "code", "message"), [
    ("plan -o device=cuda", 4, "-o device: torch can use 0 CUDA devices, so not cuda"),
    ("landscape -o device=tpu", 2, "-o device: unknown device 'tpu'"),
    ("plan -o grid_n=[0]", 2, "-o grid_n: refused by PlannerConfig: candidates = 0: Input should be greater than"),
    ("render -o size=-1", 2, "-o size, -o frames: size = -1, frames = 8: at least 7 pixels and one frame"),
    ("aggregate -o tasks=0", 2, "-o tasks: tasks = 0: at least 1 is needed"),
])
def test_impossible_arguments_of_measurements_are_one_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, code: int, message: str,
) -> None:
    monkeypatch.setattr("pvdr_bench.cli.options._cuda_devices", lambda: 0)
    found, out, err = call(capsys, "bench", *words.split())
    assert (found, out) == (code, "") and f"error: {message}" in err


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m pvdr_bench list tasks | head -1"]
    begin = time.monotonic()
    answer = subprocess.run(code, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in answer.stderr and "BrokenPipe" not in answer.stderr
    assert time.monotonic() - begin < 120


def test_a_wrong_file_of_the_users_own_is_told_and_the_others_are_listed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("methods", "tasks"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "torn.yaml").write_text("extends: [ppo\n")
    monkeypatch.setenv("PVDR_BENCH_PATH", str(tmp_path))
    for kind, other in (("methods", "ppo"), ("tasks", "reach")):
        code, out, _ = call(capsys, "list", kind)
        told = next(line for line in out.splitlines() if line.startswith("torn"))
        assert code == 0 and "cannot be used" in told and f"{kind}/torn.yaml:2" in told
        assert any(line.split()[0] == other for line in out.splitlines())
        _, out, _ = call(capsys, "list", kind, "--json")
        assert {"name", "problem"} in [set(row) for row in json.loads(out)]
