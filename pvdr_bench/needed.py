"""Importing what only some features need: a package that is not there, and one that is there and cannot be loaded."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pvdr_bench.errors import SetupError


def need(module: str, what: str, install: str | None = None) -> Any:
    """Import a module for ``what`` needs it.

    Args:
        install: how its package is installed; by default pip with the module's first name.

    Raises:
        SetupError: it, or something that it imports, is not installed; or it is, and cannot be loaded, with the cause.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error, module, what, install) from error
    except (ImportError, OSError) as error:  # a wrong version of something, a shared library that lacks
        raise SetupError(f"{what} needs {module}, which is installed and cannot be loaded: {error}",
                         hint=f'{sys.executable} -c "import {module}" tells more') from error


def missing(error: ModuleNotFoundError, module: str, what: str, install: str | None = None) -> SetupError:
    """What to say where ``module`` could not be found, or something else that it imports."""
    name = error.name or module
    if module == name or module.startswith(f"{name}."):
        return SetupError(f"{what} needs the package {name.partition('.')[0]}, which is not installed",
                          hint=install or f"{sys.executable} -m pip install {name.partition('.')[0]}")
    return SetupError(f"{what} needs {module}, which needs the module {name}: it is not installed",
                      hint=f"{sys.executable} -m pip install {name.partition('.')[0]}")


def checkout_version(name: str) -> str | None:
    """``__version__`` of a package that can be imported though nobody installed it, read from its source.

    It is not imported for it: that may start a simulator. ``unknown`` where its source does not say; None where there
    is none.
    """
    if name in sys.modules:
        return str(getattr(sys.modules[name], "__version__", "unknown"))
    spec = find_spec(name.replace("-", "_"))
    if spec is None:
        return None
    if not spec.has_location or not str(spec.origin).endswith(".py"):
        return "unknown"
    for line in ast.parse(Path(str(spec.origin)).read_text(encoding="utf-8")).body:
        if (isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
                and any(isinstance(target, ast.Name) and target.id == "__version__" for target in line.targets)):
            return str(line.value.value)
    return "unknown"
