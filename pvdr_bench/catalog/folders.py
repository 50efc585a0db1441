"""Where YAML is found: the user's folders first, then those of packages, then the built-in ones."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from pvdr_bench.errors import CatalogError
from pvdr_bench.plugins import PATH_VARIABLE, path_text, plugins

KINDS = {"methods": "methods", "tasks": "tasks", "protocols": "tasks/protocols", "profiles": "slurm",
         "experiments": "experiments"}
_PACKAGE = Path(__file__).resolve().parent.parent


def builtin_root() -> Path:
    """The built-in YAML: inside the package in a wheel, beside it in an editable install."""
    inside = _PACKAGE / "_data"
    return inside if (inside / "methods").is_dir() else _PACKAGE.parent


def search_roots() -> list[Path]:
    """All folders that may hold ``methods/``, ``tasks/`` and so on, the first one wins.

    Raises:
        CatalogError: a folder of ``PVDR_BENCH_PATH`` does not exist.
    """
    roots: list[Path] = []
    for text in filter(None, path_text().split(os.pathsep)):
        folder = Path(text).expanduser()
        if not folder.is_dir():
            raise CatalogError(f"{text} is not a folder", where=PATH_VARIABLE,
                               hint=f"folders in {PATH_VARIABLE} are separated by {os.pathsep!r}")
        roots.append(folder)
    for entry in plugins("catalog"):
        spec = find_spec(entry.value)
        roots += [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    return [*roots, builtin_root()]


def yaml_files(roots: list[Path], kind: str) -> dict[str, Path]:
    """Name -> file of a kind (a key of KINDS); where a name appears twice the first root wins."""
    found: dict[str, Path] = {}
    for root in roots:
        for path in sorted((root / KINDS[kind]).glob("*.y*ml")):
            if path.suffix in (".yaml", ".yml"):
                found.setdefault(path.stem, path)
    return found
