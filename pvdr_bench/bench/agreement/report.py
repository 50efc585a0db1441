"""Two values of the same thing, and how far they are apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

TOLERANCE = 1e-9  # relative, in float64
FLOOR = 1e-3  # of a module's gradient: tensors with less are measured by it, for many are zero but for rounding


def compare_values(ours: Mapping[str, Tensor | float], theirs: Mapping[str, Tensor | float]) -> dict[str, Any]:
    """By name: ours, theirs, and their absolute and relative difference.

    Raises:
        KeyError: a value has no partner.
    """
    if set(ours) != set(theirs):
        raise KeyError(f"values without a partner: {sorted(set(ours) ^ set(theirs))}")
    found = {}
    for name in ours:
        a, b = float(ours[name]), float(theirs[name])
        found[name] = {"ours": a, "theirs": b, "absolute": abs(a - b), "relative": abs(a - b) / max(abs(b), 1e-12)}
    return found


def compare_tensors(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], depth: int = 2) -> dict[str, float]:
    """By module (so many first parts of a name): the largest relative difference of its tensors.

    Of a tensor that is the norm of the difference over the norm, or over :data:`FLOOR` of the whole module's.
    """
    if set(ours) != set(theirs):
        raise KeyError(f"tensors without a partner: {sorted(set(ours) ^ set(theirs))}")
    modules: dict[str, list[str]] = defaultdict(list)
    for name in theirs:
        modules[".".join(name.split(".")[:-1][:depth])].append(name)
    found = {}
    for module, names in sorted(modules.items()):
        whole = sum(float(theirs[name].double().square().sum()) for name in names) ** 0.5
        found[module] = max(float((ours[name] - theirs[name]).double().norm())
                            / max(float(theirs[name].double().norm()), FLOOR * whole, 1e-12) for name in names)
    return found


def judge(comparisons: Mapping[str, Any]) -> list[str]:
    """What is beyond the tolerance, as ``comparison: name``; NaN is beyond any."""
    failed = []
    for which, comparison in comparisons.items():
        found = {name: row["relative"] for name, row in comparison["values"].items()}
        for kind in ("gradients", "buffers"):
            found |= {f"{kind} of {name}": value for name, value in comparison.get(kind, {}).items()}
        failed += [f"{which}: {name}" for name, value in found.items() if not value <= TOLERANCE]
    return failed
