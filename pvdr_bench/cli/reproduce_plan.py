"""What `reproduce` would do, as JSON types and for people: runs, shared artefacts, hours and disk."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pvdr_bench.catalog.profile import Profile
    from pvdr_bench.launch.rates import Place
    from pvdr_bench.launch.reproduction import Reproduction


def facts_of(plan: Reproduction, place: Place, site: Profile | None, jobs: int,
             stages: Profile | None = None) -> dict[str, Any]:
    """A plan as JSON types; hours and bytes are of what is known, and what is not is named beside them.

    Args:
        site, stages: the profiles of the runs' jobs and of those that make artefacts; None: all is done here.
    """
    from pvdr_bench.launch.kinds import hours_of, without_hours
    from pvdr_bench.launch.reproduction import budgets
    from pvdr_bench.runs.provenance import cores

    share = (site.gpus / site.runs_per_job) if site else float(place.device == "cuda")
    together = site.array_parallelism * site.runs_per_job if site else 1 if place.device == "cuda" else min(
        jobs, cores())  # rates are those of a run with a core or a GPU to itself
    hours = hours_of(plan.kinds)
    sizes = [(kind.runs, kind.size) for kind in plan.kinds]
    states = {state: sum(one.state == state for one in plan.plans) for state in ("new", "continue", "extend", "done")}
    return {
        "scale": plan.groups[0].specs[0].scale, "device": place.device, "profile": site.name if site else None,
        "pretrain_profile": stages.name if stages else None,
        "at_a_time": together,
        "experiments": [{"name": group.experiment.name, "runs": len(group.specs),
                         "obstacle": group.obstacle.message if group.obstacle else None,
                         "hint": group.obstacle.hint if group.obstacle else None,
                         "budgets": {str(steps): names for steps, names in budgets(group.specs).items()}}
                        for group in plan.groups],
        "runs": len(plan.plans), "asked": plan.asked, "shared": plan.asked - len(plan.plans), "states": states,
        "artefacts": [asdict(one) for one in plan.artefacts],
        "kinds": [kind.facts() for kind in plan.kinds],
        "hours": hours, "gpu_hours": hours * share, **_of_artefacts(plan),
        "hours_unknown": without_hours(plan.kinds),
        "disk_bytes": sum(runs * size.bytes for runs, size in sizes if size),
        "disk_least": any(size is None or size.least for _, size in sizes),
        "disk_unknown": {kind.title: kind.runs for kind in plan.kinds if kind.size is None},
    }


def _of_artefacts(plan: Reproduction) -> dict[str, Any]:
    """What the artefacts that are to be made cost together; hours and bytes are of those of which they are known."""
    made = [one for one in plan.artefacts if not one.there]
    return {
        "artefact_hours": sum(one.hours for one in made if one.hours is not None),
        "artefact_gpu_hours": sum(one.hours * one.gpus for one in made if one.hours is not None),
        "artefact_hours_unknown": sum(one.hours is None for one in made),
        "artefact_disk_bytes": sum(one.bytes for one in made if one.bytes is not None),
        "artefact_disk_unknown": sum(one.bytes is None for one in made),
    }


def show(plan: Reproduction, facts: dict[str, Any], root: Path, site: Profile | None) -> None:
    """The plan for people."""
    from pvdr_bench.launch.shared_artefacts import artefact_lines
    from pvdr_bench.words import counted

    where = f"profile {site.name} ({site.device})" if site else f"device {facts['device']}"
    typer.echo(f"{facts['experiment']}: scale {facts['scale']}, {where}, results in {root}")
    width = max(len(one["name"]) for one in facts["experiments"])
    for one in facts["experiments"]:
        typer.echo(f"  {one['name'].ljust(width)}  {counted(one['runs'], 'run')}"
                   + (f", not possible here: {one['obstacle']}" if one["obstacle"] else ""))
        if one["hint"] and one["obstacle"]:
            typer.echo(f"  {' ' * width}  -> {one['hint']}")
        if len(one["budgets"]) > 1:
            told = "; ".join(f"{int(steps):,} ({', '.join(names)})" for steps, names in one["budgets"].items())
            typer.echo(f"  {' ' * width}  budgets differ, and it is drawn up to the common one: {told} env_steps. "
                       f"-o protocol.env_steps={max(map(int, one['budgets']))} gives all the same")
    states = ", ".join(f"{count} {state}" for state, count in facts["states"].items() if count)
    shared = f"; {facts['shared']} more are shared and made once" if facts["shared"] else ""
    typer.echo(f"{counted(facts['runs'], 'run')}: {states or 'none'}{shared}")
    if plan.todo:
        elsewhere = facts["pretrain_profile"] if facts["pretrain_profile"] != facts["profile"] else None
        for line in artefact_lines(plan.artefacts, elsewhere):
            typer.echo(line)
        _show_cost(plan, facts)


def _show_cost(plan: Reproduction, facts: dict[str, Any]) -> None:
    from pvdr_bench.launch.kinds import lines_of
    from pvdr_bench.words import counted, disk_size

    typer.echo("hours of what is missing, one run after the other:")
    for line in lines_of(plan.kinds):
        typer.echo(f"  {line}")
    unknown, disk = facts["hours_unknown"], facts["disk_unknown"]
    gpu = f", {facts['gpu_hours']:,.0f} GPU-hours" if facts["gpu_hours"] else ""
    known = len(plan.todo) - sum(unknown.values())
    if known:
        typer.echo(f"together: {facts['hours']:,.1f} h{gpu} for {known} of {counted(len(plan.todo), 'run')}, "
                   f"at most {facts['at_a_time']} at a time: "
                   f"{facts['hours'] / max(1, min(facts['at_a_time'], known)):,.1f} h at best")
    if unknown:
        typer.echo(f"  without {', '.join(unknown)}: the first finished run of each in the results folder tells, "
                   "measured on the device itself")
    least = "at least " if facts["disk_least"] else ""
    size = least + disk_size(facts["disk_bytes"]) if facts["disk_bytes"] else "unknown"
    stages = f", and {disk_size(facts['artefact_disk_bytes'])} of artefacts" if facts["artefact_disk_bytes"] else ""
    typer.echo(f"disk: {size}{stages}" + (f", nothing is known of {', '.join(disk)}" if disk else ""))
