"""What keeps RLBench from working here, each with the one command that mends it. Nothing of it is imported here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pvdr_bench.errors import SetupError
from pvdr_bench.suites.rlbench.names import INSTALL, ROOT

PYREP = "pip install --force-reinstall --no-deps 'pyrep @ git+https://github.com/stepjam/PyRep.git'"
BINDING = "pyrep.backend._sim_cffi"  # PyRep's compiled module
SECONDS = 60.0
_LIBRARY, _PLUGIN = "libcoppeliaSim.so", "platforms/libqxcb.so"
_DOWNLOAD = "https://downloads.coppeliarobotics.com/V4_1_0/CoppeliaSim_Edu_V4_1_0_Ubuntu20_04.tar.xz"


def problems(variables: Mapping[str, str]) -> list[SetupError]:
    """All of them, in the order in which they are mended. PyRep is tried in a process of its own.

    Args:
        variables: what worker processes are started with.
    """
    if found := missing():
        return found
    error = _load(os.environ[ROOT], tuple(variables.items()))
    return [binding_problem(error)] if error else []


def missing() -> list[SetupError]:
    """What is not there, in the order in which it is mended; nothing is loaded for it."""
    return [*_simulator(), *_packages(), *_display()]


def _simulator() -> list[SetupError]:
    root = os.environ.get(ROOT)
    if not root:
        return [SetupError(f"{ROOT} is not set: CoppeliaSim 4.1.0 is not installed, or nobody says where",
                           hint=f"unpack {_DOWNLOAD} and export {ROOT}=FOLDER")]
    folder = Path(root)
    if not folder.is_dir():
        return [SetupError(f"{ROOT}={root} is no folder", hint=f"export {ROOT}=FOLDER of CoppeliaSim 4.1.0")]
    found = []
    if not (folder / _LIBRARY).exists():
        found.append(SetupError(f"library path: {ROOT}={root} holds no {_LIBRARY}",
                                hint=f"unpack {_DOWNLOAD} and export {ROOT}=FOLDER"))
    if not (folder / _PLUGIN).exists():
        found.append(SetupError(f"Qt plugin path: {ROOT}={root} holds no {_PLUGIN}, without which no display is opened",
                                hint=f"unpack {_DOWNLOAD} again, whole, and export {ROOT}=FOLDER"))
    return found


def _packages() -> list[SetupError]:
    found = []
    if _installed("rlbench") is None:
        found.append(SetupError("rlbench is not installed; its licence (non-commercial) has to be accepted by its user",
                                hint=INSTALL))
    places = _places("pyrep")
    if not places:
        found.append(SetupError("PyRep is not installed", hint=PYREP))
    elif not any((place / "backend").is_dir() for place in places):
        found.append(SetupError(f"the package pyrep {_installed('pyrep') or ''} here is another project of that name, "
                                "PyPI's, and not RLBench's PyRep", hint=f"pip uninstall -y pyrep && {PYREP}"))
    return found


def _display() -> list[SetupError]:
    if os.environ.get("DISPLAY"):
        return []
    return [SetupError("no display: DISPLAY is not set, and CoppeliaSim opens one also where it shows no window",
                       hint="xvfb-run -a pvdr-bench ... (in a cluster's profile: wrapper: [xvfb-run, -a])")]


def binding_problem(error: str) -> SetupError:
    """What the error means that importing PyRep's compiled module ends with."""
    if "undefined symbol" in error:
        return SetupError("PyRep was built against another version of CoppeliaSim than that in "
                          f"{os.environ.get(ROOT)}: {error}", hint=f"{PYREP} (builds it anew, with {ROOT} set)")
    if "cannot open shared object" in error:
        return SetupError(f"library path: PyRep does not find CoppeliaSim's library: {error}",
                          hint=f"{PYREP} (builds it anew and links the library in {ROOT})")
    return SetupError(f"PyRep's compiled module cannot be loaded: {error}", hint=f"{PYREP} (builds it anew)")


@cache
def _load(root: str, variables: tuple[tuple[str, str], ...]) -> str:
    """The last line of what went wrong; empty: nothing. Where libraries lie is read when a process begins."""
    try:
        answer = subprocess.run([sys.executable, "-c", f"import {BINDING}"], capture_output=True,
                                text=True, timeout=SECONDS, check=False, env={**os.environ, **dict(variables)})
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS:.0f} s"
    return "" if answer.returncode == 0 else (answer.stderr.strip().splitlines() or [f"code {answer.returncode}"])[-1]


def _places(module: str) -> list[Path]:
    """Folders of a package that is not imported for it."""
    spec = importlib.util.find_spec(module)
    return [Path(place) for place in spec.submodule_search_locations or ()] if spec is not None else []


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
