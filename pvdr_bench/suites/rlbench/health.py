"""What keeps RLBench from working here, each with the one command that mends it.

PyRep is tried, and only where it does not load is the reason looked for: libraries may lie where the linker finds them
and this does not, and packages may be checkouts on ``PYTHONPATH``. What loading cannot tell, the display and Qt's
plugin for it, is asked for where the folder holds CoppeliaSim's library.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from pvdr_bench.errors import SetupError
from pvdr_bench.suites.rlbench.names import INSTALL, ROOT

PYREP = "pip install --force-reinstall --no-deps 'pyrep @ git+https://github.com/stepjam/PyRep.git'"
SECONDS = 60.0
QT_PLATFORM = "QT_QPA_PLATFORM"  # Qt's own: where it draws, if not on an X display
_LIBRARY, _PLUGIN = "libcoppeliaSim.so", "platforms/libqxcb.so"
_DOWNLOAD = "https://downloads.coppeliarobotics.com/V4_1_0/CoppeliaSim_Edu_V4_1_0_Ubuntu20_04.tar.xz"


def problems(variables: Mapping[str, str]) -> list[SetupError]:
    """All of them, in the order in which they are mended. PyRep is tried in a process of its own.

    Args:
        variables: what worker processes are started with.
    """
    return _problems(lambda: _load_apart(os.environ[ROOT], tuple(variables.items()), tuple(sys.path)))


def problems_here() -> list[SetupError]:
    """The same for this process, into which PyRep is loaded."""
    return _problems(_load_here)


def _problems(load: Callable[[], str]) -> list[SetupError]:
    found = [*_folder(), *_packages()]
    error = "" if found else load()
    if error:
        found = [_explained(error)]
    if found or (_root() / _LIBRARY).exists():
        found += _drawing()
    return found


def _root() -> Path:
    return Path(os.environ[ROOT])


def _folder() -> list[SetupError]:
    """What PyRep itself asks for: the variable, and that it names a folder."""
    if not os.environ.get(ROOT):
        return [SetupError(f"{ROOT} is not set: CoppeliaSim 4.1.0 is not installed, or nobody says where",
                           hint=f"unpack {_DOWNLOAD} and export {ROOT}=FOLDER")]
    if not _root().is_dir():
        return [SetupError(f"{ROOT}={_root()} is no folder", hint=f"export {ROOT}=FOLDER of CoppeliaSim 4.1.0")]
    return []


def _packages() -> list[SetupError]:
    found = []
    if _places("rlbench") is None:
        found.append(SetupError("rlbench is not installed; its licence (non-commercial) has to be accepted by its user",
                                hint=INSTALL))
    if _places("pyrep") is None:
        found.append(SetupError("PyRep is not installed", hint=PYREP))
    return found


def _drawing() -> list[SetupError]:
    """What CoppeliaSim needs for its pictures; who tells Qt where to draw needs none of it."""
    if os.environ.get(QT_PLATFORM):
        return []
    found, root = [], os.environ.get(ROOT, "")
    if (Path(root) / _LIBRARY).exists() and not (Path(root) / _PLUGIN).exists():
        found.append(SetupError(f"Qt plugin path: {ROOT}={root} holds no {_PLUGIN}, without which no display is opened",
                                hint=f"unpack {_DOWNLOAD} again, whole, and export {ROOT}=FOLDER"))
    if not os.environ.get("DISPLAY"):
        found.append(SetupError(
            "no display: DISPLAY is not set, and CoppeliaSim opens one also where it shows no window",
            hint="xvfb-run -a pvdr-bench ... (in a cluster's profile: wrapper: [xvfb-run, -a])"))
    return found


def _explained(error: str) -> SetupError:
    """What an error means that loading PyRep ends with."""
    root = _root()
    if not any((place / "backend").is_dir() for place in _places("pyrep") or ()):
        return SetupError(f"the package pyrep here is another project of that name, PyPI's, and not RLBench's PyRep "
                          f"({error})", hint=f"pip uninstall -y pyrep && {PYREP}")
    if "undefined symbol" in error:
        return SetupError(f"PyRep was built against another version of CoppeliaSim than that in {root}: {error}",
                          hint=f"{PYREP} (builds it anew, with {ROOT} set)")
    if "cannot open shared object" in error and not (root / _LIBRARY).exists():
        return SetupError(f"library path: {ROOT}={root} holds no {_LIBRARY}: {error}",
                          hint=f"unpack {_DOWNLOAD} and export {ROOT}=FOLDER")
    if "cannot open shared object" in error:
        return SetupError(f"library path: PyRep does not find CoppeliaSim's library: {error}",
                          hint=f"export LD_LIBRARY_PATH=${ROOT} before Python starts (our workers have it); if that is "
                               f"not it, {PYREP} (builds it anew and links the library in {ROOT})")
    return SetupError(f"PyRep cannot be loaded: {error}", hint=f"{PYREP} (builds it anew)")


def _load_here() -> str:
    """What went wrong; empty: nothing."""
    try:
        importlib.import_module("pyrep").PyRep  # noqa: B018 - PyPI's has none
    except Exception as error:  # whatever a package ends with that is another one, or is built against another library
        return f"{type(error).__name__}: {error}"
    return ""


@cache
def _load_apart(root: str, variables: tuple[tuple[str, str], ...], path: tuple[str, ...]) -> str:
    """The last line of what went wrong; empty: nothing. Where libraries lie is read when a process begins."""
    try:
        answer = subprocess.run([sys.executable, "-c", "from pyrep import PyRep"], capture_output=True, text=True,
                                timeout=SECONDS, check=False, env={**os.environ, **dict(variables)})
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS:.0f} s"
    return "" if answer.returncode == 0 else (answer.stderr.strip().splitlines() or [f"code {answer.returncode}"])[-1]


def _places(module: str) -> list[Path] | None:
    """Folders of a package that is not imported for it; None where there is none."""
    if loaded := sys.modules.get(module):  # it may have come from elsewhere than a file
        return [Path(place) for place in getattr(loaded, "__path__", ())]
    spec = importlib.util.find_spec(module)
    return None if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
