"""``pvdr-bench submit`` and ``retry``: runs become jobs of a cluster."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvdr_bench.cli.options import (
    Experiment,
    Json,
    Methods,
    Overrides,
    ProtocolOption,
    Results,
    Runs,
    ScaleOption,
    Seeds,
    Tasks,
    Videos,
)
from pvdr_bench.words import counted

if TYPE_CHECKING:
    from pvdr_bench.catalog.catalog import Catalog
    from pvdr_bench.catalog.profile import Profile
    from pvdr_bench.catalog.specs import RunSpec
    from pvdr_bench.launch.kinds import Kind
    from pvdr_bench.launch.plan import RunPlan
    from pvdr_bench.launch.submission import Plan
    from pvdr_bench.launch.watch import RunStatus

ProfileName = Annotated[str, typer.Option("--profile", metavar="P", help="The cluster, see: list profiles.")]
PretrainProfile = Annotated[str | None, typer.Option(
    "--pretrain-profile", metavar="P", help="Of the jobs that make artefacts; default: the same.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show jobs, cost and the sbatch script; submit nothing.")]


def submit(
    methods: Methods = None,
    tasks: Tasks = None,
    experiment: Experiment = None,
    seeds: Seeds = None,
    scale: ScaleOption = None,
    videos: Videos = None,
    protocol: ProtocolOption = None,
    override: Overrides = None,
    results: Results = None,
    profile: ProfileName = "a100",
    pretrain_profile: PretrainProfile = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Submit runs to SLURM and return at once: artefact stages first, the runs that need them after.

    What is done, running or queued is skipped; the same command continues what was stopped. Watch it with `status`.
    """
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.launch.plan import asked_runs
    from pvdr_bench.runs.paths import results_to_write
    from pvdr_bench.training.checks import check_corpora, check_runs, warnings

    catalog, root = load_catalog(), results_to_write(results)
    site, stages = profiles_of(catalog, profile, pretrain_profile)
    specs = asked_runs(catalog, experiment=experiment, methods=methods, tasks=tasks, seeds=seeds,
                       scale=scale, default_scale=site.scale, protocol=protocol, videos=videos,
                       overrides=override or [])
    check_runs(specs, catalog)
    check_corpora(specs, catalog)
    warned = warnings(specs)
    for warning in () if json_ else warned:
        typer.echo(f"warning: {warning}")
    facts = hand_in(specs, root, site, stages, dry_run, json_) | {"warnings": warned}
    if json_:
        typer.echo(json.dumps(facts))


def retry(
    runs: Runs = None,
    results: Results = None,
    profile: Annotated[str | None, typer.Option("--profile", metavar="P", help="Default: each run's own.")] = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Submit again what failed, was stopped, or whose job is silent or gone; nothing else."""
    from pvdr_bench.launch import watch
    from pvdr_bench.launch.cluster import queue
    from pvdr_bench.launch.control import cancel_and_wait
    from pvdr_bench.runs.paths import existing_results

    root = existing_results(results)
    named = watch.named_folders(runs, root) if runs else None
    known = queue()
    found = [status for status in watch.statuses(root, known, named)
             if status.state in watch.RETRIED and (runs or watch.was_submitted(root / status.run))]
    if not found:
        typer.echo("[]" if json_ else "nothing to retry")
        return
    silent = [status.job for status in found if status.state == "stale" and status.job is not None]
    if not dry_run:
        cancel_and_wait(silent)
    facts = [hand_in(specs, root, site, stages, dry_run, json_, silent)
             for site, stages, specs in _regroup(found, root, profile)]
    if json_:
        typer.echo(json.dumps(facts))


def _regroup(found: Sequence[RunStatus], root: Path, profile: str | None
             ) -> list[tuple[Profile, Profile, list[RunSpec]]]:
    """Runs by the profiles they go to: the one named, or those they were last submitted with.

    A run whose last job cannot be read is left out, with a line that says so.

    Raises:
        UsageError: a run was never submitted, and no profile is named.
    """
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.errors import DataError, UsageError
    from pvdr_bench.launch.jobs import read_spec
    from pvdr_bench.launch.records import RunRecord, Submission

    groups: dict[str, tuple[Profile, Profile, list[RunSpec]]] = {}
    for status in found:
        if profile is not None:
            key, pair = profile, profiles_of(load_catalog(), profile, None)
        else:
            try:
                record = RunRecord.read(root / status.run)
            except DataError as error:
                typer.echo(f"left out: {error}", err=True)
                continue
            if record is None:
                raise UsageError(f"{status.run} was never submitted", hint="name a cluster with --profile")
            own = Submission.of(record)
            key, pair = own.name, (own.profile("runs"), own.profile("stages"))
        groups.setdefault(key, (*pair, []))[2].append(read_spec(root / status.run))
    return list(groups.values())


def profiles_of(catalog: Catalog, profile: str, pretrain_profile: str | None) -> tuple[Profile, Profile]:
    """The profiles of runs and of stages.

    Raises:
        CatalogError: no such profile. UsageError: a run cannot be spread over several processes.
    """
    from pvdr_bench.errors import UsageError

    site = catalog.profile(profile)
    if site.processes > 1:
        raise UsageError(f"profile {profile} has {site.processes} processes in a job, and a run is one process",
                         hint=f"--pretrain-profile {profile} uses it for the artefacts; --profile names another")
    return site, catalog.profile(pretrain_profile) if pretrain_profile else site


def hand_in(specs: Sequence[RunSpec], root: Path, site: Profile, stages: Profile, dry_run: bool, quiet: bool,
        ended: Collection[str] = ()) -> dict[str, Any]:
    """Plan or submit, and tell people unless ``quiet``; returns the facts.

    Args:
        ended: jobs that are cancelled first; a plan is made as if they had been.

    Raises:
        ChangedError: see :func:`~pvdr_bench.launch.plan.plan_runs`; nothing has been written.
    """
    from pvdr_bench.launch.cluster import queue_if_any
    from pvdr_bench.launch.kinds import lines_of
    from pvdr_bench.launch.plan import plan_runs
    from pvdr_bench.launch.submission import make_plan
    from pvdr_bench.launch.submission import submit as hand_over

    reached = plan_runs(specs, root)  # refuses what was made with another recipe before anything is written
    note = ""
    if dry_run:
        known, note = queue_if_any()
        left = {key: job for key, job in (known or {}).items() if job.job_id not in ended}
        plan = make_plan(specs, root, site, stages, left)
    else:
        plan = hand_over(specs, root, site, stages, lambda text: None if quiet else typer.echo(text))
    kinds = _kinds(plan, reached)
    facts = facts_of(plan, kinds) | {"note": "; ".join(filter(None, (note, _broken_records(plan))))}
    if not quiet:
        show(plan, facts, lines_of(kinds), dry_run)
    return facts | ({"script": _script(plan)} if dry_run else {})


def _kinds(plan: Plan, reached: Sequence[RunPlan]) -> list[Kind]:
    """The runs of a plan by kind; ``reached``: how far all were before anything was submitted."""
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.launch.kinds import kinds_of
    from pvdr_bench.launch.rates import Place, all_rates

    catalog, handed = load_catalog(), {spec.path(plan.results) for spec in plan.runs}
    rates = all_rates(catalog, plan.results, Place.of(plan.profiles["runs"]))
    return kinds_of([one for one in reached if one.path in handed], catalog, plan.results, rates)


def facts_of(plan: Plan, kinds: Sequence[Kind]) -> dict[str, Any]:
    """A plan as JSON types: jobs, what is skipped, and the cost; hours and bytes are of what is known."""
    from pvdr_bench.launch.kinds import hours_of, without_hours

    runs, profile, unknown = plan.runs, plan.profiles["runs"], without_hours(kinds)
    hours = hours_of(kinds) if len(unknown) < len(kinds) else None
    sizes = [kind.runs * kind.size.bytes for kind in kinds if kind.size is not None]
    return {
        "submission": plan.submission.name if runs else None, "profile": profile.name, "runs": len(runs),
        "stages": [{"name": stage.name, "what": stage.need.label, "after": ", ".join(stage.after) or None,
                    "queued_as": stage.job_id} for stage in plan.stages],
        "arrays": [{"name": array.name, "jobs": len(array.elements), "after": array.after} for array in plan.arrays],
        "skipped": {state: len(specs) for state, specs in plan.skipped.items()},
        "kinds": [kind.facts() for kind in kinds],
        "run_hours": hours, "hours_unknown": unknown,
        "gpu_hours": None if hours is None else hours * profile.gpus / profile.runs_per_job,
        "disk_bytes": sum(sizes) if sizes else None,
        "disk_least": any(kind.size is None or kind.size.least for kind in kinds)}


def show(plan: Plan, facts: dict[str, Any], cost: Sequence[str], dry_run: bool) -> None:
    """For people; ``cost``: a line for what was measured alike."""
    skipped = ", ".join(f"{count} {state}" for state, count in facts["skipped"].items())
    verb = "would be submitted" if dry_run else "submitted"
    typer.echo(f"{counted(facts['runs'], 'run')} {verb} with profile {facts['profile']}"
               + (f"; skipped: {skipped}" if skipped else ""))
    if facts["note"]:
        typer.echo(f"  {facts['note']}")
    for stage in facts["stages"]:
        already = f", in the queue already as job {stage['queued_as']}" if stage["queued_as"] else ""
        after = f", after {stage['after']}" if stage["after"] else ""
        typer.echo(f"  {stage['name']}: {stage['what']}{after}{already}")
    for array in facts["arrays"]:
        after = f", after {array['after']}" if array["after"] else ""
        typer.echo(f"  {array['name']}: {array['jobs']} jobs{after}")
    if facts["runs"]:
        for line in _cost(facts, cost):
            typer.echo(f"  {line}")
    if dry_run and plan.arrays:
        typer.echo(f"\nthe script of {plan.arrays[0].name}:\n\n{_script(plan)}")
    elif facts["runs"]:
        typer.echo("watch them: pvdr-bench status")


def _broken_records(plan: Plan) -> str:
    """What people should know of runs whose last job is not known any longer; empty where there is none."""
    if not plan.broken:
        return ""
    return (f"job.json of {counted(len(plan.broken), 'run')} is broken, first that of {plan.broken[0]}: "
            "each gets a new one, and a job of before is not looked for in the queue")


def _cost(facts: dict[str, Any], lines: Sequence[str]) -> list[str]:
    """What was measured alike, and all of it together."""
    unknown = facts["hours_unknown"]
    if facts["run_hours"] is None:
        return [f"cost: unknown, since no run of {', '.join(unknown)} at this scale was measured on such a device"]
    total = f"together {facts['run_hours']:.1f} hours of runs"
    total += f", {facts['gpu_hours']:.1f} GPU-hours" if facts["gpu_hours"] else ""
    total += f" for {facts['runs'] - sum(unknown.values())} of {counted(facts['runs'], 'run')}" if unknown else ""
    if facts["disk_bytes"] is not None:
        total += f", {'at least ' * facts['disk_least']}{facts['disk_bytes'] / 2**30:.2f} GiB of disk"
    return ["cost:", *(f"  {line}" for line in lines), total]


def _script(plan: Plan) -> str:
    from pvdr_bench.launch.records import home
    from pvdr_bench.launch.submission import script

    return script(plan, plan.arrays[0], home(plan.results) / "snapshots" / "HASH") if plan.arrays else ""
