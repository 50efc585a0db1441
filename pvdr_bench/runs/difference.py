"""What differs between two recipes, in words."""

from __future__ import annotations

from typing import Any

from pvdr_bench.runs.files import canonical_json

_MISSING = "(absent)"


def difference(old: Any, new: Any, key: str = "") -> list[str]:
    """What differs between two recipes, a line per key: ``config.lambda1: 0.01 (there) -> 0.1 (asked for)``."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        start = f"{key}." if key else ""
        return [line for name in names
                for line in difference(old.get(name, _MISSING), new.get(name, _MISSING), f"{start}{name}")]
    if canonical_json(old) == canonical_json(new):
        return []
    return [f"{key or 'recipe'}: {old!r} (there) -> {new!r} (asked for)"]
