"""Modules of a checkout of somebody's repository, imported without installing it or what their losses do not need.

Packages stand empty but for the modules that are asked for, so that environments, loggers and replay of theirs, and
what these import, need not be there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from pvdr_bench.errors import SetupError


@dataclass(frozen=True)
class Layout:
    """What of a repository is imported.

    Attributes:
        repository: OWNER/NAME on GitHub. commit: that the comparison was made with.
        modules: dotted names in the order of import. What each holds is exported to the packages it is in, as their
            own ``__init__`` do by stars.
        constants: of the outermost package. stubs: modules that stand empty where they are not installed.
    """

    repository: str
    commit: str
    modules: Sequence[str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    stubs: Sequence[str] = ()

    def files(self) -> list[str]:
        """Paths of the modules in the repository."""
        return [module.replace(".", "/") + ".py" for module in self.modules]


class _Anything:
    """Stands for whatever a stub is asked for: it can be called, subscripted, and has every attribute."""

    def __call__(self, *args: Any, **kwargs: Any) -> _Anything:
        return self

    def __getitem__(self, key: Any) -> _Anything:
        return self

    def __getattr__(self, name: str) -> _Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class _Stub(ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()


def require_files(root: Path, layout: Layout) -> None:
    """Look whether a checkout has what is imported of it.

    Raises:
        SetupError: a file is missing; it says which, and how the repository is had.
    """
    missing = [name for name in layout.files() if not (root / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise SetupError(f"no checkout of {layout.repository}: there is no {missing[0]}{more}", where=str(root),
                         hint=f"git clone https://github.com/{layout.repository} CHECKOUT; git -C CHECKOUT checkout "
                              f"{layout.commit}; then -o checkout=CHECKOUT")


@contextmanager
def borrowed(root: Path, layout: Layout) -> Iterator[dict[str, ModuleType]]:
    """The modules of a checkout by their dotted names; they can be imported within the block alone.

    Raises:
        SetupError: a file is missing, or cannot be imported.
    """
    require_files(root, layout)
    outermost = {name.partition(".")[0] for name in (*layout.modules, *layout.stubs)}
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in outermost}
    path = list(sys.path)
    for name in before:  # names such as tools may be taken
        del sys.modules[name]
    try:
        _put_stubs(layout)
        _put_packages(root, layout)
        sys.path.insert(0, str(root))
        yield {name: _load(name, layout) for name in layout.modules}
    finally:
        sys.path[:] = path
        for name in [name for name in sys.modules if name.partition(".")[0] in outermost]:
            del sys.modules[name]
        sys.modules.update(before)


def _put_stubs(layout: Layout) -> None:
    lacking = [name for name in layout.stubs if find_spec(name.partition(".")[0]) is None]
    sys.modules.update({name: _Stub(name) for name in lacking})


def _put_packages(root: Path, layout: Layout) -> None:
    """Packages without what their ``__init__`` would import."""
    for module in layout.modules:
        parts = module.split(".")[:-1]
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[:depth])
            if name not in sys.modules or not getattr(sys.modules[name], "_bare", False):
                package = ModuleType(name)
                package.__path__ = [str(root.joinpath(*parts[:depth]))]
                package.__dict__["_bare"] = True
                package.__dict__.update(layout.constants if depth == 1 else {})
                sys.modules[name] = package
                if depth > 1:
                    setattr(sys.modules[".".join(parts[:depth - 1])], parts[depth - 1], package)


def _load(name: str, layout: Layout) -> ModuleType:
    try:
        module = import_module(name)
    except ImportError as error:
        raise SetupError(f"{name} of {layout.repository} cannot be imported: {error}",
                         hint=f"{sys.executable} -m pip install {error.name or 'what it names'}; or another commit: "
                              f"this was made with {layout.commit}") from error
    parts = name.split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        package = sys.modules[".".join(parts[:depth])]
        for key, value in vars(module).items():
            if not key.startswith("_"):
                package.__dict__.setdefault(key, value)
    return module


class Settings(dict[str, Any]):
    """A mapping whose keys are attributes too, also of mappings in it, as the configs of these repositories are."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__({key: Settings(value) if isinstance(value, dict) else value for key, value in values.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value
