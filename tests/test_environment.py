"""What a shell or a notebook left in the environment never decides between working and a traceback."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pvdr_bench.cli.lazy import load_command
from pvdr_bench.errors import SetupError
from pvdr_bench.needed import need
from pvdr_bench.suites.gl import choose_backend
from tests.results_runs import make_run

LIBRARY_VARIABLES = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID", "DISPLAY", "WAYLAND_DISPLAY",
                     "MPLBACKEND")


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in LIBRARY_VARIABLES}
    return subprocess.run([sys.executable, "-c", code], env={**clean, **variables}, capture_output=True, text=True,
                          timeout=300, check=False)


linux = pytest.mark.skipif(platform.system() != "Linux", reason="names of Linux' backends")


@linux
@pytest.mark.parametrize(("given", "words"), [
    ("nonsense", "MUJOCO_GL='nonsense' is no backend that can draw here; allowed: egl, osmesa, glfw"),
    ("cgl", "MUJOCO_GL='cgl' is no backend"), ("off", "MUJOCO_GL='off'"), ("glfw", "DISPLAY is not set"),
])
def test_a_value_that_cannot_work_is_named(monkeypatch: pytest.MonkeyPatch, given: str, words: str) -> None:
    for name in LIBRARY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MUJOCO_GL", given)
    with pytest.raises(SetupError, match="unset MUJOCO_GL") as caught:
        choose_backend()
    assert words in str(caught.value)


@linux
def test_pyopengl_is_told_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYOPENGL_PLATFORM", "nonsense")
    for name in ("osmesa", "egl", " OSMesa "):
        monkeypatch.setenv("MUJOCO_GL", name)
        assert os.environ["PYOPENGL_PLATFORM"] != choose_backend() or name == " OSMesa "
        assert os.environ["PYOPENGL_PLATFORM"] == name.strip().lower()
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setenv("DISPLAY", ":0")
    assert choose_backend() == "glfw" and "PYOPENGL_PLATFORM" not in os.environ


@linux
def test_mujoco_is_imported_whatever_pyopengl_was_told() -> None:
    answer = python("from pvdr_bench.suites.gl import import_mujoco; print(import_mujoco().__name__)",
                    PYOPENGL_PLATFORM="nonsense")
    assert answer.stdout == "mujoco\n", answer.stderr


@linux
@pytest.mark.long
@pytest.mark.parametrize(("variables", "words"), [
    ({"PYOPENGL_PLATFORM": "egl"}, None), ({"PYOPENGL_PLATFORM": "glx", "MUJOCO_GL": "osmesa"}, None),
    ({"DISPLAY": ":77", "QT_QPA_PLATFORM": "nonsense"}, None),
    ({"MUJOCO_GL": "glfw", "DISPLAY": ":77"}, "MUJOCO_GL=glfw, DISPLAY=:77"),
    ({"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "99"}, "MUJOCO_EGL_DEVICE_ID=99"),
])
def test_a_frame_is_drawn_or_the_cause_is_named(variables: dict[str, str], words: str | None) -> None:
    answer = python("from pvdr_bench.cli.doctor import render_probe; render_probe()", **variables)
    told = json.loads(answer.stdout.splitlines()[-1])
    assert "Traceback" not in answer.stderr
    assert (told.get("error") is None) if words is None else (words in told["error"])


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_figures_do_not_ask_which_window_a_notebook_has(tmp_path: Path, backend: str) -> None:
    make_run(tmp_path, [0.1, 0.5])
    code = f"from pvdr_bench.cli.main import main; main(['plot', '--results', {str(tmp_path)!r}])"
    answer = python(code, MPLBACKEND=backend)
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "figures/success.png").stat().st_size > 1000


# Packages -------------------------------------------------------------------------------------------------------------

MODULES = {
    "wants_other": "import not_installed_anywhere\n", "wants_newer": "from json import not_there\n",
    "wants_library": "import ctypes\nctypes.CDLL('libnowhere.so.9')\n", "is_wrong": "raise ValueError('a bug')\n",
}


@pytest.mark.parametrize(("module", "words"), [
    ("not_there_at_all", ["it needs the package not_there_at_all, which is not installed", "pip install not_there"]),
    ("not_there_at_all.part", ["the package not_there_at_all, which is not installed"]),
    ("wants_other", ["needs wants_other, which needs the module not_installed_anywhere"]),
    ("wants_newer", ["wants_newer, which is installed and cannot be loaded: cannot import name 'not_there'"]),
    ("wants_library", ["wants_library, which is installed and cannot be loaded: libnowhere.so.9"]),
])
def test_only_what_is_not_there_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str,
                                           words: list[str]) -> None:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SetupError) as caught:
        need(module, "it")
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(SetupError, match="the command 'x' needs"):
        load_command("x", f"{module}:main")
    with pytest.raises(ValueError, match="a bug"):  # an error of the program stays one
        need("is_wrong", "it")
