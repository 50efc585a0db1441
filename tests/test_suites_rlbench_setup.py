"""What RLBench needs on a machine: what is missing is told with what mends it, and what works is not refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pvdr_bench.errors import SetupError
from pvdr_bench.suites import make_env
from pvdr_bench.suites.info import _version_here
from pvdr_bench.suites.rlbench import health
from pvdr_bench.suites.rlbench.info import RLBENCH
from tests.rlbench_here import CONFIG


def test_workers_are_told_where_the_libraries_lie(faked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/mine")
    told = RLBENCH.worker_environment()
    root = str(faked / "coppelia")
    assert told == {"LD_LIBRARY_PATH": f"{root}:{root}/platforms:/opt/mine", "QT_QPA_PLATFORM_PLUGIN_PATH": root}
    monkeypatch.delenv("COPPELIASIM_ROOT")
    assert RLBENCH.worker_environment() == {}


def test_nothing_is_missing_where_the_fake_is(faked: Path) -> None:
    assert RLBENCH.problems() == []


def _no_root(faked: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("COPPELIASIM_ROOT")


def _no_plugin(faked: Path, patch: pytest.MonkeyPatch) -> None:
    (faked / "coppelia" / "platforms" / "libqxcb.so").unlink()


def _no_display(faked: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("DISPLAY")


def _no_rlbench(faked: Path, patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(faked / "site" / "rlbench")
    shutil.rmtree(faked / "site" / "rlbench-1.2.0.dist-info")


def _pypis_pyrep(faked: Path, patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(faked / "site" / "pyrep" / "backend")
    (faked / "site" / "pyrep" / "__init__.py").write_text("def replace(): ...\n")


def _binding(text: str, library: bool = True) -> object:
    def change(faked: Path, patch: pytest.MonkeyPatch) -> None:
        if not library:
            (faked / "coppelia" / "libcoppeliaSim.so").unlink()
        (faked / "site" / "pyrep" / "backend" / "_sim_cffi.py").write_text(f"raise ImportError({text!r})\n")

    return change


def second_process(root: str, variables: tuple[tuple[str, str], ...], path: tuple[str, ...]) -> str:
    """In place of one that loads PyRep."""
    raise AssertionError("a second process is started")


@pytest.mark.parametrize(("change", "words", "mends"), [
    (_no_root, "COPPELIASIM_ROOT is not set", "export COPPELIASIM_ROOT="),
    (_no_plugin, "Qt plugin path", "unpack"),
    (_no_display, "no display", "xvfb-run -a"),
    (_no_rlbench, "licence (.*) has to be accepted", "pip install 'rlbench @ git+https"),
    (_pypis_pyrep, "another project of that name, PyPI's", "pip uninstall -y pyrep && pip install"),
    (_binding("/x/_sim_cffi.so: undefined symbol: simGetJointMode"), "built against another version", "builds it anew"),
    (_binding("libcoppeliaSim.so.1: cannot open shared object file"), "library path: PyRep", "LD_LIBRARY_PATH=$COPP"),
    (_binding("libcoppeliaSim.so.1: cannot open shared object file", library=False), "holds no libcoppeliaSim.so",
     "export COPPELIASIM_ROOT="),
    (_binding("anything else"), "PyRep cannot be loaded: ImportError: anything else", "builds it anew"),
])
def test_each_thing_that_is_missing_is_told_with_the_command_that_mends_it(
        faked: Path, monkeypatch: pytest.MonkeyPatch, change: object, words: str, mends: str) -> None:
    import re

    change(faked, monkeypatch)  # type: ignore[operator]
    found = RLBENCH.problems()
    assert len(found) == 1, found
    assert re.search(words, found[0].message) and mends in (found[0].hint or "")
    monkeypatch.setattr(health, "_load_apart", second_process)  # where a simulator is started there is none
    with pytest.raises(SetupError, match=words) as caught:
        make_env(CONFIG)
    assert caught.value.hint == found[0].hint


def test_checkouts_on_the_path_will_do(faked: Path) -> None:
    installed = RLBENCH.version()
    for info in (faked / "site").glob("*.dist-info"):
        shutil.rmtree(info)
    _version_here.cache_clear()
    assert RLBENCH.problems() == []
    assert RLBENCH.version() == installed == "rlbench 1.2.0", "part of the protocol's hash"
    assert make_env(CONFIG).reset(0).std() > 5


def test_packages_that_are_no_files_will_do(faked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that a process made itself has no place that could be looked up."""
    import pyrep

    monkeypatch.delattr(pyrep, "__spec__")
    assert health.problems_here() == [] == RLBENCH.problems()


def test_a_library_that_lies_elsewhere_needs_neither_files_nor_a_display(
        faked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyRep loads: what it is linked with is its own business."""
    shutil.rmtree(faked / "coppelia" / "platforms")
    (faked / "coppelia" / "libcoppeliaSim.so").unlink()
    monkeypatch.delenv("DISPLAY")
    assert RLBENCH.problems() == []
    assert make_env(CONFIG).reset(0).std() > 5


def test_who_tells_qt_where_to_draw_needs_no_display(faked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY")
    assert [problem.message[:10] for problem in RLBENCH.problems()] == ["no display"]
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    assert RLBENCH.problems() == []


def test_a_run_whose_simulator_is_not_here_is_refused_before_anything_is_made(
        faked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from pvdr_bench.cli.main import main

    monkeypatch.delenv("COPPELIASIM_ROOT")
    with pytest.raises(SystemExit) as caught:
        main(["run", "--method", "random", "--task", "rlbench/lamp-on", "--seeds", "1", "--scale", "smoke",
              "--results", str(faked / "results"), "--device", "cpu"])
    assert caught.value.code == SetupError.exit_code
    assert "the suite rlbench is not ready: COPPELIASIM_ROOT is not set" in capsys.readouterr().err
    assert not (faked / "results").exists() and not (faked / "data").exists()
