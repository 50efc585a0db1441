"""``pvdr-bench run`` and ``evaluate``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pvdr_bench.cli.options import (
    Choice,
    Device,
    Experiment,
    Fresh,
    Json,
    Methods,
    Overrides,
    ProtocolOption,
    Results,
    Run,
    ScaleOption,
    Seeds,
    Tasks,
    Videos,
    choose_device,
    choose_scale,
)
from pvdr_bench.cli.output import console as make_console
from pvdr_bench.cli.pretrain import prepare
from pvdr_bench.errors import UsageError
from pvdr_bench.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from pvdr_bench.cli.pretrain import Unmade
    from pvdr_bench.launch.estimate import TimeLeft
    from pvdr_bench.launch.local import Job
    from pvdr_bench.launch.plan import RunPlan

JobsOrCores = Annotated[int | None, typer.Option("--jobs", "-j", metavar="N", min=1,
                                                 help="Runs at the same time; default: what keeps all cores busy.")]


def run(
    methods: Methods = None,
    tasks: Tasks = None,
    experiment: Experiment = None,
    seeds: Seeds = None,
    scale: ScaleOption = None,
    videos: Videos = None,
    protocol: ProtocolOption = None,
    override: Overrides = None,
    results: Results = None,
    jobs: JobsOrCores = None,
    device: Device = "auto",
    fresh: Fresh = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw RESULTS/figures/success.* and show the table, anew "
                                                      "whenever a run was evaluated.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and its cost.")] = False,
) -> None:
    """Train and evaluate methods in tasks; the same command continues.

    What is done is skipped, a larger budget extends (but for methods whose schedules follow it), and a run made with
    another recipe is refused with the difference.
    """
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.launch import plan as planning
    from pvdr_bench.launch.local import Job, at_a_time, exit_code_of
    from pvdr_bench.runs.paths import results_to_write
    from pvdr_bench.runs.provenance import cores
    from pvdr_bench.training.checks import check_corpora, check_runs, check_suites, warnings

    console, root, catalog = make_console(), results_to_write(results), load_catalog()
    chosen = choose_device(device)
    size = choose_scale(scale, chosen.value)
    specs = planning.asked_runs(catalog, experiment=experiment, methods=methods, tasks=tasks, seeds=seeds,
                                scale=scale, default_scale=size.value, protocol=protocol, videos=videos,
                                overrides=override or [])
    check_runs(specs, catalog)
    if scale is None and specs[0].scale != size.value:
        size = Choice(specs[0].scale, f"of the experiment {experiment}; --scale chooses another")
    plans = planning.plan_runs(specs, root)
    console.print(f"device {chosen.value} ({chosen.reason}), scale {size.value} ({size.reason}), results in {root}",
                  highlight=False, soft_wrap=True)
    if (note := scale_note(size.value)) is not None:
        console.print(note, highlight=False, soft_wrap=True)
    for warning in warnings(specs):
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True, markup=False)
    todo = [plan.spec for plan in plans if plan.state != "done"]
    count = jobs or (at_a_time(len(todo), cores()) if chosen.value == "cpu" else 1)
    show_plan(console, plans, count)
    if dry_run:
        show_hours(console, plans, root, chosen.value, count)
        check_suites(todo)  # the runs themselves are refused for the same before anything is made
        check_corpora(todo, catalog)
        return
    if not todo:
        if plot:
            show_results(console, root, [Job(plan.spec, plan.path, "skipped") for plan in plans])
        return
    check_suites(todo)
    done = work(console, plans, root, chosen.value, count, fresh=fresh, plot=plot)
    if plot and not exit_code_of(done):
        show_results(console, root, done)
    raise typer.Exit(exit_code_of(done))


def work(console: Console, plans: Sequence[RunPlan], root: Path, device: str, jobs: int, *, fresh: bool = False,
         plot: bool = False) -> list[Job]:
    """Make what is missing of the artefacts that runs stand on, then the runs that are not done, with the progress of
    all; returns every run with its outcome. One whose artefact cannot be made has failed, and the others go on.

    Raises:
        StorageError: nothing can be written to the results folder.
        Interrupted: a signal came before the first run began.
    """
    from pvdr_bench.launch.local import Together, Watcher, run_local
    from pvdr_bench.launch.progress import watcher_for
    from pvdr_bench.launch.redraw import Redraw
    from pvdr_bench.launch.worker import StopFlag
    from pvdr_bench.runs.paths import check_writable

    check_writable(root)
    stop = StopFlag().install()
    todo = [plan.spec for plan in plans if plan.state != "done"]
    lost = prepare(console, todo, device, fresh, stop, root, go_on=True).lost
    ready = [plan for plan in plans if str(plan.spec.path("")) not in lost]
    time_left = expect(console, ready, root, device, jobs, stop)
    with watcher_for(console, time_left) as progress:
        watcher: Watcher = Together(Redraw(root, progress.show), progress) if plot else progress
        made = {job.path: job for job in run_local([plan.spec for plan in ready], root, jobs, device, stop, watcher)}
    done = [made.get(plan.path) or _not_begun(plan, lost[str(plan.spec.path(""))]) for plan in plans]
    show_outcome(console, done)
    return done


def _not_begun(plan: RunPlan, why: Unmade) -> Job:
    """A run whose artefact could not be made."""
    from pvdr_bench.launch.local import Job

    return Job(plan.spec, plan.path, "failed", why.exit_code, f"not begun, as {why.label} could not be made")


def scale_note(scale: str) -> str | None:
    """What a newcomer must know of a scale whose numbers are no results; None for the others."""
    from pvdr_bench.catalog.scales import NO_RESULTS, SCALES

    return f"scale {scale}: {SCALES[scale]}{NO_RESULTS[scale]}" if scale in NO_RESULTS else None


def show_plan(console: Console, plans: Sequence[RunPlan], jobs: int) -> None:
    """How far the runs are, and the work that is left."""
    states = {name: sum(plan.state == name for plan in plans) for name in ("new", "continue", "extend", "done")}
    train, evaluation = sum(plan.env_steps for plan in plans), sum(plan.evaluation_steps for plan in plans)
    found = ", ".join(f"{count} {name}" for name, count in states.items() if count)
    console.print(f"{counted(len(plans), 'run')}: {found}", highlight=False)
    if not train + evaluation:
        return
    console.print(f"to do: {train:,} env_steps of training and {evaluation:,} of evaluation, {jobs} at a time",
                  highlight=False, soft_wrap=True)


def show_hours(console: Console, plans: Sequence[RunPlan], root: Path, device: str, jobs: int) -> None:
    """What the work takes: the artefacts that it stands on, and each kind of run at its own rate; of a kind that was
    never measured it is not known."""
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.launch.kinds import hours_of, kinds_of, lines_of, without_hours
    from pvdr_bench.launch.progress import duration
    from pvdr_bench.launch.rates import Place, all_rates
    from pvdr_bench.launch.shared_artefacts import artefact_lines, shared_artefacts
    from pvdr_bench.runs.provenance import cores

    catalog, place = load_catalog(), Place(device.partition(":")[0])
    rates = all_rates(catalog, root, place)
    kinds = kinds_of(plans, catalog, root, rates)
    todo = [plan.spec for plan in plans if plan.state != "done"]
    lines = [*artefact_lines(shared_artefacts(todo, catalog, rates, place)), *(f"  {line}" for line in lines_of(kinds))]
    unknown, count = without_hours(kinds), sum(kind.runs for kind in kinds)
    if known := count - sum(unknown.values()):
        share = 1 if place.device == "cuda" else min(jobs, known, max(1, cores()))  # rates are of a core or a GPU alone
        lines.append(f"together about {duration(3600 * hours_of(kinds) / share)}"
                     + (f" for {known} of {counted(count, 'run')}, without {', '.join(unknown)}" if unknown else ""))
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def expect(console: Console, plans: Sequence[RunPlan], root: Path, device: str, jobs: int,
           stop: Callable[[], bool]) -> TimeLeft:
    """Say how long all of it takes on this machine: as finished runs of its kind went, else by a short measurement."""
    from pvdr_bench.bench.pace import measure
    from pvdr_bench.catalog.catalog import load_catalog
    from pvdr_bench.launch.estimate import PROBE_SECONDS, PROBE_SHARE, Rate, TimeLeft, key_of
    from pvdr_bench.launch.progress import duration
    from pvdr_bench.launch.rates import Place, Rates
    from pvdr_bench.runs.provenance import cores
    from pvdr_bench.training.stages import Stages

    todo = [plan for plan in plans if plan.state != "done"]
    share = jobs if device.startswith("cuda") else max(1, cores())  # what runs at the same time divide among them
    alone = min(1.0, share / jobs)  # finished runs shared it in the same way
    measured = Rates(load_catalog(), root, Place(device.partition(":")[0]))
    found = {key: measured.here(*key) for key in dict.fromkeys(key_of(plan.spec) for plan in todo)}
    rates = {key: Rate(known.per_step * alone, 0.0) for key, known in found.items() if known and known.per_step}
    new = [plan for plan in todo if key_of(plan.spec) not in rates]
    if new:
        steps = sum(plan.env_steps + plan.evaluation_steps for plan in new)
        console.print("measuring how fast they go on this machine", highlight=False)
        workers = max(1, cores() // max(1, min(jobs, len(todo))))
        rates |= measure((plan.spec for plan in new),
                         lambda spec: Stages(spec, device, stop, env_workers=workers).pieces()[0],
                         min(max(steps * PROBE_SHARE, PROBE_SECONDS[0]), PROBE_SECONDS[1]), stop,
                         lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False))
    left = TimeLeft(plans, rates, jobs, share)
    if (seconds := left.at_start()) is not None:
        how = "a short measurement" if new else "finished runs"
        bound = "about" if left.whole else "more than"
        console.print(f"all of it takes {bound} {duration(seconds)} on this machine, by {how}"
                      + ("" if left.whole else " in which no update was due"), highlight=False, soft_wrap=True)
    return left


def show_results(console: Console, root: Path, jobs: Sequence[Job]) -> None:
    """Draw the curve of finished runs and print their table."""
    from pvdr_bench.launch.redraw import Redraw

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    redraw = Redraw(root, say)
    redraw.update(jobs)
    say(f"\n{redraw.final_table(jobs)}")


def show_outcome(console: Console, jobs: Sequence[Job]) -> None:
    """A line per run."""
    from pvdr_bench.runs.cost import cost_words, read_cost
    from pvdr_bench.runs.directory import RunDir

    for job in jobs:
        run = RunDir(job.path)
        done, cost = run.done(), ""
        if job.state in ("done", "skipped") and done is not None:
            text = (f"success {100 * done['success_any']:.0f} % at any step, {100 * done['success_end']:.0f} % at the "
                    f"end, of {done['episodes']} episodes")
            cost = cost_words(read_cost(run, job.spec.protocol.action_repeat))
        else:
            text = job.message
        console.print(f"{job.state:>8}  {job.label}: {text}", highlight=False, soft_wrap=True, markup=False)
        if cost:
            console.print(f"{'':8}  {cost}", highlight=False, soft_wrap=True, markup=False)


def evaluate(
    run: Run,
    episodes: Annotated[int | None, typer.Option(min=1, help="How many; default: the protocol's final number.")] = None,
    mean_policy: Annotated[bool, typer.Option("--mean-policy", help="The policy's mean action in place of a sampled "
                                                                    "one, for methods that have it. In a frozen "
                                                                    "instance the episodes are then much the same.")
                           ] = False,
    action_std: Annotated[float | None, typer.Option(min=0.0, help="Standard deviation of actions around the policy's "
                                                                   "mean, in place of the policy's own, for methods "
                                                                   "that have it: so rows of unlike noise compare.")
                          ] = None,
    device: Device = "auto",
    results: Results = None,
    json_: Json = False,
) -> None:
    """Play evaluation episodes with a run's newest checkpoint; the run's own files stay as they are."""
    from pvdr_bench.api import load_run
    from pvdr_bench.launch.worker import StopFlag
    from pvdr_bench.training.again import evaluate_again, pieces_here, told_of, with_eval_std, with_mean_policy
    from pvdr_bench.training.stages import Stages

    if mean_policy and action_std is not None:
        raise UsageError("--mean-policy and --action-std are two ways to act", hint="give one of them")
    loaded, stop = load_run(run, results), StopFlag().install()
    spec = with_mean_policy(loaded.spec) if mean_policy else loaded.spec
    spec = with_eval_std(spec, action_std) if action_std is not None else spec
    stages = Stages(spec, choose_device(device).value, stop)
    env_steps, played = evaluate_again(loaded.dir, spec, lambda: pieces_here(loaded.dir, stages), episodes, stop)
    told = told_of(run, spec, env_steps, played)
    if json_:
        typer.echo(json.dumps(told))
        return
    std = told["eval_std"]
    acted = "" if std is None else " with the mean policy" if std == 0 else f" with actions of std {std:g}"
    typer.echo(f"{run} at {env_steps:,} env_steps, {told['episodes']} episodes{acted}: success "
               f"{100 * told['success_any']:.1f} % at any step, {100 * told['success_end']:.1f} % at the end; "
               f"return {told['return']:.2f}")
