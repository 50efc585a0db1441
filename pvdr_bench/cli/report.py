"""``report``: a results folder as one HTML file that opens from disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pvdr_bench.cli.options import Json, Names, refuse_idle_statistic
from pvdr_bench.cli.options import Results as Folder
from pvdr_bench.cli.selection import (
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
    published_numbers,
    select,
)
from pvdr_bench.words import counted

if TYPE_CHECKING:
    import pandas as pd

    from pvdr_bench.results.collect import Results
    from pvdr_bench.results.report.overview import Warned


def report(
    context: typer.Context,
    methods: Methods = None, tasks: Tasks = None, seeds: Seeds = None, scale: Scale = None, videos: Videos = None,
    protocol: Protocol = None, override: Overrides = None, results: Folder = None,
    metric: Metric = "success", confidence: Confidence = 0.95,
    statistic: Annotated[str, typer.Option("--statistic", help="Over all tasks: mean or iqm.")] = "mean",
    out: Annotated[Path | None, typer.Option("--out", help="File; default: RESULTS/report.html.")] = None,
    video_mb: Annotated[float, typer.Option("--video-mb", min=0.0, help="Megabytes of embedded videos and pictures, "
                                            "of all runs together; what is left out is said.")] = 40.0,
    reported: Reported = None, paper: Paper = False, allow_mixed: Mixed = False, json_: Json = False,
) -> None:
    """Write one HTML file for readers who ran nothing: numbers, curves, and how every run was made.

    Runs of several protocols get a chapter for each. The file needs no network. Hosts and local paths do not enter it.
    """
    from pvdr_bench.errors import UsageError
    from pvdr_bench.results.report import Options, build_report
    from pvdr_bench.runs.files import atomic_write

    if out is not None and out.suffix.lower() not in ("", ".html", ".htm"):
        raise UsageError(f"a report is HTML and ends in .html, not {out.suffix!r}", where="--out")
    found = select(results, methods, tasks, seeds, scale, videos, protocol, override)
    options = Options(metric, confidence, statistic, allow_mixed, _published(found, reported, paper),
                      media_total=int(video_mb * 1e6))
    if not found.runs.empty:  # of none the report says what is wrong
        refuse_idle_statistic(context, set(map(str, found.runs["task"])))
    made = build_report(found, options)
    path, data = out or found.root / "report.html", made.html.encode("utf-8")
    atomic_write(path, data)
    left_out = [{"run": m.run, "name": m.name, "path": m.path, "why": m.why} for m in made.left_out]
    if json_:
        typer.echo(json.dumps({
            "out": str(path), "bytes": len(data), "title": made.title, "runs": made.runs, "media": len(made.media),
            "left_out": left_out, "warnings": _warnings(made.warnings),
            "chapters": [{"protocols": list(chapter.results.protocols), "title": chapter.title, "runs": chapter.runs,
                          "warnings": _warnings(chapter.warnings)} for chapter in made.chapters]}))
        return
    for chapter in made.chapters:
        if chapter.name:
            typer.echo(f"chapter: {chapter.title}, {chapter.name}: {counted(chapter.runs, 'run')}")
        for warned in chapter.warnings:
            typer.echo(f"{'  ' if chapter.name else ''}{warned.title}: {warned.text}")
    for medium in left_out:
        typer.echo(f"left out: {medium['path']}: {medium['why']}")
    typer.echo(f"{made.title}: {counted(made.runs, 'run')}, {len(data) / 1e6:.2f} MB")
    typer.echo(str(path))


def _warnings(found: Sequence[Warned]) -> list[dict[str, str]]:
    return [{"title": warned.title, "text": warned.text} for warned in found]


def _published(found: Results, names: Names, every: bool) -> dict[str, pd.DataFrame]:
    """Published numbers by protocol hash; protocols for which nothing is published have none.

    Raises:
        UsageError: nothing is published for any of them.
    """
    from pvdr_bench.errors import UsageError

    out: dict[str, pd.DataFrame] = {}
    refused: UsageError | None = None
    for key in sorted(set(map(str, found.runs["protocol_hash"]))):
        try:
            numbers = published_numbers(names, every, found.select(protocol_hash=[key]))
        except UsageError as error:
            refused = refused or error
            continue
        if numbers is not None:
            out[key] = numbers
    if refused is not None and not out:
        raise refused
    return out
