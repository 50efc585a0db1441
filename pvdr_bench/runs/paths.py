"""Where data, results and shipped artefacts live."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pvdr_bench.errors import UsageError
from pvdr_bench.runs.files import storage_errors

ARCHIVE = "runs.zip"  # the published runs of a folder, see runs/archive.py
DATA_VARIABLE = "PVDR_BENCH_DATA"
RESULTS_VARIABLE = "PVDR_BENCH_RESULTS"
_PACKAGE = Path(__file__).resolve().parent.parent


def data_root() -> Path:
    """Home of videos and artefacts: ``PVDR_BENCH_DATA``, else ``pvdr-bench`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := os.environ.get(DATA_VARIABLE):
        return Path(chosen).expanduser().resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "pvdr-bench"


def results_root(option: str | Path | None = None) -> Path:
    """Folder of run directories: ``--results``, else ``PVDR_BENCH_RESULTS``, else ``./results``.

    It need not be there. Commands that write runs take :func:`results_to_write`, those that read
    :func:`existing_results`.
    """
    return Path(option or os.environ.get(RESULTS_VARIABLE) or "results").expanduser().resolve()


def results_to_write(option: str | Path | None = None) -> Path:
    """The same for commands that make it. It need not be there, but nothing else may stand in its way.

    Raises:
        UsageError: a file does.
    """
    root = results_root(option)
    there = next(place for place in (root, *root.parents) if place.exists())
    if not there.is_dir():
        raise UsageError("this is a file, and no results folder", where=str(there),
                         hint=f"name a folder for the runs with --results or {RESULTS_VARIABLE}")
    return root


def check_writable(root: Path) -> None:
    """Make a folder and a file in it for a moment, before hours of work whose results it is to keep.

    Raises:
        StorageError: one of them cannot be made.
    """
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root, prefix=".writable-"):
            pass


def existing_results(option: str | Path | None = None) -> Path:
    """The same for commands that read, in which a wrong path must not look like "no runs". An empty folder is fine.

    An archive of runs stands for its folder.

    Raises:
        UsageError: it is not there, or is no folder.
    """
    root = results_root(option)
    if root.name == ARCHIVE and root.is_file():
        return root.parent
    if not root.is_dir():
        what = "this is a file, and no results folder" if root.exists() else "there is no results folder here"
        raise UsageError(what, where=str(root), hint=f"name the runs' folder with --results or {RESULTS_VARIABLE}, "
                                                     "or run something first: pvdr-bench run --help")
    return root


def shipped_artefacts() -> list[Path]:
    """Read-only artefact folders that come with the code: beside an editable install, or inside a wheel."""
    return [folder for folder in (_PACKAGE.parent / "artefacts", _PACKAGE / "_data" / "artefacts") if folder.is_dir()]
