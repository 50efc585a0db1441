"""Runs as others may have them: what they are and what they measured, without checkpoints, hosts and local paths.

The copies are run directories in one archive, ``DIR/runs.zip``: ``table``, ``plot`` and ``aggregate`` read the runs of
``DIR`` like any others, and ``unpack`` writes them as folders.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.results.collect import Results, collect, write_frame
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import atomic_write, storage_errors, write_json
from pvdr_bench.runs.intake import LARGEST_LOG, read_bytes
from pvdr_bench.runs.packing import PUBLISHED, add_runs
from pvdr_bench.runs.provenance import shareable
from pvdr_bench.runs.seal import resealed
from pvdr_bench.runs.standing import judge

PROVENANCE = "provenance.json"
COPIED = tuple(name for name in PUBLISHED if name not in (PROVENANCE, "done.json"))


def publish(results: Results, folder: Path) -> list[str]:
    """Put copies of the finished runs of ``results`` into the archive of ``folder``; returns their names.

    Published runs that are there stay, but for those of the same names. The tidy frame beside the archive is that of
    all runs in ``folder``. A copy has the seal of its run, but for ``provenance.json``, which says less here.

    Raises:
        UsageError: there is no finished run, or ``folder`` is the results folder itself.
        DataError: a run was changed after ``results`` was read.
    """
    if folder.resolve() == results.root.resolve():
        raise UsageError("a results folder cannot be published into itself", where=str(folder))
    names = [str(row["path"]) for _, row in results.runs.iterrows() if row["status"] == "done"]
    if not names:
        raise UsageError("there is no finished run to publish", where=str(results.root))
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".publish-", dir=folder))
    try:
        for name in names:
            copy_published(RunDir(results.places[name]), staging / name)
        add_runs(folder, {name: staging / name for name in names})
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    write_frame(collect(folder, cached=False), folder)
    return names


def copy_published(source: RunDir, target: Path) -> None:
    """Copy one run, without what is not published; what is not as its seal says is not copied."""
    done, provenance = source.done(), cast("dict[str, Any]", source.read_provenance() or {})
    if done is None:
        raise DataError("the run is no longer done", where=str(source.path), hint="publish it when it is")
    for name in COPIED:
        if (source.path / name).exists():
            atomic_write(target / name, read_bytes(source.path / name, LARGEST_LOG))
    resumes = [shareable(changed) for changed in provenance.get("resumes", [])]
    write_json(target / PROVENANCE, {**shareable(provenance), "resumes": resumes})
    told = resealed(done, PROVENANCE, (target / PROVENANCE).read_bytes()) if "seal" in done else done
    write_json(target / "done.json", told)
    found = judge(target)
    if found.state != "done":
        raise found.error(source.path)
