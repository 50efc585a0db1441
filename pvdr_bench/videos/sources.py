"""The registry of corpora: those of the suites, of packages, and those that a program adds. Nothing heavy is imported.

A package adds a corpus by an entry point of the group ``pvdr_bench.corpora`` that names a `CorpusSource`, or with its
suite (``SuiteInfo.corpora``). Adding one changes no recipe: what learns from several corpora names them.
"""

from __future__ import annotations

from functools import cache

from pvdr_bench.errors import SetupError, UsageError
from pvdr_bench.plugins import load_plugins, path_text
from pvdr_bench.suites.corpora import CorpusSource
from pvdr_bench.suites.fetch.info import FETCH_PUSH
from pvdr_bench.suites.registry import suites
from pvdr_bench.videos.real import REAL
from pvdr_bench.words import did_you_mean, nearest

_ADDED: dict[str, CorpusSource] = {}


@cache
def _plugins(path: str) -> tuple[dict[str, CorpusSource], dict[str, SetupError]]:
    return load_plugins("corpora", CorpusSource)


def broken_sources() -> dict[str, SetupError]:
    """Corpora of packages that cannot be read, and why."""
    return _plugins(path_text())[1]


def sources() -> list[CorpusSource]:
    """All corpora: the suites' own, the Fetch robot's, real videos, those of packages, those added by a program.

    A name belongs to the first that has it.
    """
    found: dict[str, CorpusSource] = {}
    of_suites = [corpus for info in suites().values() for corpus in info.corpora]
    for corpus in (*of_suites, FETCH_PUSH, *REAL, *_plugins(path_text())[0].values(), *_ADDED.values()):
        found.setdefault(corpus.name, corpus)
    return list(found.values())


def source(name: str) -> CorpusSource:
    """A corpus by its name.

    Raises:
        SetupError: its package cannot be read.
        UsageError: unknown name; tells the nearest one.
    """
    known = {corpus.name: corpus for corpus in sources()}
    if name not in known and name in broken_sources():
        raise broken_sources()[name]
    if name not in known:
        meant = did_you_mean(nearest(name, known))
        raise UsageError(f"unknown corpus {name!r}", hint=f"{meant}there are: {', '.join(known)}")
    return known[name]


def register(entry: CorpusSource) -> None:
    """Add a corpus for the rest of this process.

    Raises:
        UsageError: the name is taken.
    """
    if any(corpus.name == entry.name for corpus in sources()):
        raise UsageError(f"corpus {entry.name!r} exists already")
    _ADDED[entry.name] = entry
