"""``aggregate`` and ``table``: what a results folder says, as frames and tables."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pvdr_bench.cli.options import Json, refuse_idle, refuse_idle_statistic
from pvdr_bench.cli.options import Results as Folder
from pvdr_bench.cli.selection import (
    At,
    Confidence,
    Methods,
    Metric,
    Mixed,
    Overrides,
    Paper,
    Protocol,
    Reported,
    Scale,
    Seeds,
    Tasks,
    Videos,
    cut,
    problems_of,
    published_numbers,
    select,
    show_problems,
)
from pvdr_bench.words import counted


class Columns(StrEnum):
    """What a table tells of."""

    success = "success"
    time = "time"
    cost = "cost"


def aggregate(
    methods: Methods = None, tasks: Tasks = None, seeds: Seeds = None, scale: Scale = None, videos: Videos = None,
    protocol: Protocol = None, override: Overrides = None, results: Folder = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default: RESULTS/aggregate.")] = None,
    published: Annotated[Path | None, typer.Option(
        "--publish", metavar="DIR", help="Also copy finished runs into DIR/runs.zip, without checkpoints and hosts, "
                                     "beside those that are there, and write the frame of them all.")] = None,
    json_: Json = False,
) -> None:
    """Write all results as one tidy frame, parquet and CSV: a row per run and evaluation point; and what is missing.

    Runs whose files are as they were the last time are not read again.
    """
    from pvdr_bench.results.collect import write_frame
    from pvdr_bench.results.publish import publish

    found = select(results, methods, tasks, seeds, scale, videos, protocol, override)
    files = write_frame(found, out or found.root / "aggregate")
    copies = publish(found, published) if published else []
    if json_:
        typer.echo(json.dumps({
            "files": {kind: str(path) for kind, path in files.items()}, "runs": len(found.runs),
            "read": found.read, "points": len(found.points), "protocols": found.protocols,
            "problems": problems_of(found), "published": copies}))
        return
    typer.echo(f"{len(found.points)} evaluation points of {counted(len(found.runs), 'run')}; protocols (by hash): "
               f"{', '.join(found.protocols) or 'none'}; new or changed since the last time: {found.read}")
    for path in files.values():
        typer.echo(str(path))
    if published:
        typer.echo(f"{counted(len(copies), 'finished run')} copied into {published / 'runs.zip'}")
    show_problems(found)


# Of ``table``: what says nothing about costs, and about the rest.
_IDLE = {Columns.time: ("metric", "statistic", "aggregates", "threshold", "reported", "paper"),
         Columns.cost: ("statistic", "aggregates", "threshold", "reported", "paper")}


def table(
    context: typer.Context,
    methods: Methods = None, tasks: Tasks = None, seeds: Seeds = None, scale: Scale = None, videos: Videos = None,
    protocol: Protocol = None, override: Overrides = None, results: Folder = None,
    metric: Metric = "success", confidence: Confidence = 0.95,
    format_: Annotated[str | None, typer.Option("--format", help="md, csv or tex (booktabs); default: what the suffix "
                                                "of --out says, else md.")] = None,
    statistic: Annotated[str, typer.Option("--statistic", help="Over all tasks: mean or iqm.")] = "mean",
    aggregates: Annotated[bool, typer.Option("--aggregates", help="Columns are mean, IQM, optimality gap, area under "
                                                                  "the curve and steps to --threshold, of all "
                                                                  "tasks.")] = False,
    columns: Annotated[Columns, typer.Option("--columns", help="success; time: decisions per second and shares of wall "
                                             "time; cost: hours and FLOP beside success.")] = Columns.success,
    threshold: Annotated[float, typer.Option("--threshold", help="Of --aggregates: the score to reach.")] = 0.5,
    out: Annotated[Path | None, typer.Option("--out", help="File; default: the terminal.")] = None,
    env_steps: At = None, reported: Reported = None, paper: Paper = False,
    allow_mixed: Mixed = False, json_: Json = False,
) -> None:
    """Print or write the final evaluations with intervals, or what they cost; bold only where the intervals say so."""
    from pvdr_bench.results.aggregate_table import build_aggregate_table
    from pvdr_bench.results.tables import FORMATS, build_table
    from pvdr_bench.runs.files import atomic_write

    form = _format(format_, out)
    if columns is not Columns.success:
        refuse_idle(context, _IDLE[columns], f"--columns {columns}")
    elif aggregates:  # published numbers are of single tasks
        refuse_idle(context, ("statistic", "reported", "paper"), "--aggregates")
    else:
        refuse_idle(context, ("threshold",), "a table of tasks", "add --aggregates")
    found = cut(select(results, methods, tasks, seeds, scale, videos, protocol, override), env_steps)
    printed = published_numbers(reported, paper, found)
    if columns is not Columns.success:
        built = _cost_table(columns, found, metric, confidence, allow_mixed)
    elif aggregates:
        built = build_aggregate_table(found, metric, threshold=threshold, confidence=confidence,
                                      allow_mixed=allow_mixed)
    else:
        built = build_table(found, metric, confidence=confidence, statistic=statistic, allow_mixed=allow_mixed,
                            reported=printed)
        refuse_idle_statistic(context, set(map(str, found.runs["task"])))  # a wrong name is told before
    text = FORMATS[form](built)
    if out is not None:
        atomic_write(out, text.encode())
    if json_:
        typer.echo(json.dumps({"rows": _records(built), "caption": built.caption, "notes": list(built.notes),
                               "out": str(out) if out else None}))
    else:
        typer.echo(str(out) if out else text, nl=out is not None)


def _format(asked: str | None, out: Path | None) -> str:
    """The table's format: as asked for, else of the file's suffix, else Markdown.

    Raises:
        UsageError: there is no such format, or the suffix says another one.
    """
    from pvdr_bench.errors import UsageError
    from pvdr_bench.results.tables import FORMATS

    there = f"there is: {', '.join(FORMATS)}"
    if asked is not None and asked not in FORMATS:
        raise UsageError(f"there is no table format {asked!r}", where="--format", hint=there)
    suffix = out.suffix.lower().removeprefix(".") if out is not None else ""
    if asked is None:
        if suffix and suffix not in FORMATS:
            raise UsageError(f"no table format has the suffix {suffix!r}", where="--out",
                             hint=f"{there}; or name one with --format")
        return suffix or "md"
    if suffix in FORMATS and suffix != asked:
        raise UsageError(f"the suffix {suffix!r} is of another format than --format {asked}", where="--out",
                         hint="leave --format out, or give the file its suffix")
    return asked


def _cost_table(columns: Columns, found: Any, metric: str, confidence: float, allow_mixed: bool) -> Any:
    from pvdr_bench.results.cost_tables import build_cost_table, build_time_table

    if columns is Columns.time:
        return build_time_table(found, confidence=confidence, allow_mixed=allow_mixed)
    return build_cost_table(found, metric, confidence=confidence, allow_mixed=allow_mixed)


def _records(built: Any) -> list[dict[str, Any]]:
    """The table's cells as JSON types; an interval that does not exist is null."""
    from pvdr_bench.results.tables import to_frame

    records: list[dict[str, Any]] = json.loads(to_frame(built).to_json(orient="records", double_precision=15))
    return records
