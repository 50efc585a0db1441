"""Which run directories a results folder holds: one search for every command."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pvdr_bench.runs.archive import SIGNS, archived_runs

COMMITTED = ("reference", "paper")  # folders of a results folder that are part of the repository
Refused = Callable[[str, str], None]  # told name and reason


def run_folders(root: Path, refused: Refused = lambda name, reason: None) -> Iterator[tuple[str, Path]]:
    """Name (the path below ``root``) and folder of each run: those that lie in ``root``, then those of its archive.

    A run that lies in ``root`` goes before one of the same name in the archive.

    Args:
        refused: told of folders that cannot be looked into.

    Raises:
        DataError: the archive is damaged.
    """
    seen = set()
    for name, path in loose_runs(root, refused):
        seen.add(name)
        yield name, path
    for name, path in archived_runs(root).items():
        if name not in seen:
            yield name, path


def loose_runs(root: Path, refused: Refused = lambda name, reason: None) -> Iterator[tuple[str, Path]]:
    """Name and folder of each run that lies in ``root``, by name.

    A run is a folder with one of :data:`SIGNS`, even if it is a folder itself; nothing below a run is looked at.
    Hidden folders (``.trash``, ``.slurm``) hold none, links to folders are not followed, and committed results in the
    folders :data:`COMMITTED` are left alone.
    """
    def report(error: OSError) -> None:
        refused(_name(Path(error.filename or root), root), error.strerror or "unknown reason")

    for folder, names, files in os.walk(root, onerror=report):
        if any(sign in files or sign in names for sign in SIGNS):
            names.clear()
            yield _name(Path(folder), root), Path(folder)
        else:
            committed = COMMITTED if Path(folder) == root else ()
            names[:] = sorted(name for name in names if not name.startswith(".") and name not in committed)


def place_of(name: str, root: Path, archived: Mapping[str, Path]) -> Path:
    """The folder of a run: that in ``root``, or where none lies there and ``archived`` has it, the archive's copy.

    Args:
        name: the path below ``root``. archived: see :func:`~pvdr_bench.runs.archive.archived_runs`.
    """
    path = root / name
    return path if any(os.path.lexists(path / sign) for sign in SIGNS) else archived.get(name, path)


def _name(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix()
