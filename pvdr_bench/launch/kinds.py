"""Runs that are still to be made by their kind, since one kind's rate says nothing of another's, and what each costs.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pvdr_bench.catalog.catalog import Catalog
from pvdr_bench.launch.plan import RunPlan
from pvdr_bench.launch.rates import Known, Rates, Size, size_of
from pvdr_bench.words import counted, significant


@dataclass(frozen=True)
class Kind:
    """The runs of one method at one scale in one suite that are still to be made, and what they cost.

    Attributes:
        hours: of all of them, one after the other; None: not known.
        title: see :func:`titled`.
    """

    variant: str
    scale: str
    suite: str
    runs: int
    known: Known | None
    hours: float | None
    size: Size | None
    title: str = ""

    def facts(self) -> dict[str, Any]:
        """As JSON types."""
        return {"variant": self.variant, "scale": self.scale, "suite": self.suite, "runs": self.runs,
                "hours": self.hours,
                "rate": None if self.known is None else {"of": self.known.of, "source": self.known.source},
                "disk": None if self.size is None else asdict(self.size)}


def kinds_of(plans: Iterable[RunPlan], catalog: Catalog, results: Path, rates: Rates) -> list[Kind]:
    """What is not done yet, by kind; a run that goes on costs what is left of it."""
    kinds: dict[tuple[str, str, str], list[RunPlan]] = {}
    for plan in plans:
        if plan.state != "done":
            kinds.setdefault((plan.spec.variant, plan.spec.scale_label, plan.spec.task.suite), []).append(plan)
    found = []
    for alike in kinds.values():
        spec = alike[0].spec
        known = rates.of(spec)
        seconds = [known.seconds(plan.env_steps, plan.spec.protocol.env_steps) for plan in alike] if known else []
        found.append(Kind(spec.variant, spec.scale_label, spec.task.suite, len(alike), known,
                          sum(seconds) / 3600.0 if known else None, size_of(spec, catalog, results)))
    return titled(found)


def titled(kinds: Sequence[Kind]) -> list[Kind]:
    """Each with a title: its method, and what tells it from the method's other kinds among them."""
    def title(kind: Kind) -> str:
        alike = [one for one in kinds if one.variant == kind.variant]
        apart = [value for name, value in (("suite", kind.suite), ("scale", kind.scale))
                 if len({getattr(one, name) for one in alike}) > 1]
        return f"{kind.variant} ({', '.join(apart)})" if apart else kind.variant

    return [replace(kind, title=title(kind)) for kind in kinds]


def hours_of(kinds: Iterable[Kind]) -> float:
    """Of those of which they are known."""
    return sum(kind.hours for kind in kinds if kind.hours is not None)


def without_hours(kinds: Iterable[Kind]) -> dict[str, int]:
    """Title -> runs of the kinds whose hours are not known."""
    return {kind.title: kind.runs for kind in kinds if kind.hours is None}


def lines_of(kinds: Sequence[Kind]) -> list[str]:
    """For people: the hours of what was measured alike, and where; and what is unknown."""
    groups: dict[tuple[str, str], list[Kind]] = {}
    for kind in kinds:
        groups.setdefault((kind.known.of, kind.known.source) if kind.known else ("", ""), []).append(kind)
    lines = []
    for (of, source), alike in groups.items():
        hours = hours_of(alike)
        told = f"{hours:,.1f} h" if hours >= 1 else f"{significant(hours, 2)} h"
        told = f"{told}, as {of}: {source}" if of else (
            "unknown, since none was measured at this scale on such a device")
        lines.append(f"{', '.join(kind.title for kind in alike)}: {counted(sum(kind.runs for kind in alike), 'run')}, "
                     f"{told}")
    return lines
