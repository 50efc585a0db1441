"""``aggregate``, ``plot``, ``table`` and ``video``: what a results folder says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvdr_bench.cli.options import Device, Json
from pvdr_bench.cli.options import Results as Folder

if TYPE_CHECKING:
    import pandas as pd

    from pvdr_bench.results.collect import Results

Methods = Annotated[str | None, typer.Option("--methods", "--method", "-m", metavar="A,B", help="Variants; all.")]
Tasks = Annotated[str | None, typer.Option("--tasks", "--task", "-t", metavar="X,Y", help="Tasks; default: all.")]
Seeds = Annotated[str | None, typer.Option("--seeds", "--seed", "-s", metavar="SEEDS",
                                           help="5 means 0..4; 5, means seed 5; 3,7 those two; default: all.")]
Scale = Annotated[str | None, typer.Option("--scale", metavar="SCALE", help="Scales to show; default: all.")]
Videos = Annotated[str | None, typer.Option("--videos", metavar="C", help="Corpora (and methods without); all.")]
Protocol = Annotated[str | None, typer.Option("--protocol", metavar="P", help="Protocols, by name; default: all.")]
Overrides = Annotated[list[str] | None, typer.Option(
    "-o", "--override", metavar="KEY=VALUE", help="As given to run: the methods' variants with these changes.")]
Metric = Annotated[str, typer.Option("--metric", help="success, success_any, success_end or return.")]
Confidence = Annotated[float, typer.Option("--confidence", help="Level of the intervals.")]
Mixed = Annotated[bool, typer.Option("--allow-mixed", help="Show several protocols, each in rows of its own.")]
Reported = Annotated[str | None, typer.Option("--reported", help="Also show the numbers that PVDR's paper reports for "
                                              "these methods, A,B; drawn apart, in no statistic.")]


def _select(results: Path | None, methods: str | None, tasks: str | None, seeds: str | None, scale: str | None,
            videos: str | None, protocol: str | None, overrides: list[str] | None) -> Results:
    """The asked part of the results folder."""
    from pvdr_bench.catalog.seeds import parse_seeds, split_names
    from pvdr_bench.results.collect import collect
    from pvdr_bench.runs.paths import results_root

    found, names, corpora = collect(results_root(results)), split_names(methods), split_names(videos)
    if corpora and "none" in set(found.runs["corpus"]):  # methods without pre-training are on no corpus' side
        corpora = (*corpora, "none")
    return found.select(
        variant=_variants(names, split_names(scale), overrides or []), task=split_names(tasks),
        seed=parse_seeds(seeds) if seeds else None, scale=split_names(scale), corpus=corpora,
        protocol=split_names(protocol), protocol_hash=_hashes(found, overrides or []))


def _variants(names: Sequence[str], scales: Sequence[str], overrides: list[str]) -> list[str]:
    """The methods' names as run directories have them, with the changes of ``-o``."""
    changes = [text for text in overrides if not text.strip().startswith("protocol.")]
    if not changes and not any("@" in name for name in names):
        return list(names)
    from pvdr_bench.catalog import load_catalog
    from pvdr_bench.errors import UsageError

    if not names:
        raise UsageError("-o names variants of methods, and no method is given", where="-o", hint="add --method A,B")
    catalog = load_catalog()
    return sorted({catalog.config(name, scale, None, changes).variant
                   for name in names for scale in scales or ("cpu",)})


def _hashes(found: Results, overrides: list[str]) -> list[str] | None:
    """Protocols with the asked meaning; a budget (``protocol.env_steps``) changes no meaning and chooses nothing."""
    import yaml

    from pvdr_bench.catalog import Protocol as Schema
    from pvdr_bench.errors import UsageError

    asked = dict(text.strip().removeprefix("protocol.").split("=", 1) for text in overrides
                 if text.strip().startswith("protocol.") and "=" in text)
    meaning = Schema.keys("meaning")
    asked = {key.strip(): yaml.safe_load(value) for key, value in asked.items() if key.strip() in meaning}
    if not asked:
        return None
    kept = [key for key, protocol in found.protocols.items() if all(protocol.get(k) == v for k, v in asked.items())]
    if not kept:
        raise UsageError(f"no run has a protocol with {', '.join(f'{k}={v}' for k, v in asked.items())}",
                         where=str(found.root))
    return kept


def _reported(names: str | None, results: Results) -> pd.DataFrame | None:
    if names is None:
        return None
    from pvdr_bench.catalog.seeds import split_names
    from pvdr_bench.errors import UsageError
    from pvdr_bench.results.paper import published, reported

    tasks, methods = sorted(map(str, results.runs["task"].unique())), list(split_names(names))
    found = reported(tasks, methods)
    if found.empty:
        known = published()
        raise UsageError(f"no number is reported for {', '.join(methods)} on {', '.join(tasks)}",
                         hint=f"there is: {', '.join(sorted(known['method'].unique()))} on "
                              f"{', '.join(sorted(known['task'].unique()))}")
    return found


def _problems(results: Results) -> list[dict[str, str]]:
    return [{"run": problem.run, "kind": problem.kind, "detail": problem.detail} for problem in results.problems]


def _show_problems(results: Results) -> None:
    from pvdr_bench.results.series import left_out

    lines = left_out(results)
    if lines:
        typer.echo("not, or not wholly, included:")
        for line in lines:
            typer.echo(f"  {line}")


def aggregate(
    methods: Methods = None, tasks: Tasks = None, seeds: Seeds = None, scale: Scale = None, videos: Videos = None,
    protocol: Protocol = None, override: Overrides = None, results: Folder = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default: RESULTS/aggregate.")] = None,
    published: Annotated[Path | None, typer.Option(
        "--publish", metavar="DIR", help="Also copy finished runs to DIR, without checkpoints and hosts.")] = None,
    json_: Json = False,
) -> None:
    """Write all results as one tidy frame, parquet and CSV: a row per run and evaluation point."""
    from pvdr_bench.results.collect import write_frame
    from pvdr_bench.results.publish import publish

    found = _select(results, methods, tasks, seeds, scale, videos, protocol, override)
    copies = publish(found, published) if published else []
    files = write_frame(found, out or found.root / "aggregate")
    if json_:
        typer.echo(json.dumps({
            "files": {kind: str(path) for kind, path in files.items()}, "runs": len(found.runs),
            "points": len(found.points), "protocols": found.protocols, "problems": _problems(found),
            "published": [str(path) for path in copies]}))
        return
    typer.echo(f"{len(found.points)} evaluation points of {len(found.runs)} runs; protocols (by hash): "
               f"{', '.join(found.protocols) or 'none'}")
    for path in files.values():
        typer.echo(str(path))
    if published:
        typer.echo(f"{len(copies)} finished runs copied to {published}")
    _show_problems(found)


def plot(
    methods: Methods = None, tasks: Tasks = None, seeds: Seeds = None, scale: Scale = None, videos: Videos = None,
    protocol: Protocol = None, override: Overrides = None, results: Folder = None,
    metric: Metric = "success", confidence: Confidence = 0.95,
    out: Annotated[Path | None, typer.Option("--out", help="Without suffix; default: RESULTS/figures/METRIC.")] = None,
    individual: Annotated[bool, typer.Option("--individual", help="Draw every seed as a thin line too.")] = False,
    reported: Reported = None, allow_mixed: Mixed = False, json_: Json = False,
) -> None:
    """Draw learning curves, PDF and PNG, with the caption that belongs to them."""
    from pvdr_bench.results.figures import plot_curves, save

    found = _select(results, methods, tasks, seeds, scale, videos, protocol, override)
    figure = plot_curves(found, metric, confidence=confidence, individual=individual, allow_mixed=allow_mixed,
                         reported=_reported(reported, found))
    stem = out or found.root / "figures" / metric
    files = save(figure, stem.with_suffix("") if stem.suffix in (".pdf", ".png", ".txt") else stem)
    if json_:
        typer.echo(json.dumps({"files": {kind: str(path) for kind, path in files.items()}, "caption": figure.caption,
                               "problems": _problems(found)}))
        return
    typer.echo(figure.caption)
    typer.echo()
    for path in files.values():
        typer.echo(str(path))


def table(
    methods: Methods = None, tasks: Tasks = None, seeds: Seeds = None, scale: Scale = None, videos: Videos = None,
    protocol: Protocol = None, override: Overrides = None, results: Folder = None,
    metric: Metric = "success", confidence: Confidence = 0.95,
    format_: Annotated[str, typer.Option("--format", help="md, csv or tex (booktabs).")] = "md",
    statistic: Annotated[str, typer.Option("--statistic", help="Over all tasks: mean or iqm.")] = "mean",
    out: Annotated[Path | None, typer.Option("--out", help="File; default: the terminal.")] = None,
    reported: Reported = None, allow_mixed: Mixed = False, json_: Json = False,
) -> None:
    """Print or write the final evaluations with intervals; bold only where the intervals say so."""
    from pvdr_bench.errors import UsageError
    from pvdr_bench.results.tables import FORMATS, build_table
    from pvdr_bench.runs.files import atomic_write

    if format_ not in FORMATS:
        raise UsageError(f"there is no table format {format_!r}", where="--format",
                         hint=f"there is: {', '.join(FORMATS)}")
    found = _select(results, methods, tasks, seeds, scale, videos, protocol, override)
    built = build_table(found, metric, confidence=confidence, statistic=statistic, allow_mixed=allow_mixed,
                        reported=_reported(reported, found))
    text = FORMATS[format_](built)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(out, text.encode())
    if json_:
        typer.echo(json.dumps({"rows": _records(built), "caption": built.caption, "notes": list(built.notes),
                               "out": str(out) if out else None}))
    else:
        typer.echo(str(out) if out else text, nl=out is not None)


def _records(built: Any) -> list[dict[str, Any]]:
    """The table's cells as JSON types; an interval that does not exist is null."""
    from pvdr_bench.results.tables import to_frame

    records: list[dict[str, Any]] = json.loads(to_frame(built).to_json(orient="records", double_precision=15))
    return records


def video(
    run: Annotated[Path, typer.Argument(help="Run directory: RESULTS/method/task/corpus/scale/seed-N.")],
    out: Annotated[Path | None, typer.Option("--out", help=".mp4 or .gif; default: RUN/videos/episode-N.mp4.")] = None,
    episode: Annotated[int, typer.Option("--episode", min=0, help="Number of the evaluation episode.")] = 0,
    fps: Annotated[float, typer.Option("--fps", min=0.1, help="Decisions a second.")] = 10.0,
    device: Device = "cpu",
    json_: Json = False,
) -> None:
    """Play one evaluation episode of a run: the observation beside the plan it followed, and the goal."""
    from dataclasses import asdict

    from pvdr_bench.cli.options import choose_device
    from pvdr_bench.results.video import render_video

    made = render_video(run, out or run / "videos" / f"episode-{episode}.mp4", episode=episode, fps=fps,
                        device=choose_device(device).value)
    if json_:
        typer.echo(json.dumps({**asdict(made), "path": str(made.path)}))
        return
    outcome = "success" if made.success else "no success"
    typer.echo(f"evaluation episode {episode} (seed {made.eval_seed}) after {made.env_steps} env_steps: {outcome} in "
               f"{made.decisions} decisions" + ("" if made.with_plan else "; this method makes no plans"))
    typer.echo(str(made.path))
