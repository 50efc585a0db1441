"""What a run cost, from its ``timing.jsonl``: its time by what it was spent on, and its FLOP. No torch is needed.

Shares are of the run's whole wall time, training and evaluation, over all its starts, and add up to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from pvdr_bench.runs.contents import RunContents
from pvdr_bench.runs.schema import PhaseRow, ReferenceFile

KINDS = {
    "physics": "simulating in training, as far as it is waited for",
    "rendering": "drawing the observations, likewise",
    "tokenizing": "encoding frames into tokens",
    "planning": "making plans and choosing among them; a search",
    "acting": "the policy's decisions, without their plans and tokens",
    "learning": "updates, and storing what they learn from",
    "evaluating": "evaluations as a whole, their simulation and planning included",
    "other": "start, checkpoints, resets, waiting for processes, the loop itself; and what a run does not tell apart",
}
_OPENING = ("start", "checkpoint")  # in whatever phase's line they stand, they are no part of it
_UNNAMED = 0.05  # share of training in which updates may go on outside named parts for their FLOP to be known


@dataclass(frozen=True)
class RunCost:
    """One run's cost, as far as its files tell; None where they do not.

    Attributes:
        device: ``cpu`` or ``cuda``.
        hours: wall time, what was done in vain before a kill included.
        decisions_per_second: of training, evaluations left out, in all environments together.
        shares: of wall time by the names of :data:`KINDS`; empty for a run that tells no phases.
        evaluation: the same of the evaluations alone, without ``evaluating``.
        acting, learning: FLOP per decision of training, before and in updates.
        update: FLOP of one update: all that one round learns.
        flop: of the whole run, evaluations included.
        artefact_hours, artefact_flop: of training the models that the run stands on, each counted whole (FLOP of their
            updates, validations left out); 0 without any.
    """

    device: str | None = None
    hours: float | None = None
    decisions_per_second: float | None = None
    shares: Mapping[str, float | None] = field(default_factory=dict)
    evaluation: Mapping[str, float | None] = field(default_factory=dict)
    acting: float | None = None
    learning: float | None = None
    update: float | None = None
    flop: float | None = None
    artefact_hours: float | None = None
    artefact_flop: float | None = None


def read_cost(run: RunContents, action_repeat: int, until: int | None = None) -> RunCost:
    """The cost of a run.

    Args:
        action_repeat: env_steps of a decision.
        until: env_steps; what came later is left out, and where it was not the end hours are those up to it.

    Raises:
        DataError: a file is broken.
    """
    stands_on = run.read_artefacts()
    seconds, flop = _of_artefacts(stands_on, "wall_seconds"), _of_artefacts(stands_on, "flop")
    hours = None if seconds is None else seconds / 3600
    phases = [row for row in run.read_phases() if until is None or row["env_steps"] <= until]
    if phases:
        return replace(cost_of(phases, action_repeat), artefact_hours=hours, artefact_flop=flop)
    done = run.done()
    devices = {row["device"] for row in run.read_timing()}
    whole = done is not None and (until is None or done["env_steps"] <= until)
    return RunCost(devices.pop() if len(devices) == 1 else None,
                   done["wall_seconds"] / 3600 if done is not None and whole and "wall_seconds" in done else None,
                   artefact_hours=hours, artefact_flop=flop)


def _of_artefacts(artefacts: Mapping[str, ReferenceFile] | None, key: Literal["wall_seconds", "flop"]) -> float | None:
    """The sum over all of them; None where one does not tell."""
    told = [each[key] for each in (artefacts or {}).values() if key in each]
    return float(sum(told)) if artefacts is not None and len(told) == len(artefacts) else None


def cost_of(phases: Sequence[PhaseRow], action_repeat: int) -> RunCost:
    """The cost that lines of ``timing.jsonl`` at the ends of phases, at least one, tell of."""
    walls = [0.0, *(row["wall_seconds"] for row in phases)]
    took = [max(0.0, after - before) for before, after in pairwise(walls)]
    train = [(row, wall) for row, wall in zip(phases, took, strict=True) if row["phase"] == "train"]
    other = [(row, wall) for row, wall in zip(phases, took, strict=True) if row["phase"] != "train"]
    tells = all("calls" in row for row in phases)
    spent = _spent(train)
    evaluating = _spent(other)
    opening = evaluating.pop("opening", 0.0)
    shares = _shares({**spent, "evaluating": sum(wall for _, wall in other) - opening}, walls[-1], tells)
    decisions = max((row["env_steps"] for row, _ in train), default=0) / action_repeat
    worked = sum(wall - sum(row["seconds"].get(part, 0.0) for part in _OPENING) for row, wall in train)
    devices = {row["device"] for row in phases}
    return RunCost(devices.pop() if len(devices) == 1 else None,
                   (walls[-1] + max(row.get("dropped_seconds", 0.0) for row in phases)) / 3600,
                   decisions / worked if worked > 0 and decisions else None, shares,
                   _shares(evaluating, sum(wall for _, wall in other) - opening, tells),
                   **_flop(phases, [row for row, _ in train], decisions))


def _spent(rows: Iterable[tuple[PhaseRow, float]]) -> dict[str, float]:
    """Seconds by kind, and those of starts and checkpoints as ``opening``; kinds that no line names are missing."""
    sums: dict[str, float] = {}
    for row, _ in rows:
        for part, seconds in exclusive(row["seconds"]).items():
            kind = kind_of(part)
            if kind is not None:
                sums[kind] = sums.get(kind, 0.0) + seconds
    return sums


def exclusive(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds by part, those of parts within it not included."""
    out = dict(seconds)
    for part, value in seconds.items():
        outer = part.rpartition(".")[0]
        if outer in out:
            out[outer] -= value
    return {part: max(0.0, value) for part, value in out.items()}


def kind_of(part: str) -> str | None:
    """What seconds of a part, those within it not included, were spent on; None: nothing that has a name."""
    names = part.split(".")
    if names[0] in _OPENING:
        return "opening"
    if part in ("env.physics", "env.render"):
        return "physics" if names[1] == "physics" else "rendering"
    if names[-1] == "tokenize":
        return "tokenizing"
    if "plan" in names:
        return "planning"
    return {"act": "acting", "learn": "learning", "observe": "learning"}.get(names[0])


def _shares(seconds: Mapping[str, float], whole: float, tells: bool) -> dict[str, float | None]:
    """Shares of ``whole`` that add up to 1; None where the lines do not say, which is in ``other`` then.

    Args:
        tells: whether they name every part that there is; what they lack took no time then. Simulators may not tell.
    """
    if whole <= 0:
        return {}
    named = [kind for kind in KINDS if kind != "other"]
    found: dict[str, float | None] = {
        kind: seconds[kind] / whole if kind in seconds else
        0.0 if tells and kind not in ("physics", "rendering") else None for kind in named}
    if not tells and found["tokenizing"] is None:
        found["acting"] = None  # encoding is in it
    return {**found, "other": max(0.0, 1.0 - sum(value or 0.0 for value in found.values()))}


def _flop(phases: Sequence[PhaseRow], train: Sequence[PhaseRow], decisions: float) -> dict[str, Any]:
    """FLOP; nothing where a line has none, or where most of learning is in no named part (see ``rl/flop.py``)."""
    if not decisions or not all("flop" in row for row in phases) or _learns_unnamed(train):
        return {}
    acting = sum(_sum(row["flop"], learn=False) for row in train)
    learning = sum(_sum(row["flop"], learn=True) for row in train)
    calls: dict[str, int] = {}
    for row in train:
        for part, count in row["calls"].items():
            if part.startswith("learn.") and part.count(".") == 1:
                calls[part] = calls.get(part, 0) + count
    updates = max(calls.values(), default=0)
    return {"acting": acting / decisions, "learning": learning / decisions,
            "update": learning / updates if updates else None,
            "flop": float(sum(sum(row["flop"].values()) for row in phases))}


def _sum(flop: Mapping[str, float], learn: bool) -> float:
    return float(sum(value for part, value in flop.items() if (part.partition(".")[0] == "learn") == learn))


def _learns_unnamed(train: Sequence[PhaseRow]) -> bool:
    unnamed = sum(exclusive(row["seconds"]).get("learn", 0.0) for row in train)
    walls = [row["wall_seconds"] for row in train]
    return bool(walls) and unnamed > _UNNAMED * max(walls)


def cost_words(cost: RunCost) -> str:
    """``0.42 CPU-hours, 35 decisions/s: planning 31 %, ...``: the largest shares first; empty if nothing is known."""
    parts = []
    if cost.hours is not None:
        parts.append(f"{cost.hours:.2f} {device_hours(cost.device)}")
    if cost.decisions_per_second is not None:
        parts.append(f"{cost.decisions_per_second:.3g} decisions/s")
    shares = sorted(((value, kind) for kind, value in cost.shares.items() if value is not None and value >= 0.005),
                    key=lambda pair: (pair[1] == "other", -pair[0]))
    spent = ", ".join(f"{kind} {100 * value:.0f} %" for value, kind in shares)
    return ", ".join(parts) + (f": {spent}" if parts and spent else "")


def device_hours(device: str | None) -> str:
    """``CPU-hours``, ``GPU-hours``, or ``hours`` where it is not known what computed."""
    return {"cpu": "CPU-hours", "cuda": "GPU-hours"}.get(device or "", "hours")
