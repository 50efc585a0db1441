"""The artefacts that several runs stand on, each made once: which are here, and what the others take.

Imports torch only to look for artefacts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvdr_bench.catalog.catalog import Catalog
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.catalog.stage_graph import StageNode, stage_graph
from pvdr_bench.launch.artefact_costs import Cost, made_of_kind, size_of_artefact, time_of
from pvdr_bench.launch.needs import stage_needs
from pvdr_bench.launch.rates import Place, Rates, names_of, published_hours
from pvdr_bench.runs.paths import data_root
from pvdr_bench.words import counted


@dataclass(frozen=True)
class SharedArtefact:
    """What is made once, and how many of the planned runs stand on it.

    Attributes:
        variants: whose runs they are.
        hours: on ``gpus`` GPUs (none: on a processor), those of the profile where it is known, as measured here or else
            published; None: not known.
        bytes: of its folder, as one of its kind has that is here; None: not known.
    """

    label: str
    variants: tuple[str, ...]
    runs: int
    there: bool
    hours: float | None = None
    gpus: int = 0
    source: str = ""
    bytes: float | None = None


def alike(specs: Iterable[RunSpec]) -> list[list[RunSpec]]:
    """Runs that stand on the same artefacts, together."""
    found: dict[tuple[object, ...], list[RunSpec]] = {}
    for spec in specs:
        key = (spec.variant, spec.corpus, spec.scale_label, spec.task.suite, spec.task.set, spec.pretrain_seed)
        found.setdefault(key, []).append(spec)
    return list(found.values())


def shared_artefacts(specs: Sequence[RunSpec], catalog: Catalog, rates: Rates, place: Place) -> list[SharedArtefact]:
    """What these runs stand on, made at ``place`` where it is not here."""
    users: dict[str, list[RunSpec]] = {}
    nodes: dict[str, StageNode] = {}
    groups = alike(specs)
    for group in groups:
        for node in stage_graph(group[0], catalog):
            users.setdefault(node.key, []).extend(group)
            nodes[node.key] = node
    missing = stage_needs([group[0] for group in groups], catalog)
    found = []
    for key, node in nodes.items():
        made = made_of_kind(node, data_root() / "artefacts")
        cost = (time_of(node, made, place) or _published(node, catalog, rates.paper, place) or Cost()).on(place.gpus)
        found.append(SharedArtefact(node.label, tuple(dict.fromkeys(spec.variant for spec in users[key])),
                                    len(users[key]), key not in missing, cost.hours, cost.gpus, cost.source,
                                    size_of_artefact(made)))
    return found


def _published(node: StageNode, catalog: Catalog, paper: Path | None, place: Place) -> Cost | None:
    """What a publication reports of a stage."""
    names = names_of(node.method, catalog)
    for row in published_hours(paper):
        if row["method"] in names and (row["scale"], row["stage"]) == (node.scale, node.stage.name) and place.has(row):
            return Cost(float(row["hours"]), int(row["gpus"]), _reported(row, node.method))
    return None


def _reported(row: Mapping[str, Any], method: str) -> str:
    """Where reported hours are from, and of which method where it is another one."""
    return ("" if row["method"] == method else f"as {row['method']}: ") + str(row["source"])


def artefact_lines(artefacts: Sequence[SharedArtefact], profile: str | None = None) -> list[str]:
    """A line for each, whether it is here or what it takes, and one for all that are to be made; []: there is none.

    Args:
        profile: of the jobs that make them, where it is not the runs' own.
    """
    if not artefacts:
        return []
    lines = ["made once" + (f", by jobs of profile {profile}:" if profile else ":")]
    for one in artefacts:
        on = f" on {counted(one.gpus, 'GPU')}" if one.gpus else ""
        state = "here" if one.there else "to be made, time not known" if one.hours is None else (
            f"to be made, {_gpu_hours(one)}{_hours(one.hours)}{on} ({one.source})")
        lines.append(f"  {one.label}, for {counted(one.runs, 'run')} of {_some(one.variants)}: {state}")
    made = [one for one in artefacts if not one.there]
    known = [(one.hours, one.gpus) for one in made if one.hours is not None]
    if known:
        gpu = sum(hours * gpus for hours, gpus in known)
        lines.append(f"  together {_hours(sum(hours for hours, _ in known))}"
                     + (f", {gpu:,.0f} GPU-hours" if gpu else "") + f" for {len(known)} of {len(made)} to be made")
    return lines


def _gpu_hours(one: SharedArtefact) -> str:
    return f"{one.hours * one.gpus:,.3g} GPU-hours, " if one.hours and one.gpus else ""


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"


def _some(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
