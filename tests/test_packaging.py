"""The wheel carries all that a user edits, and runs away from the source folder."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_scripts_can_be_called() -> None:
    for name in (".ci/run", "scripts/gl.sh"):
        assert (ROOT / name).stat().st_mode & 0o111, name
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_gl_script_accepts_this_machine() -> None:
    answer = subprocess.run([ROOT / "scripts/gl.sh", sys.executable], capture_output=True, text=True, check=False,
                            timeout=60, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MUJOCO_GL": "glfw"})
    assert answer.returncode == 0, answer.stderr


@pytest.mark.long
def test_a_wheel_holds_the_yaml_and_finds_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    for folder in ("methods", "tasks"):
        for path in (ROOT / folder).rglob("*.yaml"):
            assert f"pvdr_bench/_data/{path.relative_to(ROOT)}" in inside
    from pvdr_bench.cli.demo import POLICY, REPORT

    for name in (POLICY / "run.yaml", REPORT):
        assert f"pvdr_bench/_data/{name}" in inside
    code = ("from pvdr_bench.catalog import load_catalog as load; catalog = load(); "
            "print(catalog.roots[-1], catalog.resolve('pvdr', 'reach', 0).path('R'))")
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path,
                            timeout=120, env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"})
    assert str(tmp_path / "site/pvdr_bench/_data") in answer.stdout
    assert "R/pvdr/reach/metaworld/cpu/seed-0" in answer.stdout
