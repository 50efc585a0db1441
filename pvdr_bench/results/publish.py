"""Runs as others may have them: what they are and what they measured, without checkpoints, hosts and local paths.

The copies are run directories in one archive, ``DIR/runs.zip``: ``table``, ``plot`` and ``aggregate`` read the runs of
``DIR`` like any others, and ``unpack`` writes them as folders.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import Results, collect, write_frame
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import atomic_write, storage_errors, write_json
from pvdr_bench.runs.packing import PUBLISHED, add_runs
from pvdr_bench.runs.provenance import shareable

COPIED = tuple(name for name in PUBLISHED if name != "provenance.json")


def publish(results: Results, folder: Path) -> list[str]:
    """Put copies of the finished runs of ``results`` into the archive of ``folder``; returns their names.

    Published runs that are there stay, but for those of the same names. The tidy frame beside the archive is that of
    all runs in ``folder``.

    Raises:
        UsageError: there is no finished run, or ``folder`` is the results folder itself.
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
            _copy(RunDir(results.places[name]), staging / name)
        add_runs(folder, {name: staging / name for name in names})
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    write_frame(collect(folder, cached=False), folder)
    return names


def _copy(source: RunDir, target: Path) -> None:
    """One run, without what is not published."""
    for part in COPIED:
        if (source.path / part).exists():
            atomic_write(target / part, (source.path / part).read_bytes())
    found = source.read_provenance() or {}
    resumes = [shareable(changed) for changed in found.get("resumes", [])]
    write_json(target / "provenance.json", {**shareable(found), "resumes": resumes})
