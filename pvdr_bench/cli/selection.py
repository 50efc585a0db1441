"""The part of a results folder that a command shows: its options, and what they choose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pvdr_bench.cli.options import METHODS, OVERRIDE, SEEDS, TASKS, VIDEOS, Names
from pvdr_bench.words import did_you_mean, nearest

if TYPE_CHECKING:
    import pandas as pd

    from pvdr_bench.results.collect import Results

Methods = Annotated[Names, typer.Option(*METHODS, metavar="A,B", help="Methods or variants; default: all.")]
Tasks = Annotated[Names, typer.Option(*TASKS, metavar="X,Y", help="Tasks; default: all.")]
Seeds = Annotated[Names, typer.Option(*SEEDS, metavar="SEEDS",
                                      help="5 means 0..4; 5, means seed 5; 3,7 those two; default: all.")]
Scale = Annotated[Names, typer.Option("--scale", metavar="SCALE", help="Scales to show; default: all.")]
Videos = Annotated[Names, typer.Option(*VIDEOS, metavar="C,D", help="Corpora (and methods without); default: all.")]
Protocol = Annotated[Names, typer.Option("--protocol", metavar="P", help="Protocols, by name, or by hash or its "
                                         "beginning; default: all.")]
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


def select(results: Path | None, methods: Names = None, tasks: Names = None, seeds: Names = None, scale: Names = None,
           videos: Names = None, protocol: Names = None, overrides: list[str] | None = None) -> Results:
    """The asked part of the results folder."""
    from pvdr_bench.catalog.mixture import split_videos
    from pvdr_bench.catalog.seeds import parse_seeds, split_names
    from pvdr_bench.results.collect import collect
    from pvdr_bench.runs.paths import existing_results

    found, names, corpora = collect(existing_results(results)), split_names(methods), split_videos(videos)
    rows = found.select(
        variant=_variants(names, split_names(scale), overrides or []), task=split_names(tasks),
        seed=parse_seeds(seeds) if seeds else None, scale=split_names(scale),
        protocol_hash=_protocols(found, split_names(protocol), overrides or []))
    if corpora and "none" in set(rows.runs["corpus"]):  # methods without pre-training are on no corpus' side
        corpora = (*corpora, "none")
    return rows.select(corpus=corpora)


def cut(found: Results, env_steps: int | None) -> Results:
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


def _protocols(found: Results, names: Sequence[str], overrides: list[str]) -> list[str] | None:
    """Hashes of the protocols asked for, by name, hash or its beginning, that have the asked meaning; None: all.

    Raises:
        UsageError: nothing has such a name or hash, or such a meaning.
    """
    from pvdr_bench.errors import UsageError

    known, asked = found.protocols, _hashes(found, overrides)
    named: set[str] = set()
    for name in names:
        meant = [key for key, protocol in known.items() if protocol.get("name") == name] or [
            key for key in known if len(name) >= 4 and key.startswith(name)]
        if not meant:
            there = ", ".join(f"{protocol.get('name', '?')} ({key}, scale {protocol.get('scale', '?')})"
                              for key, protocol in known.items())
            raise UsageError(f"no run with protocol {name}", where=str(found.root),
                             hint=f"there is: {there or 'nothing'}")
        named.update(meant)
    if asked is None:
        return sorted(named) or None
    kept = [key for key in asked if not names or key in named]
    if not kept:
        raise UsageError(f"no run of protocol {', '.join(names)} has the meaning that -o asks for",
                         where=str(found.root), hint="leave out --protocol, or -o")
    return kept


def _hashes(found: Results, overrides: list[str]) -> list[str] | None:
    """Protocols with the asked meaning; a budget (``protocol.env_steps``) changes no meaning and chooses nothing."""
    from pvdr_bench.catalog.protocol import Protocol as Schema
    from pvdr_bench.catalog.resolve import PROTOCOL_PREFIX, find_key, split_override, typed_value
    from pvdr_bench.errors import UsageError

    meaning, asked = Schema.keys("meaning"), {}
    for key, value in map(split_override, overrides):
        if key.startswith(PROTOCOL_PREFIX):
            path = find_key(key.removeprefix(PROTOCOL_PREFIX), Schema, "a protocol", PROTOCOL_PREFIX)
            if path[0] in meaning:
                asked[path[0]] = typed_value(value, Schema, path)
    if not asked:
        return None
    kept = [key for key, protocol in found.protocols.items() if all(protocol.get(k) == v for k, v in asked.items())]
    if not kept:
        raise UsageError(f"no run has a protocol with {', '.join(f'{k}={v}' for k, v in asked.items())}",
                         where=str(found.root))
    return kept


def published_numbers(names: Names, every: bool, results: Results, curves: bool = False) -> pd.DataFrame | None:
    """Published numbers to be drawn apart: of the methods named, or of all that belong to the rows' protocol.

    Args:
        curves: whole published curves, not their last points.

    Raises:
        UsageError: both are asked for, rows of several protocols, nothing is published for these rows, or nothing at
            all of one of the methods.
    """
    if not names and not every:
        return None
    from pvdr_bench.catalog.seeds import split_names
    from pvdr_bench.errors import UsageError
    from pvdr_bench.results.paper import beside, published, reported

    if names and every:
        raise UsageError("--paper shows the numbers of every method, so --reported chooses none", where="--reported",
                         hint="leave out one of the two")
    results.require_runs()
    tasks, protocols = (sorted(map(str, results.runs[column].unique())) for column in ("task", "protocol"))
    if len(protocols) > 1:
        raise UsageError("published numbers stand beside rows of one protocol, and these are of "
                         + ", ".join(protocols),
                         hint=f"add --protocol {protocols[0]}")
    methods = None if every else list(split_names(names))
    everyone = sorted(set(published(paper=None)["method"]))
    if strange := [name for name in methods or () if name not in everyone]:
        raise UsageError(f"no number is published of a method {', '.join(strange)}", where="--reported",
                         hint=f"{did_you_mean(nearest(strange[0], everyone))}there is: {', '.join(everyone)}")
    found = reported(tasks, methods, protocol=protocols[0], curves=curves)
    if found.empty:
        known = beside(protocols[0])
        there = "nothing" if known.empty else (f"{', '.join(sorted(known['method'].unique()))} on "
                                               f"{', '.join(sorted(known['task'].unique()))}")
        raise UsageError(f"no number is reported for {', '.join(methods or ['any method'])} on {', '.join(tasks)} "
                         f"under a protocol like {protocols[0]}", hint=f"there is: {there}")
    return found


def problems_of(results: Results) -> list[dict[str, str]]:
    """What is wrong with runs, as JSON types."""
    return [{"run": problem.run, "kind": problem.kind, "detail": problem.detail} for problem in results.problems]


def show_problems(results: Results) -> None:
    """Print what is not, or not wholly, in what was shown."""
    from pvdr_bench.results.series import left_out

    lines = left_out(results)
    if lines:
        typer.echo("not, or not wholly, included:")
        for line in lines:
            typer.echo(f"  {line}")
