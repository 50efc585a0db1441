"""Entry points by which installed packages add to the benchmark."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, TypeVar

from pvdr_bench.errors import SetupError


class Named(Protocol):
    """Something with a name."""

    @property
    def name(self) -> str:
        """What it is called."""


T = TypeVar("T", bound=Named)


@cache
def plugins(kind: str) -> tuple[EntryPoint, ...]:
    """Entry points of the group ``pvdr_bench.KIND``: suites, corpora, or catalog (a package with YAML folders)."""
    return tuple(entry_points(group=f"pvdr_bench.{kind}"))


def load_plugins(kind: str, wanted: type[T]) -> tuple[dict[str, T], dict[str, SetupError]]:
    """What entry points name, and why others could not be used; one broken package stops only what asks for it.

    Args:
        wanted: what an entry point has to name: an instance of it, whose attribute ``name`` is the entry's own.
    """
    found: dict[str, T] = {}
    broken: dict[str, SetupError] = {}
    for entry in plugins(kind):
        try:
            found[entry.name] = _load(entry, wanted)
        except SetupError as error:
            broken[entry.name] = error
    return found, broken


def _load(entry: EntryPoint, wanted: type[T]) -> T:
    what = f"the entry point {entry.name!r} of {entry.group}"
    package = f" (package {entry.dist.name})" if entry.dist is not None else ""
    try:
        loaded = entry.load()
    except Exception as error:  # whatever another package's module does while it is imported
        raise SetupError(f"{what}{package} cannot be loaded: {type(error).__name__}: {error}",
                         where=entry.value) from error
    if not isinstance(loaded, wanted):
        got = f"the class {loaded.__name__}" if isinstance(loaded, type) else f"a {type(loaded).__name__}"
        raise SetupError(f"{what}{package} names {got}, where a {wanted.__name__} is needed",
                         where=entry.value, hint=f"write NAME = {wanted.__name__}(...) in that package and let the "
                         "entry point name it; docs/extending.md has an example")
    if loaded.name != entry.name:
        raise SetupError(f"{what}{package} is called {loaded.name!r} inside", where=entry.value,
                         hint="both names have to be the same")
    return loaded

