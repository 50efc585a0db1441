"""``pvdr-bench validate [FOLDER]``: every problem of the YAML and its Python, before anything is run with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvdr_bench.cli.options import Json
from pvdr_bench.words import counted

if TYPE_CHECKING:
    from pvdr_bench.catalog.problems import Problem


def validate(
    folder: Annotated[Path | None, typer.Argument(
        metavar="FOLDER", help="With methods/, tasks/, tasks/protocols/, slurm/ or experiments/ in it; default: all "
                                 "folders that are searched, PVDR_BENCH_PATH's among them.")] = None,
    json_: Json = False,
) -> None:
    """Check methods, tasks, protocols, cluster profiles and experiments at every scale; list every problem.

    Python in algorithms/, suites/ and corpora/ of FOLDER is loaded, whether or not PVDR_BENCH_PATH names it. Exit code
    3 if there is any problem.
    """
    from pvdr_bench.errors import CatalogError
    from pvdr_bench.launch.validate import catalog_of, checked_files
    from pvdr_bench.launch.validate import validate as check
    from pvdr_bench.plugins import searched_first

    catalog, roots = catalog_of(folder)
    with searched_first(folder):  # its Python is loaded as it will be when something is run with it
        files, problems = checked_files(catalog, roots), check(catalog, roots)
    if json_:
        typer.echo(json.dumps({"folders": [str(root) for root in roots], "files": len(files),
                               "problems": [row_of(problem) for problem in problems]}))
    else:
        for problem in problems:
            place = f"{_shorten(problem.where)}: " if problem.where else ""
            typer.echo(f"{place}{problem.message}" + (f"\n  -> {problem.hint}" if problem.hint else ""))
        found = counted(len(problems), "problem") if problems else "no problem"
        typer.echo(f"{counted(len(files), 'file')} in {', '.join(_shorten(str(root)) for root in roots)}: {found}")
    if problems:
        raise typer.Exit(CatalogError.exit_code)


def row_of(problem: Problem) -> dict[str, Any]:
    """As JSON types: file and line apart where the place has both."""
    file, colon, line = (problem.where or "").rpartition(":")
    apart = bool(colon) and line.isdigit()
    return {"file": file if apart else problem.where, "line": int(line) if apart else None,
            "message": problem.message, "hint": problem.hint}


def _shorten(place: str) -> str:
    """A place relative to the current folder where it is inside it."""
    return place.removeprefix(f"{Path.cwd()}/")
