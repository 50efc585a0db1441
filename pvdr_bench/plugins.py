"""What others add to the benchmark: entry points of installed packages, and Python files in folders of the user's own.

A package names an object in its entry points, group ``pvdr_bench.KIND``. A folder of ``PVDR_BENCH_PATH`` holds it in a
file, ``FOLDER/KIND/NAME.py``, with an object whose ``name`` is the file's. KIND is algorithms, suites or corpora.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Protocol, TypeVar

from pvdr_bench.errors import SetupError

PATH_VARIABLE = "PVDR_BENCH_PATH"


class Named(Protocol):
    """Something with a name."""

    @property
    def name(self) -> str:
        """What it is called."""


T = TypeVar("T", bound=Named)


def path_text() -> str:
    """The user's folders as they are written in ``PVDR_BENCH_PATH``; what is found in them is kept by this text."""
    return os.environ.get(PATH_VARIABLE, "")


@contextmanager
def searched_first(folder: Path | None) -> Iterator[None]:
    """While it lasts, a folder stands before the others of ``PVDR_BENCH_PATH``; None changes nothing."""
    before = os.environ.get(PATH_VARIABLE)
    if folder is not None:
        os.environ[PATH_VARIABLE] = os.pathsep.join(filter(None, (str(folder.resolve()), before)))
    try:
        yield
    finally:
        os.environ.pop(PATH_VARIABLE, None)
        if before is not None:
            os.environ[PATH_VARIABLE] = before


@cache
def plugins(kind: str) -> tuple[EntryPoint, ...]:
    """Entry points of the group ``pvdr_bench.KIND``: algorithms, suites, corpora, or catalog (packages with YAML)."""
    return tuple(entry_points(group=f"pvdr_bench.{kind}"))


def load_plugins(kind: str, wanted: type[T]) -> tuple[dict[str, T], dict[str, SetupError]]:
    """What files and entry points name, and why others could not be used; a broken one stops only what asks for it.

    Args:
        wanted: what has to be named: an instance of it, whose attribute ``name`` is the entry's or the file's own.
    """
    found: dict[str, T] = {}
    broken: dict[str, SetupError] = {}
    for name, load in (*_files(kind, wanted), *_entries(kind, wanted)):
        if name in found or name in broken:
            continue  # the user's folders go before packages, as for YAML
        try:
            found[name] = load()
        except SetupError as error:
            broken[name] = error
    return found, broken


def _entries(kind: str, wanted: type[T]) -> Iterator[tuple[str, Callable[[], T]]]:
    for entry in plugins(kind):
        yield entry.name, lambda entry=entry: _load(entry, wanted)  # type: ignore[misc]


def _files(kind: str, wanted: type[T]) -> Iterator[tuple[str, Callable[[], T]]]:
    for folder in filter(None, path_text().split(os.pathsep)):
        for path in sorted((Path(folder).expanduser() / kind).glob("*.py")):
            if not path.name.startswith("_"):
                yield path.stem, lambda path=path: _load_file(path, kind, wanted)  # type: ignore[misc]


def _load_file(path: Path, kind: str, wanted: type[T]) -> T:
    module = import_file(path, f"pvdr_bench_path.{kind}.{path.stem}")
    for value in vars(module).values():
        if isinstance(value, wanted) and value.name == path.stem:
            return value
    raise SetupError(f"this file holds no {wanted.__name__} called {path.stem!r}", where=str(path),
                     hint=f"write NAME = {wanted.__name__}({path.stem!r}, ...) in it; docs/extending.md has an example")


def import_file(path: Path, name: str) -> ModuleType:
    """A Python file as a module that ``importlib`` knows by ``name`` from now on, so that ``name:Class`` can be loaded.

    Raises:
        SetupError: it fails while it is imported.
    """
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's file does while it is imported
        del sys.modules[name]
        raise SetupError(f"this file cannot be loaded: {type(error).__name__}: {error}", where=str(path)) from error
    return module


def _load(entry: EntryPoint, wanted: type[T]) -> T:
    what = f"the entry point {entry.name!r} of {entry.group}"
    package = f" (package {entry.dist.name})" if entry.dist is not None else ""
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:  # whatever another package's module does while it is imported
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

