"""Entry points by which installed packages add to the catalog."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points


@cache
def plugins(kind: str) -> tuple[EntryPoint, ...]:
    """Entry points of the group ``pvdr_bench.KIND``: algorithms, suites, or catalog (a package with YAML folders)."""
    return tuple(entry_points(group=f"pvdr_bench.{kind}"))
