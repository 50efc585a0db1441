"""Which run directories a results folder holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pvdr_bench.runs.directory import RunDir

COMMITTED = ("reference", "paper")  # folders of a results folder that are part of the repository


def run_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """Name (the path below ``root``) and folder of each run, by name.

    A run is a folder with ``run.yaml`` or ``failed.json``; nothing below it is looked at. Hidden folders (``.trash``,
    ``.slurm``) hold none, and committed results in the folders :data:`COMMITTED` are left alone.
    """
    for folder, names, files in os.walk(root):
        if "run.yaml" in files or "failed.json" in files:
            names.clear()
            yield Path(folder).relative_to(root).as_posix(), Path(folder)
        else:
            committed = COMMITTED if Path(folder) == root else ()
            names[:] = sorted(name for name in names if not name.startswith(".") and name not in committed)


def find_runs(root: Path | str) -> list[RunDir]:
    """The run directories below ``root`` that say what they are, by path."""
    return [RunDir(path) for _, path in run_folders(Path(root)) if (path / "run.yaml").exists()]
