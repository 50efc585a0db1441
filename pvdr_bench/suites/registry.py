"""The suites there are: the built-in ones and those of installed packages. No simulator is imported.

Another package adds a suite by an entry point of the group ``pvdr_bench.suites`` that names a
:class:`~pvdr_bench.suites.info.SuiteInfo`, and a user by a file ``suites/NAME.py`` in a folder of ``PVDR_BENCH_PATH``.
"""

from __future__ import annotations

from functools import cache

from pvdr_bench.errors import SetupError, UsageError
from pvdr_bench.plugins import load_plugins, path_text
from pvdr_bench.suites.dummy.info import DUMMY
from pvdr_bench.suites.info import SuiteInfo
from pvdr_bench.suites.metaworld.info import METAWORLD
from pvdr_bench.suites.rlbench.info import RLBENCH
from pvdr_bench.suites.tabletop.info import TABLETOP
from pvdr_bench.words import did_you_mean, nearest

_BUILT_IN = (METAWORLD, RLBENCH, TABLETOP, DUMMY)
DEFAULT_SUITE = METAWORLD.name  # what is meant where no task names a suite
DEFAULT_CORPUS = METAWORLD.corpora[0].name  # what methods pre-train on unless --videos says otherwise


@cache
def _found(path: str) -> tuple[dict[str, SuiteInfo], dict[str, SetupError]]:
    of_packages, broken = load_plugins("suites", SuiteInfo)
    found = {info.name: info for info in _BUILT_IN}
    for info in of_packages.values():
        try:
            _check(info, found)
        except SetupError as error:
            broken[info.name] = error
        else:
            found[info.name] = info
    return found, broken


def _check(info: SuiteInfo, others: dict[str, SuiteInfo]) -> None:
    """Refuse a package's suite that answers with an error, or takes a name that another suite has."""
    if info.name in others:
        raise SetupError(f"there is a suite {info.name} already", hint="give it another name")
    taken = {task.name: other.name for other in others.values() for task in other.tasks()}
    try:
        info.version()
        mine = [task.name for task in info.tasks() if info.env_ids()]
    except Exception as error:  # whatever another package's code does when it is asked
        raise SetupError(f"the suite {info.name} cannot tell what it is: {type(error).__name__}: {error}") from error
    if double := next((name for name in mine if name in taken), None):
        raise SetupError(f"the task {double} of suite {info.name} is one of suite {taken[double]} already",
                         hint=f"call it {info.name}-{double}; `--task {info.name}/{double}` finds it")


def suites() -> dict[str, SuiteInfo]:
    """All suites by name, the built-in ones first."""
    return _found(path_text())[0]


def broken_suites() -> dict[str, SetupError]:
    """Suites of packages that cannot be read, and why."""
    return _found(path_text())[1]


def suite(name: str) -> SuiteInfo:
    """A suite by its name.

    Raises:
        SetupError: its package cannot be read.
        UsageError: unknown suite; tells the nearest one.
    """
    if name in suites():
        return suites()[name]
    if name in broken_suites():
        raise broken_suites()[name]
    meant = did_you_mean(nearest(name, suites()))
    raise UsageError(f"unknown suite {name!r}", hint=f"{meant}known: {', '.join(suites())}")
