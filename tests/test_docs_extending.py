"""The examples of docs/extending.md, as a user would try them: files in a folder, commands in a shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
FILE = re.compile(r"^\*\*([\w./-]+)\*\*\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def sh(line: str, folder: Path, env: dict[str, str], code: int = 0) -> str:
    """Run a command of the page; what it prints."""
    command = re.sub(r"^pvdr-bench", "python -m pvdr_bench", line)
    answer = subprocess.run(re.sub(r"^python", sys.executable, command), shell=True, cwd=folder, env=env, text=True,
                            capture_output=True, check=False)
    assert answer.returncode == code, f"{line}\n{answer.stdout}\n{answer.stderr}"
    return answer.stdout + answer.stderr


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with the page's files in ``mine/``, and the environment that names it."""
    files = dict(FILE.findall(PAGE))
    assert len(files) == 6
    for name, text in files.items():
        path = tmp_path / ("mine" if "/" in name else "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    env = {**os.environ, "PVDR_BENCH_PATH": str(tmp_path / "mine"), "PVDR_BENCH_DATA": str(tmp_path / "data"),
           "OMP_NUM_THREADS": "1"}
    return tmp_path, env


def test_the_page_does_what_it_says(place: tuple[Path, dict[str, str]]) -> None:
    folder, env = place
    lines = [line for block in COMMANDS.findall(PAGE) for line in block.splitlines()]
    said = {line.split()[1]: sh(line, folder, env) for line in lines}
    assert "REINFORCE" in said["table"] and "Scripted" in said["table"]
    runs = {path.parent.parent.parent.parent.parent.name: json.loads(path.read_text())
            for path in (folder / "results").glob("*/to-the-right/*/*/seed-0/done.json")}
    assert runs["scripted"]["success_any"] == 1.0 and runs["reinforce"]["env_steps"] == 320
    assert list((folder / "data" / "artefacts" / "pretrain").glob("dreamer-sweeps-smoke-*"))
    assert "log_std_init = 0.0" in sh("pvdr-bench describe ppo-bold", folder, env)


def test_what_is_wrong_in_a_file_of_the_users_own_is_said_and_stops_nothing_else(
        place: tuple[Path, dict[str, str]]) -> None:
    folder, env = place
    (folder / "mine" / "algorithms" / "torn.py").write_text("1 / 0\n")
    (folder / "mine" / "algorithms" / "empty.py").write_text("INFO = None\n")
    for name, words in (("torn", ["ZeroDivisionError", "algorithms/torn.py"]),
                        ("empty", ["no AlgorithmInfo called 'empty'", "docs/extending.md"])):
        (folder / "mine" / "methods" / f"{name}.yaml").write_text(f"algorithm: {name}\n")
        said = sh(f"pvdr-bench describe {name}", folder, env, code=4)
        assert all(word in said for word in words) and "Traceback" not in said
    assert "lr = 0.01" in sh("pvdr-bench describe reinforce", folder, env)
