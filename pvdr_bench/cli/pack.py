"""``pvdr-bench pack`` and ``unpack``: published runs in one file, and as folders again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pvdr_bench.cli.options import Json
from pvdr_bench.words import counted


def pack(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with published runs.")],
    json_: Json = False,
) -> None:
    """Move the published runs of a folder into DIR/runs.zip, with the checksum of each file; what reads DIR reads them.

    `aggregate --publish DIR` does so by itself. Runs with checkpoints or other files of their own are refused. Broken
    runs stay where they are, and are named.
    """
    from pvdr_bench.runs.archive import open_archive
    from pvdr_bench.runs.packing import pack as move
    from pvdr_bench.runs.paths import ARCHIVE, existing_results

    root = existing_results(folder)
    moved, left = move(root)
    path = root / ARCHIVE
    there = open_archive(path).runs()
    if json_:
        typer.echo(json.dumps({"archive": str(path), "moved": moved, "left": left, "runs": there,
                               "bytes": path.stat().st_size}))
        return
    typer.echo(f"{counted(len(moved), 'run')} packed; {path} holds {counted(len(there), 'run')} in "
               f"{path.stat().st_size / 1e6:.2f} MB")
    for name, why in left.items():
        typer.echo(f"broken, so left where it is: {name}: {why}")


def unpack(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with runs.zip, or the archive itself.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the runs to; what is there stays.")],
    json_: Json = False,
) -> None:
    """Write the runs of an archive as folders, each file checked against the archive's checksums."""
    from pvdr_bench.runs.archive import open_archive
    from pvdr_bench.runs.archive import unpack as write
    from pvdr_bench.runs.paths import ARCHIVE

    archive = open_archive(source / ARCHIVE if source.is_dir() else source)
    write(archive, out)
    if json_:
        typer.echo(json.dumps({"archive": str(archive.path), "out": str(out), "runs": archive.runs()}))
        return
    typer.echo(f"{counted(len(archive.runs()), 'run')} of {archive.path} in {out}")
