"""``pvdr-bench reproduce``: an experiment planned, run or submitted, and drawn as its publication has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvdr_bench.cli.options import (
    Device,
    Fresh,
    Json,
    Methods,
    Overrides,
    ProtocolOption,
    Results,
    ScaleOption,
    Seeds,
    Tasks,
    Videos,
    choose_device,
    choose_scale,
)
from pvdr_bench.cli.output import console as make_console
from pvdr_bench.cli.reproduce_plan import facts_of, show
from pvdr_bench.cli.run import JobsOrCores, work
from pvdr_bench.cli.submit import PretrainProfile, hand_in, profiles_of

if TYPE_CHECKING:
    from rich.console import Console

    from pvdr_bench.catalog.catalog import Catalog
    from pvdr_bench.catalog.profile import Profile
    from pvdr_bench.errors import BenchError
    from pvdr_bench.launch.local import Job
    from pvdr_bench.launch.plan import RunPlan
    from pvdr_bench.launch.reproduction import Group, Reproduction
    from pvdr_bench.results.reproduce import Drawn


def reproduce(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="A figure or table, such as fig5 or table4; paper: "
                                                                   "all of the paper's. See: list experiments.")],
    tasks: Tasks = None,
    methods: Methods = None,
    seeds: Seeds = None,
    videos: Videos = None,
    scale: ScaleOption = None,
    protocol: ProtocolOption = None,
    override: Overrides = None,
    results: Results = None,
    profile: Annotated[str | None, typer.Option("--profile", metavar="P", help="Submit what is missing to this "
                                                "cluster; default: run it here.")] = None,
    pretrain_profile: PretrainProfile = None,
    jobs: JobsOrCores = None,
    device: Device = "auto",
    fresh: Fresh = False,
    draw_only: Annotated[bool, typer.Option("--draw-only", help="Draw what there is, and run nothing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show runs, shared artefacts, hours and disk; do "
                                                            "nothing.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder of figures and tables; default: "
                                                                          "RESULTS/reproduce.")] = None,
    json_: Json = False,
) -> None:
    """Plan an experiment, run or submit what is missing, and draw it as the paper has it, beside the published numbers.

    --tasks and --methods choose a part of it; --seeds and --videos stand in place of its own. The same command
    continues; half done, it draws what there is and says what is missing. Runs that several experiments share are made
    once.
    """
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.runs.paths import results_to_write

    _check_options(profile, {"--pretrain-profile": pretrain_profile is not None},
                   {"--jobs": jobs is not None, "--device": device != "auto", "--fresh": fresh})
    console, root, catalog = make_console(stderr=json_), results_to_write(results), load_catalog()
    site = profiles_of(catalog, profile, pretrain_profile) if profile else None
    chosen = choose_device(device).value if site is None else site[0].device
    size = choose_scale(scale, chosen).value if site is None or scale is not None else site[0].scale
    groups = _groups(catalog, name, tasks=tasks, methods=methods, seeds=seeds, videos=videos, scale=scale,
                     default_scale=size, protocol=protocol, overrides=override or [])
    facts, ended = {"experiment": name, "results": str(root)}, Ended()
    if dry_run or not draw_only:
        plan, count, cost = _planned(groups, catalog, root, site, chosen, jobs)
        facts = cost | facts
        if not json_:
            show(plan, facts, root, site[0] if site else None)
        if not dry_run:
            ended = _make(plan, root, console, site, json_,
                          lambda: work(console, plan.plans, root, chosen, count, fresh=fresh))
    if not dry_run:
        facts |= ended.facts | {"drawn": draw_all(groups, root, out or root / "reproduce", console)}
    if json_:
        typer.echo(json.dumps(facts))
    if ended.failure is not None:
        raise ended.failure
    raise typer.Exit(ended.code)


def _planned(groups: Sequence[Group], catalog: Catalog, root: Path, site: tuple[Profile, Profile] | None, device: str,
             jobs: int | None) -> tuple[Reproduction, int, dict[str, Any]]:
    """What is to be done and what it costs, how many runs go at a time here, and all of it as JSON types."""
    from pvdr_bench.launch.local import at_a_time
    from pvdr_bench.launch.rates import Place, all_rates
    from pvdr_bench.launch.reproduction import reproduction, with_obstacles
    from pvdr_bench.runs.provenance import cores

    place, stages = map(Place.of, site) if site else (Place(device.partition(":")[0]), None)
    plan = reproduction(with_obstacles(groups, catalog, root, site is not None), catalog, root,
                        all_rates(catalog, root, place), stages)
    count = jobs or (at_a_time(len(plan.todo), cores()) if device == "cpu" else 1)
    runs_site, stages_site = site or (None, None)
    return plan, count, facts_of(plan, place, runs_site, count, stages_site)


@dataclass(frozen=True)
class Ended:
    """How the making of runs ended; ``failure``: they were interrupted, or there was nowhere to submit them from."""

    code: int = 0
    failure: BenchError | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def _make(plan: Reproduction, root: Path, console: Console, site: tuple[Profile, Profile] | None, json_: bool,
          here: Callable[[], list[Job]]) -> Ended:
    """Submit what is missing, or make it ``here``. What ends this is no reason not to draw what there is.

    Raises:
        BenchError: nothing of it can be made here.
    """
    from pvdr_bench.errors import BenchError
    from pvdr_bench.launch.local import exit_code_of
    from pvdr_bench.training.checks import warnings

    if not plan.plans:
        raise next(group.obstacle for group in plan.groups if group.obstacle is not None)
    todo = [one.spec for one in plan.todo]
    if not todo:
        return Ended()
    for warning in () if json_ else warnings(todo):
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True, markup=False)
    try:
        if site is not None:
            return Ended(facts={"submitted": hand_in(todo, root, *site, False, json_)})
        return Ended(exit_code_of(here()))
    except BenchError as error:
        return Ended(failure=error)


def _check_options(profile: str | None, of_clusters: dict[str, bool], of_this_machine: dict[str, bool]) -> None:
    """Refuse options that would do nothing here.

    Raises:
        UsageError: one that is given belongs to a cluster and there is none, or to this machine and there is one.
    """
    from pvdr_bench.errors import UsageError

    for option in (name for name, given in of_clusters.items() if given and profile is None):
        raise UsageError("there is no cluster", where=option, hint="name it with --profile, or leave this out")
    for option in (name for name, given in of_this_machine.items() if given and profile is not None):
        raise UsageError(f"the runs go to {profile}, and this is of runs on this machine", where=option,
                         hint="leave it out, or leave --profile out")


def _groups(catalog: Catalog, name: str, *, tasks: Tasks, methods: Methods, seeds: Seeds, videos: Videos,
            overrides: Sequence[str], **asked: Any) -> list[Group]:
    """The experiments of a name with the runs that are asked for, those without any left out.

    Raises:
        UsageError: none of them has such a task or method.
        SettingsError: a figure or table names what does not exist.
    """
    from pvdr_bench.catalog.mixture import split_videos
    from pvdr_bench.catalog.problems import SettingsError
    from pvdr_bench.catalog.seeds import split_names
    from pvdr_bench.errors import UsageError
    from pvdr_bench.launch.plan import experiment_runs, members, variants_of
    from pvdr_bench.launch.reproduction import Group
    from pvdr_bench.launch.validate import drawn_problems

    wanted = {"--tasks": [catalog.task_name(task) for task in split_names(tasks)], "--methods": split_names(methods)}
    experiments = members(catalog, name)
    if wrong := [problem for one in experiments for problem in drawn_problems(catalog, one)]:
        raise SettingsError(wrong)  # and not once all has run
    known = {"--tasks": {catalog.task_name(task) for one in experiments for part in one.grid for task in part.tasks},
             "--methods": {method for one in experiments for part in one.grid for method in part.methods}}
    for option, names in wanted.items():
        if absent := [one for one in names if one not in known[option]]:
            raise UsageError(f"{name} has no {', '.join(absent)}", where=option,
                             hint=f"there is: {', '.join(sorted(known[option]))}")
    groups = []
    for experiment in experiments:
        specs = experiment_runs(catalog, experiment, methods=wanted["--methods"], tasks=wanted["--tasks"],
                                seeds=seeds, videos=split_videos(videos), overrides=overrides, **asked)
        if specs:
            groups.append(Group(experiment, tuple(specs),
                                variants_of(catalog, experiment, specs, wanted["--methods"], overrides)))
    if not groups:
        raise UsageError(f"no experiment of {name} has these methods in these tasks", where="--methods",
                         hint=f"leave --methods or --tasks out; see: pvdr-bench describe {name}")
    return groups


def draw_all(groups: Sequence[Group], root: Path, folder: Path, console: Console) -> list[dict[str, Any]]:
    """Draw every experiment from what there is now, and say what is missing; returns the same as JSON types."""
    from pvdr_bench.launch.plan import how_far
    from pvdr_bench.launch.reproduction import missing_lines
    from pvdr_bench.results.collect import collect
    from pvdr_bench.results.reproduce import Drawn, draw, summary
    from pvdr_bench.runs.archive import archived_runs

    archived = archived_runs(root)
    plans: dict[str, list[RunPlan]] = {one.experiment.name: [how_far(spec, root, archived) for spec in one.specs]
                                       for one in groups}
    found = collect(root) if root.is_dir() else None
    missing = {name: missing_lines(runs) for name, runs in plans.items()}
    if found is None:
        drawn: list[Drawn] = [Drawn(name, problem="there is no run yet") for name in plans]
    else:
        drawn = [draw(one.experiment, one.specs, found, folder, missing[one.experiment.name], one.variants)
                 for one in groups]
    console.print(summary(drawn, missing), highlight=False, soft_wrap=True, markup=False)
    return [{**asdict(one), "files": [str(path) for path in one.files], "missing": missing[one.experiment]}
            for one in drawn]
