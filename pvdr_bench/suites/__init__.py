"""Environments: one interface (``base.py``), one folder per suite, imported when a task of it is built.

What a suite is stands in its :class:`~pvdr_bench.suites.info.SuiteInfo`; which there are, in ``registry.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvdr_bench.errors import UsageError
from pvdr_bench.words import did_you_mean, nearest

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
        raise UsageError(f"the suite {info.name} has no environment {config.env_id!r}",
                         hint=f"{did_you_mean(nearest(config.env_id, known))}allowed: {', '.join(known[:60])}")
    return info.load()(config)
