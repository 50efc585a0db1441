"""Putting published runs into a folder's archive, beside those that are in it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.runs.archive import open_archive, unpacked, write_archive
from pvdr_bench.runs.folders import loose_runs
from pvdr_bench.runs.paths import ARCHIVE
from pvdr_bench.runs.standing import judge

PUBLISHED = ("run.yaml", "train.jsonl", "episodes.jsonl", "timing.jsonl", "artefacts.json", "done.json",
             "provenance.json")  # all that a published run holds


def pack(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Move the published runs that lie in ``folder`` into its archive; broken ones stay where they are.

    A run goes before one of the same name in the archive. Bytes are as they were; frames and figures are left alone.

    Returns:
        The names of what was moved; and of what was not, with the reason.

    Raises:
        UsageError: a run there holds more than what is published, or there is none.
        DataError: every run there is broken, or the archive is.
    """
    loose = dict(loose_runs(folder))
    if not loose:
        raise UsageError("there is no run to pack", where=str(folder))
    for path in loose.values():
        if more := _unpublished(path):
            raise UsageError(f"this run holds more than what is published: {', '.join(more[:3])}", where=str(path),
                             hint="aggregate --publish DIR packs copies of finished runs")
    broken = {name: why for name, path in sorted(loose.items()) if (why := _broken(path))}
    moved = {name: path for name, path in loose.items() if name not in broken}
    if not moved:
        name, why = next(iter(broken.items()))
        raise DataError(f"every run here is broken, so none was packed: {name}: {why}", where=str(folder),
                        hint="pvdr-bench verify tells more")
    add_runs(folder, moved)
    return sorted(moved), broken


def add_runs(folder: Path, runs: Mapping[str, Path]) -> None:
    """Put runs, by name, into the archive of ``folder``, in place of those of the same names.

    Published runs that lie in ``folder`` itself go in as well, but for broken ones. What has gone in or was replaced,
    and lies there, is removed after the archive was read back.
    """
    old = folder / ARCHIVE
    there = loose_runs(folder) if folder.is_dir() else ()
    loose = {name: path for name, path in there if not _unpublished(path) and (name in runs or not _broken(path))}
    whole = {name: unpacked(old) / name for name in open_archive(old).runs()} if old.is_file() else {}
    files = {f"{name}/{path.relative_to(run).as_posix()}": path for name, run in (whole | loose | dict(runs)).items()
             for path in sorted(run.rglob("*")) if path.is_file()}
    write_archive(old, files)
    for name, path in loose.items():
        shutil.rmtree(path)
        _remove_empty(folder, folder / name)


def _unpublished(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir() if path.name not in PUBLISHED or not path.is_file()
                  or path.is_symlink())


def _broken(run: Path) -> str:
    """Why a run is not what was finished; empty if it is, or is not done."""
    return judge(run).why


def _remove_empty(folder: Path, run: Path) -> None:
    """Remove the folders above a run that it leaves empty."""
    for parent in run.parents:
        if parent == folder:
            return
        with suppress(OSError):  # another run is in it
            parent.rmdir()
