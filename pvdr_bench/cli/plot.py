"""``plot``: figures of a results folder."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvdr_bench.cli.options import Json, refuse_idle
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
)

if TYPE_CHECKING:
    import pandas as pd

    from pvdr_bench.results.collect import Results
    from pvdr_bench.results.figures import Plot


class Kind(StrEnum):
    """What a figure shows."""

    curves = "curves"
    bars = "bars"
    profile = "profile"
    aggregates = "aggregates"
    sweep = "sweep"


KINDS = {Kind.curves: "learning curves", Kind.bars: "final scores", Kind.profile: "share of runs above each score",
         Kind.aggregates: "mean, IQM, optimality gap, area under the curve", Kind.sweep: "final score against --key"}


# Options that some kinds of figure have: parameter -> the kinds.
FITS = {"axis": (Kind.curves,), "individual": (Kind.curves,), "key": (Kind.sweep,), "threshold": (Kind.aggregates,),
        "reported": (Kind.curves, Kind.bars), "paper": (Kind.curves, Kind.bars),
        "highlight": (Kind.curves, Kind.profile, Kind.sweep)}


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


def plot(
    context: typer.Context,
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

    refuse_idle(context, [name for name, kinds in FITS.items() if kind not in kinds], f"--kind {kind.value}")
    found = cut(select(results, methods, tasks, seeds, scale, videos, protocol, override), env_steps)
    common = {"metric": metric, "confidence": confidence, "allow_mixed": allow_mixed, "width": width.value}
    printed = published_numbers(reported, paper, found, curves=kind is Kind.curves)
    figure = _draw(found, kind, common, axis=axis, key=key, threshold=threshold, individual=individual,
                   highlight=highlight, reported=printed)
    stem = out or found.root / "figures" / (metric if kind is Kind.curves else f"{kind.value}-{metric}")
    files = save(figure, stem.with_suffix("") if stem.suffix in (".pdf", ".svg", ".png", ".txt") else stem)
    if json_:
        typer.echo(json.dumps({"files": {name: str(path) for name, path in files.items()}, "caption": figure.caption,
                               "problems": problems_of(found)}))
        return
    typer.echo(figure.caption)
    typer.echo()
    for path in files.values():
        typer.echo(str(path))


def _draw(found: Results, kind: Kind, common: dict[str, Any], *, axis: Axis, key: str | None, threshold: float,
          individual: bool, highlight: str | None, reported: pd.DataFrame | None) -> Plot:
    """The figure of a kind."""
    from pvdr_bench.catalog.seeds import split_names
    from pvdr_bench.errors import UsageError
    from pvdr_bench.results import figures

    if kind in FITS["highlight"]:
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
