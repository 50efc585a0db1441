"""Environments: one interface (``base.py``), one folder per suite, imported when a task of it is built.

What a suite is stands in its :class:`~pvdr_bench.suites.info.SuiteInfo`; which there are, in ``registry.py``.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from pvdr_bench.errors import UsageError

if TYPE_CHECKING:
    from pvdr_bench.suites.base import Env, EnvConfig


def make_env(config: EnvConfig) -> Env:
    """Build the environment of a config, importing its suite now.

    Raises:
        UsageError: unknown suite or environment.
        SetupError: the suite's packages or an OpenGL library are missing.
    """
    from pvdr_bench.suites.registry import suite

    info = suite(config.suite)
    known = info.env_ids()
    if config.env_id not in known:
        near = difflib.get_close_matches(config.env_id, known, 3, 0.4)
        allowed = f"nearest: {', '.join(near)}" if near else f"allowed: {', '.join(known[:60])}"
        raise UsageError(f"the suite {info.name} has no environment {config.env_id!r}", hint=allowed)
    return info.load()(config)
