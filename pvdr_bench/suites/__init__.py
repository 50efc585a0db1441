"""Environments: one interface (``base.py``), one module per suite, imported when a task of it is built.

Another package adds a suite by an entry point of the group ``pvdr_bench.suites`` that names a class or function taking
an :class:`~pvdr_bench.suites.base.EnvConfig`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from importlib.metadata import entry_points

from pvdr_bench.errors import SetupError, UsageError
from pvdr_bench.suites.base import Env, EnvConfig

ENTRY_POINT_GROUP = "pvdr_bench.suites"
_BUILT_IN = {
    "metaworld": "pvdr_bench.suites.metaworld:MetaWorldEnv",
    "dummy": "pvdr_bench.suites.dummy:DummyEnv",
}


def suites() -> dict[str, str]:
    """Names of the suites that can be built here, each with the ``module:object`` behind it."""
    return {**{point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}, **_BUILT_IN}


def env_ids(suite: str) -> tuple[str, ...] | None:
    """Names of a suite's environments, told without loading it; None where only the suite itself knows them."""
    if suite == "metaworld":
        from pvdr_bench.catalog.metaworld_names import NAMES

        return tuple(f"{name}-v3" for name in NAMES)
    return ("point",) if suite == "dummy" else None


def make_env(config: EnvConfig) -> Env:
    """Build the environment of a config, importing its suite now.

    Raises:
        UsageError: unknown suite or environment.
        SetupError: the suite's packages or an OpenGL library are missing.
    """
    found = suites()
    if config.suite not in found:
        near = difflib.get_close_matches(config.suite, found, 1, 0.4)
        hint = f"allowed: {', '.join(sorted(found))}" + (f"; did you mean {near[0]!r}?" if near else "")
        raise UsageError(f"unknown suite {config.suite!r}", hint=hint)
    module, _, name = found[config.suite].partition(":")
    try:
        factory: Callable[[EnvConfig], Env] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SetupError(f"suite {config.suite!r}: cannot load {found[config.suite]!r}: {error}") from error
    return factory(config)
