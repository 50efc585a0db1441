"""Which run directories a results folder holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pvdr_bench.runs.archive import SIGNS, archived_runs
from pvdr_bench.runs.directory import RunDir

COMMITTED = ("reference", "paper")  # folders of a results folder that are part of the repository


def run_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """Name (the path below ``root``) and folder of each run: those that lie in ``root``, then those of its archive.

    A run that lies in ``root`` goes before one of the same name in the archive.

    Raises:
        DataError: the archive is damaged.
    """
    seen = set()
    for name, path in loose_runs(root):
        seen.add(name)
        yield name, path
    for name, path in archived_runs(root).items():
        if name not in seen:
            yield name, path


def loose_runs(root: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of each run that lies in ``root``, by name.

    A run is a folder with ``run.yaml`` or ``failed.json``; nothing below it is looked at. Hidden folders (``.trash``,
    ``.slurm``) hold none, and committed results in the folders :data:`COMMITTED` are left alone.
    """
    for folder, names, files in os.walk(root):
        if any(name in files for name in SIGNS):
            names.clear()
            yield Path(folder).relative_to(root).as_posix(), Path(folder)
        else:
            committed = COMMITTED if Path(folder) == root else ()
            names[:] = sorted(name for name in names if not name.startswith(".") and name not in committed)


def find_runs(root: Path | str) -> list[RunDir]:
    """The run directories below ``root`` that say what they are, by path."""
    return [RunDir(path) for _, path in run_folders(Path(root)) if (path / "run.yaml").exists()]
