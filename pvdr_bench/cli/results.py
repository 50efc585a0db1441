"""``aggregate``, ``plot``, ``table`` and ``video``: what a results folder says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvdr_bench.cli.options import METHODS, OVERRIDE, SEEDS, TASKS, VIDEOS, Device, Json, Names, Run
from pvdr_bench.cli.options import Results as Folder
from pvdr_bench.words import counted

if TYPE_CHECKING:
    import pandas as pd

    from pvdr_bench.results.collect import Results
    from pvdr_bench.results.figures import Plot

Methods = Annotated[Names, typer.Option(*METHODS, metavar="A,B", help="Methods or variants; default: all.")]
Tasks = Annotated[Names, typer.Option(*TASKS, metavar="X,Y", help="Tasks; default: all.")]
Seeds = Annotated[Names, typer.Option(*SEEDS, metavar="SEEDS",
                                      help="5 means 0..4; 5, means seed 5; 3,7 those two; default: all.")]
Scale = Annotated[Names, typer.Option("--scale", metavar="SCALE", help="Scales to show; default: all.")]
Videos = Annotated[Names, typer.Option(*VIDEOS, metavar="C,D", help="Corpora (and methods without); default: all.")]
Protocol = Annotated[Names, typer.Option("--protocol", metavar="P", help="Protocols, by name; default: all.")]
Overrides = Annotated[list[str] | None, typer.Option(
    *OVERRIDE, metavar="KEY=VALUE", help="As given to run: the methods' variants with these changes.")]
Metric = Annotated[str, typer.Option("--metric", help="success, success_any, success_end or return.")]
Confidence = Annotated[float, typer.Option("--confidence", help="Level of the intervals.")]
At = Annotated[int | None, typer.Option("--env-steps", metavar="N", min=1, help="As if every run had ended there; "
                                       "default: each at its end.")]
Mixed = Annotated[bool, typer.Option("--allow-mixed", help="Show several protocols, each in rows of its own.")]
Reported = Annotated[Names, typer.Option("--reported", metavar="A,B", help="Also show the numbers published for these "
                                         "methods that belong to the rows' protocol (pvdr: PVDR's tables; apv: APV's "
                                              "curves); drawn apart, in no statistic.")]
Paper = Annotated[bool, typer.Option("--paper", help="The same for every method that has published numbers.")]


class Kind(StrEnum):
    """What a figure shows."""

    curves = "curves"
    bars = "bars"
    profile = "profile"
    aggregates = "aggregates"
    sweep = "sweep"


KINDS = {Kind.curves: "learning curves", Kind.bars: "final scores", Kind.profile: "share of runs above each score",
         Kind.aggregates: "mean, IQM, optimality gap, area under the curve", Kind.sweep: "final score against --key"}


class Axis(StrEnum):
    """What learning curves are drawn against."""

    env_steps = "env_steps"
    time = "time"
    gpu = "gpu"


class Width(StrEnum):
    """How wide a figure is."""

    auto = "auto"
    single = "single"
    double = "double"



def _select(results: Path | None, methods: Names, tasks: Names, seeds: Names, scale: Names, videos: Names,
            protocol: Names, overrides: list[str] | None) -> Results:
    """The asked part of the results folder."""
    from pvdr_bench.catalog.seeds import parse_seeds, split_names
    from pvdr_bench.results.collect import collect
    from pvdr_bench.runs.paths import existing_results

    found, names, corpora = collect(existing_results(results)), split_names(methods), split_names(videos)
    rows = found.select(
        variant=_variants(names, split_names(scale), overrides or []), task=split_names(tasks),
        seed=parse_seeds(seeds) if seeds else None, scale=split_names(scale), protocol=split_names(protocol),
        protocol_hash=_hashes(found, overrides or []))
    if corpora and "none" in set(rows.runs["corpus"]):  # methods without pre-training are on no corpus' side
        corpora = (*corpora, "none")
    return rows.select(corpus=corpora)


def _cut(found: Results, env_steps: int | None) -> Results:
    """All of it, or all of it up to ``env_steps``."""
    return found if env_steps is None else found.cut_at(env_steps)


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
    from pvdr_bench.catalog.protocol import Protocol as Schema
    from pvdr_bench.catalog.resolve import PROTOCOL_PREFIX, find_key, split_override, typed_value
    from pvdr_bench.errors import UsageError

    meaning, asked = Schema.keys("meaning"), {}
    for key, value in map(split_override, overrides):
        if key.startswith(PROTOCOL_PREFIX):
            path = find_key(key.removeprefix(PROTOCOL_PREFIX), Schema, "a protocol")
            if path[0] in meaning:
                asked[path[0]] = typed_value(value, Schema, path)
    if not asked:
        return None
    kept = [key for key, protocol in found.protocols.items() if all(protocol.get(k) == v for k, v in asked.items())]
    if not kept:
        raise UsageError(f"no run has a protocol with {', '.join(f'{k}={v}' for k, v in asked.items())}",
                         where=str(found.root))
    return kept


def _reported(names: Names, every: bool, results: Results, curves: bool = False) -> pd.DataFrame | None:
    """Published numbers to be drawn apart: of the methods named, or of all that belong to the rows' protocol.

    Args:
        curves: whole published curves, not their last points.

    Raises:
        UsageError: rows of several protocols, or nothing is published for these rows.
    """
    if not names and not every:
        return None
    from pvdr_bench.catalog.seeds import split_names
    from pvdr_bench.errors import UsageError
    from pvdr_bench.results.paper import beside, reported

    results.require_runs()
    tasks, protocols = (sorted(map(str, results.runs[column].unique())) for column in ("task", "protocol"))
    if len(protocols) > 1:
        raise UsageError("published numbers stand beside rows of one protocol, and these are of "
                         + ", ".join(protocols),
                         hint=f"add --protocol {protocols[0]}")
    methods = None if every else list(split_names(names))
    found = reported(tasks, methods, protocol=protocols[0], curves=curves)
    if found.empty:
        known = beside(protocols[0])
        there = "nothing" if known.empty else (f"{', '.join(sorted(known['method'].unique()))} on "
                                               f"{', '.join(sorted(known['task'].unique()))}")
        raise UsageError(f"no number is reported for {', '.join(methods or ['any method'])} on {', '.join(tasks)} "
                         f"under a protocol like {protocols[0]}", hint=f"there is: {there}")
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
        "--publish", metavar="DIR", help="Also copy finished runs into DIR/runs.zip, without checkpoints and hosts, "
                                     "beside those that are there, and write the frame of them all.")] = None,
    json_: Json = False,
) -> None:
    """Write all results as one tidy frame, parquet and CSV: a row per run and evaluation point; and what is missing.

    Runs whose files are as they were the last time are not read again.
    """
    from pvdr_bench.results.collect import write_frame
    from pvdr_bench.results.publish import publish

    found = _select(results, methods, tasks, seeds, scale, videos, protocol, override)
    files = write_frame(found, out or found.root / "aggregate")
    copies = publish(found, published) if published else []
    if json_:
        typer.echo(json.dumps({
            "files": {kind: str(path) for kind, path in files.items()}, "runs": len(found.runs),
            "read": found.read, "points": len(found.points), "protocols": found.protocols, "problems": _problems(found),
            "published": copies}))
        return
    typer.echo(f"{len(found.points)} evaluation points of {counted(len(found.runs), 'run')}; protocols (by hash): "
               f"{', '.join(found.protocols) or 'none'}; new or changed since the last time: {found.read}")
    for path in files.values():
        typer.echo(str(path))
    if published:
        typer.echo(f"{counted(len(copies), 'finished run')} copied into {published / 'runs.zip'}")
    _show_problems(found)


def plot(
    methods: Methods = None, tasks: Tasks = None, seeds: Seeds = None, scale: Scale = None, videos: Videos = None,
    protocol: Protocol = None, override: Overrides = None, results: Folder = None,
    kind: Annotated[Kind, typer.Option("--kind", help="; ".join(f"{k}: {text}" for k, text in KINDS.items()))] =
    Kind.curves,
    metric: Metric = "success", confidence: Confidence = 0.95,
    axis: Annotated[Axis, typer.Option("--axis", help="Of curves: env_steps, time (hours of training) or gpu "
                                                      "(GPU-hours).")] = Axis.env_steps,
    key: Annotated[str | None, typer.Option("--key", help="Of a sweep: the method's key that was varied.")] = None,
    threshold: Annotated[float, typer.Option("--threshold", help="Of aggregates: the score to reach.")] = 0.5,
    width: Annotated[Width, typer.Option("--width", help="single or double: a column or a page of a two-column "
                                                         "paper.")] = Width.auto,
    out: Annotated[Path | None, typer.Option("--out", help="Without suffix; default: RESULTS/figures/KIND-METRIC "
                                                           "(of curves: METRIC).")] = None,
    individual: Annotated[bool, typer.Option("--individual", help="Curves: draw every seed as a thin line "
                                                                  "too.")] = False,
    highlight: Annotated[str | None, typer.Option("--highlight", metavar="A,B", help="Of many rows: draw these in "
                                                  "colour and the others in grey.")] = None,
    env_steps: At = None, reported: Reported = None, paper: Paper = False,
    allow_mixed: Mixed = False, json_: Json = False,
) -> None:
    """Draw figures as PDF, SVG and PNG, with the caption that belongs to them."""
    from pvdr_bench.results.figures import save

    found = _cut(_select(results, methods, tasks, seeds, scale, videos, protocol, override), env_steps)
    common = {"metric": metric, "confidence": confidence, "allow_mixed": allow_mixed, "width": width.value}
    printed = _reported(reported, paper, found, curves=kind is Kind.curves)
    figure = _draw(found, kind, common, axis=axis, key=key, threshold=threshold, individual=individual,
                   highlight=highlight, reported=printed)
    stem = out or found.root / "figures" / (metric if kind is Kind.curves else f"{kind.value}-{metric}")
    files = save(figure, stem.with_suffix("") if stem.suffix in (".pdf", ".svg", ".png", ".txt") else stem)
    if json_:
        typer.echo(json.dumps({"files": {name: str(path) for name, path in files.items()}, "caption": figure.caption,
                               "problems": _problems(found)}))
        return
    typer.echo(figure.caption)
    typer.echo()
    for path in files.values():
        typer.echo(str(path))


def _draw(found: Results, kind: Kind, common: dict[str, Any], *, axis: Axis, key: str | None, threshold: float,
          individual: bool, highlight: str | None, reported: pd.DataFrame | None) -> Plot:
    """The figure of a kind; an option of another kind is refused, not ignored."""
    from pvdr_bench.catalog.seeds import split_names
    from pvdr_bench.errors import UsageError
    from pvdr_bench.results import figures

    given = {"--axis": axis is not Axis.env_steps, "--individual": individual, "--key": key is not None,
             "--threshold": threshold != 0.5, "--reported": reported is not None, "--highlight": highlight is not None}
    fits = {Kind.curves: ("--axis", "--individual", "--reported", "--highlight"), Kind.bars: ("--reported",),
            Kind.profile: ("--highlight",), Kind.aggregates: ("--threshold",),
            Kind.sweep: ("--key", "--highlight")}.get(kind, ())
    wrong = [name for name, there in given.items() if there and name not in fits]
    if wrong:
        raise UsageError(f"{', '.join(wrong)} says nothing about --kind {kind.value}", where="plot")
    if "--highlight" in fits:
        common |= {"highlight": split_names(highlight)}
    if kind is Kind.sweep:
        if key is None:
            raise UsageError("a sweep needs the key that was varied", where="--key", hint="for example --key lambda1")
        return figures.plot_sweep(found, key, **common)
    if kind is Kind.curves:
        return figures.plot_curves(found, axis=axis.value, individual=individual, reported=reported, **common)
    if kind is Kind.bars:
        return figures.plot_bars(found, reported=reported, **common)
    if kind is Kind.aggregates:
        return figures.plot_aggregates(found, threshold=threshold, **common)
    return figures.plot_profile(found, **common)


def table(
    methods: Methods = None, tasks: Tasks = None, seeds: Seeds = None, scale: Scale = None, videos: Videos = None,
    protocol: Protocol = None, override: Overrides = None, results: Folder = None,
    metric: Metric = "success", confidence: Confidence = 0.95,
    format_: Annotated[str, typer.Option("--format", help="md, csv or tex (booktabs).")] = "md",
    statistic: Annotated[str, typer.Option("--statistic", help="Over all tasks: mean or iqm.")] = "mean",
    aggregates: Annotated[bool, typer.Option("--aggregates", help="Columns are mean, IQM, optimality gap, area under "
                                                                  "the curve and steps to --threshold, of all "
                                                                  "tasks.")] = False,
    threshold: Annotated[float, typer.Option("--threshold", help="Of --aggregates: the score to reach.")] = 0.5,
    out: Annotated[Path | None, typer.Option("--out", help="File; default: the terminal.")] = None,
    env_steps: At = None, reported: Reported = None, paper: Paper = False,
    allow_mixed: Mixed = False, json_: Json = False,
) -> None:
    """Print or write the final evaluations with intervals; bold only where the intervals say so."""
    from pvdr_bench.errors import UsageError
    from pvdr_bench.results.aggregate_table import build_aggregate_table
    from pvdr_bench.results.tables import FORMATS, build_table
    from pvdr_bench.runs.files import atomic_write

    if format_ not in FORMATS:
        raise UsageError(f"there is no table format {format_!r}", where="--format",
                         hint=f"there is: {', '.join(FORMATS)}")
    found = _cut(_select(results, methods, tasks, seeds, scale, videos, protocol, override), env_steps)
    printed = _reported(reported, paper, found)
    if aggregates:
        if printed is not None:
            raise UsageError("published numbers are of single tasks, and have no aggregates", where="--aggregates")
        built = build_aggregate_table(found, metric, threshold=threshold, confidence=confidence,
                                      allow_mixed=allow_mixed)
    else:
        built = build_table(found, metric, confidence=confidence, statistic=statistic, allow_mixed=allow_mixed,
                            reported=printed)
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
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", help=".mp4 or .gif; default: RUN/videos/episode-N.mp4.")] = None,
    episode: Annotated[int, typer.Option("--episode", min=0, help="Number of the evaluation episode.")] = 0,
    fps: Annotated[float, typer.Option("--fps", min=0.1, help="Decisions a second.")] = 10.0,
    device: Device = "cpu",
    results: Folder = None,
    json_: Json = False,
) -> None:
    """Play one evaluation episode of a run: the observation beside the plan it followed, and the goal."""
    from dataclasses import asdict

    from pvdr_bench.cli.options import choose_device
    from pvdr_bench.playing.film import render_video
    from pvdr_bench.runs.names import find_run

    folder = find_run(run, results)
    made = render_video(folder, out or folder / "videos" / f"episode-{episode}.mp4", episode=episode, fps=fps,
                        device=choose_device(device).value)
    if json_:
        typer.echo(json.dumps({**asdict(made), "path": str(made.path)}))
        return
    outcome = "success" if made.success else "no success"
    typer.echo(f"evaluation episode {episode} (seed {made.eval_seed}) after {made.env_steps} env_steps: {outcome} in "
               f"{made.decisions} decisions" + ("" if made.with_plan else "; this method makes no plans"))
    typer.echo(str(made.path))
