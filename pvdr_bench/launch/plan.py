"""What a command would do: which runs, how far each one is, and what it costs. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pvdr_bench.algorithms.registry import learns_by_budget
from pvdr_bench.catalog.catalog import Catalog
from pvdr_bench.catalog.experiment import Experiment
from pvdr_bench.catalog.mixture import split_videos
from pvdr_bench.catalog.problems import unknown
from pvdr_bench.catalog.resolve import PROTOCOL_PREFIX
from pvdr_bench.catalog.seeds import Texts, parse_seeds, split_names
from pvdr_bench.catalog.specs import RunSpec, written_spec
from pvdr_bench.errors import CatalogError, ChangedError, UsageError
from pvdr_bench.runs.archive import archived_runs
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.folders import place_of
from pvdr_bench.runs.paths import ARCHIVE


def grid(catalog: Catalog, methods: Sequence[str], tasks: Sequence[str], seeds: Texts, scale: str,
         protocol: str | None, videos: Sequence[str], overrides: Sequence[str]) -> list[RunSpec]:
    """All runs of a command, each once, in the order given.

    Raises:
        UsageError, CatalogError: a name, key or value that does not exist or does not fit.
    """
    first, *more = parse_seeds(seeds)
    specs = []
    for method in split_names(methods):
        for task in split_names(tasks):
            for corpus in split_videos(videos) or (None,):
                one = catalog.resolve(method, task, first, scale, protocol, corpus, overrides)
                specs += [one, *_reseeded(one, more, catalog)]
    unique = {str(spec.path("")): spec for spec in specs}  # a method without videos is one run, whatever the corpora
    return list(unique.values())


def _reseeded(spec: RunSpec, seeds: Sequence[int], catalog: Catalog) -> list[RunSpec]:
    """The same run with other seeds: resolving each anew took most of the time of a large plan."""
    spread = catalog.method(spec.method).pretrain_seeds if seeds and spec.corpus else 1
    return [spec.model_copy(update={"seed": seed, "pretrain_seed": seed % spread}) for seed in seeds]


def asked_runs(catalog: Catalog, *, experiment: str | None, methods: Texts | None, tasks: Texts | None,
               seeds: Texts | None, scale: str | None, default_scale: str, protocol: str | None, videos: Texts | None,
               overrides: Sequence[str]) -> list[RunSpec]:
    """The runs of a command: methods x tasks, or a named experiment's grid with what the command changes in it.

    Raises:
        UsageError: neither or both were given. CatalogError: a name, key or value that does not exist.
    """
    if experiment is None:
        missing = [name for name, value in (("--methods", methods), ("--tasks", tasks)) if not value]
        if missing:
            raise UsageError(f"{' and '.join(missing)} must be given, or --experiment",
                             hint="for example --method pvdr --task reach --seeds 5, or --experiment fig4")
        return grid(catalog, split_names(methods), split_names(tasks), seeds or "1", scale or default_scale,
                    protocol, split_videos(videos), overrides)
    if methods or tasks or videos:
        raise UsageError("an experiment names its methods, tasks and videos itself", where="--experiment",
                         hint="leave the others out, or leave --experiment out")
    return merged(experiment_runs(catalog, named, seeds=seeds, scale=scale, default_scale=default_scale,
                                  protocol=protocol, overrides=overrides)
                  for named in members(catalog, experiment))


def members(catalog: Catalog, name: str) -> list[Experiment]:
    """The experiments with a grid that a name stands for: itself, or those that it is made of, each once.

    Raises:
        CatalogError: no such experiment, or one is made of itself.
    """
    found: dict[str, Experiment] = {}

    def visit(name: str, way: tuple[str, ...]) -> None:
        experiment = catalog.experiment(name)
        if experiment.grid:
            found.setdefault(name, experiment)
        for index, inner in enumerate(experiment.experiments):
            place = catalog.place("experiments", name, ("experiments", str(index)))
            if inner in (*way, name):
                raise CatalogError(f"experiment {inner} is made of itself: {' -> '.join([*way, name, inner])}",
                                   where=place, hint=f"leave {inner} out of the experiments here")
            if inner not in catalog.experiments():
                raise unknown("experiment", inner, catalog.experiments(), place)
            visit(inner, (*way, name))

    visit(name, ())
    return list(found.values())


def experiment_runs(catalog: Catalog, experiment: Experiment, *, methods: Sequence[str] = (),
                    tasks: Sequence[str] = (), seeds: Texts | None = None, scale: str | None = None,
                    default_scale: str, protocol: str | None = None, videos: Sequence[str] = (),
                    overrides: Sequence[str] = ()) -> list[RunSpec]:
    """The runs of an experiment's grid, or those of some of its methods and tasks; each once, as the last part has it.

    Args:
        videos: corpora in place of the grid's; empty: the grid's.

    Raises:
        CatalogError, UsageError: a name, key or value that does not exist or does not fit.
    """
    specs = []
    for part in experiment.grid:
        names = [name for name in part.methods if not methods or name in methods]
        places = [name for name in part.tasks if not tasks or catalog.task_name(name) in tasks]
        specs += grid(catalog, names, places, seeds or part.seeds or experiment.seeds,
                      scale or experiment.scale or default_scale, protocol or experiment.protocol,
                      videos or part.videos, [*part.overrides, *overrides])
    return list({str(spec.path("")): spec for spec in specs}.values())


def variants_of(catalog: Catalog, experiment: Experiment, specs: Sequence[RunSpec], methods: Sequence[str] = (),
                overrides: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Names of a grid -> the variants that its runs are of, with what the grid's part and the command change in them.

    Usually one; several where a value that is given is some tasks' own already.

    Args:
        specs: the runs that were asked for. methods: the names that were asked for; empty: all.
    """
    found: dict[str, tuple[str, ...]] = {}
    for part in experiment.grid:
        texts = [text for text in (*part.overrides, *overrides) if not text.strip().startswith(PROTOCOL_PREFIX)]
        tasks = {catalog.task_name(task) for task in part.tasks}
        kinds = dict.fromkeys((spec.scale, spec.task.set) for spec in specs if spec.task.name in tasks)
        for name in (name for name in part.methods if not methods or name in methods):
            variants = [catalog.config(name, scale, task_set, texts).variant for scale, task_set in kinds]
            found[name] = tuple(dict.fromkeys((*found.get(name, ()), *variants)))
    return found


def merged(groups: Iterable[Sequence[RunSpec]]) -> list[RunSpec]:
    """The runs of several experiments, each once; one that they share has the largest budget that any of them asks."""
    found: dict[str, RunSpec] = {}
    for spec in (spec for group in groups for spec in group):
        known = found.setdefault(str(spec.path("")), spec)
        if spec.protocol.env_steps > known.protocol.env_steps:
            found[str(spec.path(""))] = spec
    return list(found.values())


@dataclass(frozen=True)
class RunPlan:
    """One run and how far it is.

    Attributes:
        path: the run's folder, or the copy of it that the results folder's archive has. state: new, continue, extend
            or done. reached: env_steps of its newest checkpoint. done: env_steps up to which it was done once.
    """

    spec: RunSpec
    path: Path
    state: str
    reached: int
    done: int = 0

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
        ahead = max(0, protocol.env_steps // protocol.eval_every - self.reached // protocol.eval_every)
        points = ahead + (self.reached == 0)  # none is ahead where the budget was lowered below the checkpoint
        episodes = points * protocol.eval_episodes + protocol.eval_final_episodes
        return episodes * protocol.episode_steps


def plan_runs(specs: Sequence[RunSpec], results: Path) -> list[RunPlan]:
    """How far each run is, all of which can go on to their budgets.

    Raises:
        ChangedError: one was made with another recipe, or with another budget that it learns by; nothing has been
            written.
        DataError: one is to be trained on and has no checkpoint.
    """
    archived = archived_runs(results)
    plans = [how_far(spec, results, archived) for spec in specs]
    for plan in plans:
        if plan.state != "done":
            _check_budget(RunDir(plan.path), plan.spec, results)
        if plan.state == "extend" and not plan.reached:
            raise RunDir(plan.path).no_way_on(_where(plan.path, plan.spec, results))
    return plans


def how_far(spec: RunSpec, results: Path, archived: Mapping[str, Path]) -> RunPlan:
    """How far a run is, whether or not it can go on; one that lies in the folder goes before that of its archive.

    Args:
        archived: see :func:`~pvdr_bench.runs.archive.archived_runs`.

    Raises:
        ChangedError: it was made with another recipe.
    """
    run_dir = RunDir(place_of(spec.path("").as_posix(), results, archived))
    run_dir.check(spec, _where(run_dir.path, spec, results))
    reached, done = max(run_dir.checkpoints.steps(), default=0), run_dir.done()
    if run_dir.is_done(spec.protocol.env_steps) and run_dir.failed() is None:
        state = "done"
    else:
        state = "extend" if done is not None else "continue" if reached else "new"
    return RunPlan(spec, run_dir.path, state, reached, done["env_steps"] if done else 0)


def _where(path: Path, spec: RunSpec, results: Path) -> str:
    """What an error calls a run's folder: people know an archive, and not the copy of it that is read."""
    return str(path) if path == spec.path(results) else f"{results / ARCHIVE}: {spec.path('').as_posix()}"


def _check_budget(run_dir: RunDir, spec: RunSpec, results: Path) -> None:
    """Refuse to train on to another budget where schedules follow it: that would be a run of neither.

    Raises:
        ChangedError: something was learned by another budget's schedules.
    """
    if not learns_by_budget(spec.algorithm) or (found := run_dir.read_run()) is None:
        return
    made = written_spec(found["spec"], str(run_dir.path / "run.yaml")).protocol.env_steps
    asked = spec.protocol.env_steps
    if made != asked and (run_dir.checkpoints.steps() or run_dir.done() is not None):
        raise ChangedError(
            f"this run was made for a budget of {made:,} env_steps, and {asked:,} are asked for: the schedules of "
            f"{spec.algorithm} follow the budget, so trained on it would be a run of neither",
            where=_where(run_dir.path, spec, results),
            hint=f"give the old budget, -o protocol.env_steps={made}, or choose another --results folder, or remove "
                 "the run")
