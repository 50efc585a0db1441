"""What a command would do: which runs, how far each one is, and what it costs. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pvdr_bench.catalog.catalog import Catalog
from pvdr_bench.catalog.seeds import parse_seeds, split_names
from pvdr_bench.catalog.specs import RunSpec
from pvdr_bench.runs.directory import RunDir, find_runs
from pvdr_bench.training.checks import check_protocol


def grid(catalog: Catalog, methods: str, tasks: str, seeds: str, scale: str, protocol: str, videos: str | None,
         overrides: Sequence[str]) -> list[RunSpec]:
    """All runs of a command, each once, in the order given.

    Raises:
        UsageError, CatalogError: a name, key or value that does not exist or does not fit.
    """
    corpora = split_names(videos) or (None,)
    specs = [catalog.resolve(method, task, seed, scale, protocol, corpus, overrides)
             for method in split_names(methods) for task in split_names(tasks) for corpus in corpora
             for seed in parse_seeds(seeds)]
    unique = {str(spec.path("")): spec for spec in specs}  # a method without videos is one run, whatever the corpora
    return list(unique.values())


@dataclass(frozen=True)
class RunPlan:
    """One run and how far it is."""

    spec: RunSpec
    path: Path
    state: str  # new | continue | extend | done
    reached: int  # env_steps of its newest checkpoint

    @property
    def env_steps(self) -> int:
        """Training steps that are still to be made."""
        return 0 if self.state == "done" else max(0, self.spec.protocol.env_steps - self.reached)

    @property
    def evaluation_steps(self) -> int:
        """Steps of the evaluations on the way and at the end."""
        protocol = self.spec.protocol
        if self.state == "done":
            return 0
        points = protocol.env_steps // protocol.eval_every - self.reached // protocol.eval_every + (self.reached == 0)
        episodes = points * protocol.eval_episodes + protocol.eval_final_episodes
        return episodes * protocol.episode_steps


def plan_runs(specs: Sequence[RunSpec], results: Path) -> list[RunPlan]:
    """How far each run is.

    Raises:
        CatalogError: a protocol that the loop cannot follow, such as a budget off the grid of sync points.
        ChangedError: one was made with another recipe; nothing has been written.
    """
    plans = []
    for spec in specs:
        check_protocol(spec)
        run_dir = RunDir(spec.path(results))
        run_dir.check(spec)
        reached = max(run_dir.checkpoints.steps(), default=0)
        if run_dir.is_done(spec.protocol.env_steps) and run_dir.failed() is None:
            state = "done"
        elif run_dir.done() is not None:
            state = "extend"
        else:
            state = "continue" if reached else "new"
        plans.append(RunPlan(spec, run_dir.path, state, reached))
    return plans


def known_rate(specs: Sequence[RunSpec], results: Path) -> float | None:
    """Seconds per env_step of finished runs of the same methods and scale, evaluation included; None if unknown."""
    wanted = {(spec.variant, spec.scale) for spec in specs}
    seconds = steps = 0.0
    for run_dir in find_runs(results) if results.is_dir() else []:
        done, scale_folder = run_dir.done(), run_dir.path.parent.name
        variant = run_dir.path.relative_to(results).parts[0]
        if done and any(variant == name and scale_folder.endswith(scale) for name, scale in wanted):
            seconds, steps = seconds + float(done["wall_seconds"]), steps + float(done["env_steps"])
    return seconds / steps if steps else None
