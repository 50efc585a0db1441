"""``pvdr-bench verify``: are finished runs as they were when they were done."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from pvdr_bench.cli.options import Json
from pvdr_bench.words import counted


def verify(
    folder: Annotated[Path | None, typer.Argument(
        metavar="RESULTS", help="Folder of runs, or one run; else PVDR_BENCH_RESULTS, else ./results.")] = None,
    json_: Json = False,
) -> None:
    """Say of every run whether it is as it was when it was done; if not, which file was changed, and where.

    A run is sealed (its done.json has row counts and checksums, and all fit), unsealed (of an earlier version: checked
    for what can be), unfinished, or broken. Exit code 5 if any is broken. Nothing is written.
    """
    from pvdr_bench.errors import DataError
    from pvdr_bench.results.verify import VERDICTS, Verifier
    from pvdr_bench.runs.paths import existing_results

    root = existing_results(folder)
    found = Verifier().folder(root)
    counts = Counter(each.verdict for each in found)
    if json_:
        typer.echo(json.dumps({"results": str(root), "runs": [each.row() for each in found], "counts": counts}))
    else:
        for each in found:
            typer.echo(f"{each.verdict:10}  {each.run}")
            for line in (*map(str, each.changes), *(f"note: {note}" for note in each.notes)):
                typer.echo(f"{'':12}{line}")
        parts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
        typer.echo(f"{counted(len(found), 'run')}: {parts or 'none'}")
        if counts["unsealed"]:
            typer.echo("unsealed: made before runs were sealed; rows, final episodes and recipe fit what they say")
    if counts["broken"]:
        raise typer.Exit(DataError.exit_code)
