"""``report``: a results folder as one HTML file that opens from disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pvdr_bench.cli.options import Json
from pvdr_bench.cli.options import Results as Folder
from pvdr_bench.cli.results import (
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
    _reported,
    _select,
)
from pvdr_bench.words import counted


def report(
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

    The file needs no network. Hosts and local paths do not enter it.
    """
    from pvdr_bench.results.report import Options, build_report
    from pvdr_bench.runs.files import atomic_write

    found = _select(results, methods, tasks, seeds, scale, videos, protocol, override)
    options = Options(metric, confidence, statistic, allow_mixed, media_total=int(video_mb * 1e6))
    published = _reported(reported, paper, found)
    if published is not None:
        options = Options(**{**options.__dict__, "reported": published})
    made = build_report(found, options)
    path, data = out or found.root / "report.html", made.html.encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, data)
    left_out = [{"run": m.run, "name": m.name, "why": m.why} for m in made.left_out]
    if json_:
        typer.echo(json.dumps({
            "out": str(path), "bytes": len(data), "title": made.title, "runs": made.runs, "media": len(made.media),
            "left_out": left_out, "warnings": [{"title": w.title, "text": w.text} for w in made.warnings]}))
        return
    for warned in made.warnings:
        typer.echo(f"{warned.title}: {warned.text}")
    for medium in left_out:
        typer.echo(f"left out: {medium['run']}/videos/{medium['name']}: {medium['why']}")
    typer.echo(f"{made.title}: {counted(made.runs, 'run')}, {len(data) / 1e6:.2f} MB")
    typer.echo(str(path))
