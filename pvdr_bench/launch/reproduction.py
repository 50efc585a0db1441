"""What `reproduce` would do: the runs of experiments, those that they share once, and what is in the way.

Imports torch only to look for artefacts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pvdr_bench.catalog.catalog import Catalog
from pvdr_bench.catalog.experiment import Experiment
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.catalog.stage_graph import stage_graph
from pvdr_bench.errors import BenchError
from pvdr_bench.launch.kinds import Kind, kinds_of
from pvdr_bench.launch.plan import RunPlan, merged, plan_runs
from pvdr_bench.launch.rates import Place, Rates
from pvdr_bench.launch.shared_artefacts import SharedArtefact, alike, shared_artefacts
from pvdr_bench.results.problems import REFERENCES
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.paths import data_root
from pvdr_bench.training.checks import check_corpora, check_runs, check_suites
from pvdr_bench.videos.requirements import find_store, wanted_frames


@dataclass(frozen=True)
class Group:
    """One experiment with the runs that were asked for.

    Attributes:
        variants: see :func:`~pvdr_bench.launch.plan.variants_of`. obstacle: why they cannot be made here.
    """

    experiment: Experiment
    specs: tuple[RunSpec, ...]
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    obstacle: BenchError | None = None


@dataclass(frozen=True)
class Reproduction:
    """The plan of a command.

    Attributes:
        plans: every run that can be made, once. asked: the same, counted in each experiment that has it.
    """

    groups: tuple[Group, ...]
    plans: tuple[RunPlan, ...]
    asked: int
    artefacts: tuple[SharedArtefact, ...]
    kinds: tuple[Kind, ...]

    @property
    def todo(self) -> list[RunPlan]:
        """What is not done."""
        return [plan for plan in self.plans if plan.state != "done"]


def with_obstacles(groups: Sequence[Group], catalog: Catalog, results: Path, submitted: bool) -> list[Group]:
    """The groups, each with what is in the way of those of its runs that are not done.

    Raises:
        ChangedError, DataError: see :func:`~pvdr_bench.launch.plan.plan_runs`.
    """
    found = []
    for group in groups:
        todo = [plan.spec for plan in plan_runs(group.specs, results) if plan.state != "done"]
        found.append(replace(group, obstacle=obstacle(todo, catalog, submitted) if todo else None))
    return found


def obstacle(specs: Sequence[RunSpec], catalog: Catalog, submitted: bool = False) -> BenchError | None:
    """Why runs cannot be made: a simulator or videos that are not here, settings that do not fit.

    Args:
        submitted: they go to a cluster, whose nodes need the simulator, and not this machine.
    """
    firsts = [group[0] for group in alike(specs)]
    try:
        check_runs(specs, catalog)
        if not submitted:
            check_suites(specs)
        _check_videos(firsts, catalog)
        check_corpora(firsts, catalog)
    except BenchError as error:
        return error
    return None


def _check_videos(specs: Sequence[RunSpec], catalog: Catalog) -> None:
    """Refuse runs on videos that have to be fetched or imported first; all of them in one error."""
    missing: dict[str, BenchError] = {}
    for node in {node.key: node for spec in specs for node in stage_graph(spec, catalog)}.values():
        for share in node.shares:
            try:
                find_store(share.corpus, node.image_size, data_root())
                if share.size:
                    wanted_frames(share.size, node.image_size, data_root())
            except BenchError as error:
                missing.setdefault(share.corpus, error)
    if missing:
        first = next(iter(missing.values()))
        likewise = f"; likewise {', '.join(list(missing)[1:])}" if len(missing) > 1 else ""
        raise type(first)(f"no videos of {', '.join(missing)} are here in the size that is asked for",
                          where=first.where, hint=f"{first.hint}{likewise}")


def reproduction(groups: Sequence[Group], catalog: Catalog, results: Path, rates: Rates,
                 stages: Place | None = None) -> Reproduction:
    """What is to be done for these experiments, and what is known of its cost.

    Args:
        stages: where artefacts will be made; None: where the runs are.

    Raises:
        ChangedError, DataError: see :func:`~pvdr_bench.launch.plan.plan_runs`.
    """
    possible = [group for group in groups if group.obstacle is None]
    plans = plan_runs(merged(group.specs for group in possible), results)
    todo = [plan for plan in plans if plan.state != "done"]
    return Reproduction(tuple(groups), tuple(plans), sum(len(group.specs) for group in possible),
                        tuple(shared_artefacts([plan.spec for plan in todo], catalog, rates,
                                               stages or rates.place)),
                        tuple(kinds_of(todo, catalog, results, rates)))


def budgets(specs: Iterable[RunSpec]) -> dict[int, list[str]]:
    """Budget in env_steps -> the methods that learn which have it."""
    found: dict[int, list[str]] = {}
    for spec in specs:
        if spec.algorithm not in REFERENCES and spec.variant not in found.setdefault(spec.protocol.env_steps, []):
            found[spec.protocol.env_steps].append(spec.variant)
    return dict(sorted((steps, names) for steps, names in found.items() if names))


# What is missing --------------------------------------------------------------------------------------------------


def missing_lines(plans: Sequence[RunPlan]) -> list[str]:
    """What is not done yet, a line for each method and corpus."""
    groups: dict[str, dict[str, list[str]]] = {}
    for (name, task), members in _by(plans).items():
        text = "; ".join(f"{_seeds(seeds)} {state}" for state, seeds in _by_state(members).items())
        if text:
            groups.setdefault(name, {}).setdefault(text, []).append(task)
    return [f"{name}: " + "; ".join(f"{', '.join(tasks)}: {text}" for text, tasks in texts.items())
            for name, texts in groups.items()]


def _by(plans: Sequence[RunPlan]) -> dict[tuple[str, str], list[RunPlan]]:
    found: dict[tuple[str, str], list[RunPlan]] = {}
    for plan in plans:
        corpus = f" ({plan.spec.corpus})" if plan.spec.corpus else ""
        found.setdefault((f"{plan.spec.variant}{corpus}", plan.spec.task.name), []).append(plan)
    return found


def _by_state(plans: Sequence[RunPlan]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for plan in plans:
        if plan.state == "done":
            continue
        reached = max(plan.reached, plan.done)
        state = f"at {reached:,} of {plan.spec.protocol.env_steps:,} env_steps" if reached else "not begun"
        if RunDir(plan.path).failed() is not None:
            state += ", failed"
        found.setdefault(state, []).append(plan.spec.seed)
    return found


def _seeds(seeds: Sequence[int]) -> str:
    whole = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return ("seed " if len(seeds) == 1 else "seeds ") + (
        f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds)))
