"""``pvdr-bench list``: what there is, by name."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pvdr_bench.cli.options import Json, Results, refuse_idle
from pvdr_bench.plain_text import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from pvdr_bench.catalog.catalog import Catalog

Row = dict[str, Any]
T = TypeVar("T")


class Kind(StrEnum):
    """What can be listed."""

    methods = "methods"
    tasks = "tasks"
    suites = "suites"
    protocols = "protocols"
    corpora = "corpora"
    scales = "scales"
    profiles = "profiles"
    experiments = "experiments"
    runs = "runs"


def list_(
    context: typer.Context,
    kind: Annotated[Kind | None, typer.Argument(help="What to list; default: all but runs.")] = None,
    results: Results = None, json_: Json = False,
) -> None:
    """List methods, tasks, suites, protocols, corpora, scales, cluster profiles, experiments or runs."""
    from pvdr_bench.catalog import load_catalog

    if kind is not Kind.runs:
        refuse_idle(context, ("results",), f"list {kind or ''}".strip(), "list what is in it: list runs")
    catalog = load_catalog()
    kinds = [kind] if kind else [each for each in Kind if each is not Kind.runs]
    found = {str(each): rows_of(each, catalog, results) for each in kinds}
    if json_:
        typer.echo(json.dumps(found[str(kind)] if kind else found))
        return
    for name, rows in found.items():
        if rows and (kind is None or sys.stdout.isatty()):  # one kind in a pipe: a line is a row
            widest: Row = max(rows, key=len)
            typer.echo(f"{name}: {', '.join(widest)}".replace("_", " "))
        echo_rows(rows, indent="" if kind else "  ")
        if not rows:
            typer.echo(f"no {name} here")


def rows_of(kind: Kind, catalog: Catalog, results: Path | None = None) -> list[Row]:
    """The rows of one kind, each a flat mapping."""
    if kind is Kind.runs:
        return _runs(results)
    makers: dict[Kind, Callable[[Catalog], list[Row]]] = {
        Kind.methods: _methods, Kind.tasks: _tasks, Kind.suites: _suites, Kind.protocols: _protocols,
        Kind.corpora: _corpora, Kind.scales: _scales, Kind.profiles: _profiles, Kind.experiments: _experiments,
    }
    return makers[kind](catalog)


def _methods(catalog: Catalog) -> list[Row]:
    from pvdr_bench.algorithms.registry import algorithms

    return _each(catalog.methods(), catalog.method, lambda spec: {
        "name": spec.name, "algorithm": spec.algorithm, "stages": list(algorithms()[spec.algorithm or ""].stages),
        "title": spec.title})


def _tasks(catalog: Catalog) -> list[Row]:
    return _each(catalog.tasks(), catalog.task, lambda spec: {
        "name": spec.name, "suite": spec.suite, "env_id": spec.env_id, "set": spec.set, "title": spec.title})


def _suites(catalog: Catalog) -> list[Row]:
    from pvdr_bench.cli.suites import suite_rows

    return suite_rows()


def _protocols(catalog: Catalog) -> list[Row]:
    return _each(catalog.protocols(), catalog.protocol_file, lambda found: {
        "name": found.name, "scales": list(found.scales), "title": found.title})


def _corpora(catalog: Catalog) -> list[Row]:
    specs = [catalog.corpus(name) for name in catalog.corpora()]
    return [{"name": spec.name, "kind": spec.kind, "description": spec.description} for spec in specs]


def _scales(catalog: Catalog) -> list[Row]:
    from pvdr_bench.catalog.scales import SCALES

    return [{"name": name, "description": text} for name, text in SCALES.items()]


def _profiles(catalog: Catalog) -> list[Row]:
    return _each(catalog.profiles(), catalog.profile, lambda spec: {
        "name": spec.name, "device": spec.device, "gpus": spec.gpus, "processes": spec.processes, "title": spec.title})


def _experiments(catalog: Catalog) -> list[Row]:
    return _each(catalog.experiments(), catalog.experiment, lambda spec: {
        "name": spec.name, "source": spec.source or "-", "title": spec.title})


def _each(names: Sequence[str], find: Callable[[str], T], row: Callable[[T], Row]) -> list[Row]:
    """A row for each name; one whose file is wrong has a word why, and the others are listed all the same."""
    from pvdr_bench.errors import BenchError

    rows: list[Row] = []
    for name in names:
        try:
            rows.append(row(find(name)))
        except BenchError as error:
            rows.append({"name": name, "problem": f"cannot be used: {error}"})
    return rows


def _runs(results: Path | None) -> list[Row]:
    from pvdr_bench.errors import DataError
    from pvdr_bench.runs.directory import RunDir
    from pvdr_bench.runs.folders import run_folders
    from pvdr_bench.runs.known import KnownRuns
    from pvdr_bench.runs.paths import existing_results
    from pvdr_bench.runs.standing import judge

    root = existing_results(results)
    known, rows = KnownRuns(root), list[Row]()

    def refused(name: str, reason: str) -> None:
        rows.append({"run": name, "status": "broken", "env_steps": None,
                     "problem": f"the folder cannot be read: {reason}"})

    for name, folder in run_folders(root, refused):
        standing = judge(folder, known)
        try:
            beat = RunDir(folder).read_heartbeat() or {}
        except DataError:  # `status` tells of it
            beat = {}
        row: Row = {"run": name, "status": standing.state,
                    "env_steps": standing.done["env_steps"] if standing.done else beat.get("env_steps")}
        rows.append(row | ({"problem": standing.why} if standing.why else {}))
    known.store(whole=True)
    return rows


def echo_rows(rows: list[Row], indent: str = "") -> None:
    """Print rows as aligned columns; the last column is free text.

    On a terminal too narrow for them every row starts with its name, and the rest of it stands below, indented.
    """
    strange = [row for row in rows if list(row) == ["name", "problem"]]
    cells = [[_cell(value) for value in row.values()] for row in rows if row not in strange]
    count = max((len(row) for row in cells), default=0)
    widths = [max((len(row[i]) for row in cells if i < len(row)), default=0) for i in range(count)]
    lines = [(indent + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False))).rstrip()
             for row in cells]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for row, line in zip(cells, lines, strict=True):
        if not width or max(map(len, lines)) <= width:
            typer.echo(line)
            continue
        typer.echo(indent + row[0])
        for part in textwrap.wrap("  ".join(row[1:]), max(16, width - len(indent) - 4)):
            typer.echo(f"{indent}    {part}")
    for told in strange:
        typer.echo(f"{indent}{told['name']}  {one_line(told['problem'])}")


def _cell(value: Any) -> str:
    if value is None or value == []:
        return "-"
    return one_line(",".join(map(str, value)) if isinstance(value, list) else str(value))
