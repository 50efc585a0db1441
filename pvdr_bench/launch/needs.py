"""Which artefacts runs wait for, and the stage jobs that make them, those that others stand on first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pvdr_bench.catalog.catalog import Catalog
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.catalog.stage_graph import stage_graph
from pvdr_bench.runs.users import User


@dataclass(frozen=True)
class StageNeed:
    """An artefact that has to be made before some runs can start.

    Attributes:
        key: the same for all runs that need it. stage: its name. label: for people.
        spec: of one of the runs that need it.
        after: keys of the missing artefacts that come before it in some run: a run waits for its last one alone.
    """

    key: str
    stage: str
    label: str
    spec: RunSpec
    after: tuple[str, ...] = ()


def stage_needs(specs: Sequence[RunSpec], catalog: Catalog) -> dict[str, StageNeed]:
    """The artefacts that are missing, by key; those that others stand on first."""
    from pvdr_bench.training.stages import Stages

    found: dict[str, StageNeed] = {}
    asked: set[tuple[str, ...]] = set()
    for spec in specs:
        graph = stage_graph(spec, catalog)
        if (keys := tuple(node.key for node in graph)) in asked:
            continue
        asked.add(keys)
        missing = Stages(spec, catalog=catalog).missing()
        before: list[str] = []
        for node in (node for node in graph if node.stage.name in missing):
            need = found.get(node.key) or StageNeed(node.key, node.stage.name, node.label, spec)
            found[node.key] = replace(need, after=tuple(dict.fromkeys((*need.after, *before))))
            before.append(node.key)
    return _ordered(found)


def _ordered(found: Mapping[str, StageNeed]) -> dict[str, StageNeed]:
    """Each need behind all that it comes after."""
    done: dict[str, StageNeed] = {}
    while len(done) < len(found):
        ready = {key: need for key, need in found.items() if key not in done and all(k in done for k in need.after)}
        if not ready:
            raise RuntimeError("stages that wait for one another")  # graphs of runs list stages in one order
        done |= ready
    return done


def claim(specs: Sequence[RunSpec], user: User, catalog: Catalog) -> None:
    """Write down that runs will stand on the artefacts which are there, or are known by name, before their jobs start.

    A model whose tokenizer is yet to be made has no name yet: the job that makes it writes down its users.
    """
    from pvdr_bench.training.stages import Stages

    for spec in {tuple(node.key for node in stage_graph(spec, catalog)): spec for spec in specs}.values():
        Stages(spec, catalog=catalog, user=user).claim()


def need_of(spec: RunSpec, needs: Mapping[str, StageNeed], catalog: Catalog) -> str | None:
    """Key of the missing artefact that a run has to wait for; the last of a chain."""
    keys = [node.key for node in stage_graph(spec, catalog)] if needs else []
    return next((key for key in reversed(keys) if key in needs), None)
