"""``pvdr-bench status``, ``logs`` and ``cancel``: watching and ending runs, wherever they are."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvdr_bench.cli.options import Json, Names, Results, Run, Runs
from pvdr_bench.cli.output import console as make_console
from pvdr_bench.cli.selection import Methods, Tasks
from pvdr_bench.words import counted

if TYPE_CHECKING:
    from rich.table import Table

    from pvdr_bench.launch.watch import RunStatus

States = Annotated[Names, typer.Option("--state", metavar="A,B", help="Only these states: running,failed,...")]


def status(
    runs: Runs = None, methods: Methods = None, tasks: Tasks = None, state: States = None, results: Results = None,
    watch: Annotated[float | None, typer.Option("--watch", metavar="SECONDS", min=1,
                                                help="Look again every so often, until all is done.")] = None,
    json_: Json = False,
) -> None:
    """Show stage, step, rate, success, time left, node and heartbeat of all runs, from their files and one squeue.

    States: done, running, stale (silent for more than three heartbeats), starting, queued, waiting (for an artefact),
    failed, blocked (its stage failed or was stopped), stopped, lost (its job is gone), new, broken.
    """
    from pvdr_bench.runs.paths import existing_results

    console, root = make_console(), existing_results(results)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = make_console(width=250)  # a line per run for grep
    while True:
        stages, found, note = look(root, methods, tasks, state, runs)
        if json_:
            typer.echo(json.dumps({"stages": [each.row() for each in stages], "runs": [each.row() for each in found],
                                   "note": note}))
        else:
            if watch is not None and console.is_terminal:
                console.clear()
            console.print(table_of([*stages, *found], console.width))
            console.print(summary(found) + (f"; {note}" if note else ""), highlight=False)
        if watch is None or not any(each.state in LIVING for each in (*stages, *found)):
            return
        time.sleep(watch)


LIVING = ("running", "stale", "starting", "queued", "waiting")


def look(root: Path, methods: Names, tasks: Names, state: Names, named: Names = None
         ) -> tuple[list[RunStatus], list[RunStatus], str]:
    """Stages and runs as they are now, and a word on what could not be asked.

    Raises:
        UsageError: a state or a run that does not exist.
    """
    from pvdr_bench.catalog.problems import unknown
    from pvdr_bench.catalog.seeds import split_names
    from pvdr_bench.errors import UsageError
    from pvdr_bench.launch import watch
    from pvdr_bench.launch.cluster import queue_if_any
    from pvdr_bench.runs.archive import run_name
    from pvdr_bench.words import did_you_mean, nearest

    wanted = split_names(state)
    for name in wanted:
        if name not in watch.STATES:
            error = unknown("state", name, watch.STATES)
            raise UsageError(error.message, where="--state", hint=error.hint)
    known, note = queue_if_any()
    names = (split_names(methods), split_names(tasks))
    dark: list[watch.RunStatus] = []  # folders that cannot be looked into may hold any run
    every = watch.named_folders(named, root, packed=True) if named else watch.run_folders(
        root, lambda name, reason: dark.append(watch.unreadable(name, reason)))
    places = {run: run_name(run, root) for run in every}
    for option, asked, there in zip(("--methods", "--tasks"), names, _names_of(places.values()), strict=True):
        if places and (absent := [name for name in asked if name not in there]):
            raise UsageError(f"no run here is of {', '.join(absent)}", where=option,
                             hint=f"{did_you_mean(nearest(absent[0], there))}there is: {', '.join(there)}")
    folders = [run for run, place in places.items() if _asked(place, *names)]
    runs = [each for each in (*watch.statuses(root, known, folders), *dark) if not wanted or each.state in wanted]
    stages = [each for each in ([] if named else watch.stages_of(root, known)) if not wanted or each.state in wanted]
    return stages, runs, note


def _names_of(places: Iterable[str]) -> tuple[list[str], list[str]]:
    """The methods and the tasks of runs' places."""
    parts = [(*place.split("/"), "", "")[:2] for place in places]
    return sorted({method for method, _ in parts}), sorted({task for _, task in parts if task})


def _asked(place: str, methods: Sequence[str], tasks: Sequence[str]) -> bool:
    """Whether a run's place, method/task/..., is asked for."""
    method, task, *_ = (*place.split("/"), "", "")
    return (not methods or method in methods) and (not tasks or task in tasks)


def summary(runs: Sequence[RunStatus]) -> str:
    """``12 runs: 10 done, 2 running``."""
    counts = Counter(run.state for run in runs)
    found = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    return f"{counted(len(runs), 'run')}: {found or 'none'}"


FOLDED = ("run", "note")  # columns that may take several lines
FIRST = ("run", "state", "env_steps", "success", "left", "note")
STYLES = {"failed": "red", "blocked": "red", "lost": "red", "broken": "red", "stale": "yellow", "stopped": "yellow",
          "done": "green", "queued": "dim", "waiting": "dim", "new": "dim"}


def table_of(rows: Sequence[RunStatus], width: int) -> Table:
    """One line per run, in the columns that a terminal of ``width`` has room for."""
    from pvdr_bench.launch import columns
    from pvdr_bench.launch.progress import duration

    cells = [{
        "run": row.run, "state": row.state, "phase": row.phase or "-",
        "env_steps": f"{row.env_steps:,}" + (f"/{row.budget:,}" if row.budget else ""),
        "steps/s": f"{row.rate:.0f}" if row.rate else "-",
        "success": "-" if row.success is None else f"{100 * row.success:.0f} %", "left": duration(row.seconds_left),
        "node": row.node or "-", "job": row.job or "-", "starts": str(row.restarts + 1) if row.restarts else "-",
        "silent": "-" if row.silent_seconds is None else f"{row.silent_seconds:.0f} s", "note": row.note or "-",
    } for row in rows]
    return columns.table_of(cells, [STYLES.get(row.state, "") for row in rows], width, FIRST, FOLDED)


def logs(
    run: Run,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Of the end of each file.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing what is added.")] = False,
    results: Results = None,
) -> None:
    """Print what a run's process and its job wrote: the end of each file, under its name."""
    from pvdr_bench.launch.control import log_files
    from pvdr_bench.runs.directory import RunDir
    from pvdr_bench.runs.names import find_run

    folder = find_run(run, results, packed=True)
    files = log_files(folder)
    if not files:
        typer.echo("this run printed nothing" if RunDir(folder).done() else "nothing has been printed yet")
    seen: dict[Path, int] = {}
    for path in files:
        data = path.read_bytes()
        seen[path] = len(data)
        typer.echo(f"==> {path}")
        typer.echo(b"\n".join(data.rstrip(b"\n").splitlines()[-lines:]).decode(errors="replace"))
    while follow:
        time.sleep(1)
        for path in log_files(folder):
            _print_new(path, seen)


def _print_new(path: Path, seen: dict[Path, int]) -> None:
    with path.open("rb") as file:
        file.seek(seen.get(path, 0))
        data = file.read()
    if data:
        seen[path] = seen.get(path, 0) + len(data)
        typer.echo(data.decode(errors="replace"), nl=False)


def cancel(
    runs: Runs = None,
    methods: Methods = None, tasks: Tasks = None, results: Results = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_: Json = False,
) -> None:
    """Take jobs out of the queue, and stop running ones; asks first. `submit` or `retry` goes on from checkpoints.

    A run leaves at its next step without saving: what it did since its last checkpoint (at the last sync point, every
    protocol.sync_every env_steps) is done again. The training of an artefact saves before it leaves.
    A job may do several runs (runs_per_job of its profile): all of them end with it, and are told before.
    """
    from pvdr_bench.errors import DataError, UsageError
    from pvdr_bench.launch.cluster import cancel as scancel
    from pvdr_bench.launch.cluster import queue
    from pvdr_bench.launch.records import RunRecord, Submission
    from pvdr_bench.launch.watch import named_folders, run_folders, stages_of
    from pvdr_bench.runs.archive import run_name
    from pvdr_bench.runs.paths import existing_results

    root = existing_results(results)
    if json_ and not yes:
        raise UsageError("--json cannot ask", hint="add --yes")
    names = _names(methods), _names(tasks)
    folders = named_folders(runs, root) if runs else [
        run for run in run_folders(root) if _asked(run_name(run, root), *names)]
    known = queue()
    jobs: dict[str, list[str]] = {}
    for run in folders:
        try:
            record = RunRecord.read(run)
        except DataError as error:
            typer.echo(f"left out: {error}", err=True)
            continue
        if record is not None and (entry := known.get((record.name, record.index))):
            jobs[entry.job_id] = [str(each) for each in Submission.of(record).runs_of(record) or [run]]
    if not (runs or methods or tasks):  # everything: the stages too
        jobs |= {stage.job: [stage.run] for stage in stages_of(root, known) if stage.job is not None}
    _confirm_and(scancel, jobs, yes, json_)


def _names(text: Names) -> tuple[str, ...]:
    from pvdr_bench.catalog.seeds import split_names

    return split_names(text)


def _confirm_and(scancel: Any, jobs: dict[str, list[str]], yes: bool, json_: bool) -> None:
    if not json_:
        for job, runs in jobs.items():
            typer.echo(f"job {job}: {', '.join(runs)}")
    if jobs and not yes and not typer.confirm(f"Cancel {counted(len(jobs), 'job')}?"):
        typer.echo("nothing was cancelled")
        return
    scancel(list(jobs))
    typer.echo(json.dumps({"cancelled": list(jobs), "runs": jobs}) if json_
               else f"{counted(len(jobs), 'job')} cancelled")
