"""Runs as others may have them: what they are and what they measured, without checkpoints, hosts and local paths.

The copies are run directories: ``table``, ``plot`` and ``aggregate`` read them like any others.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pvdr_bench.errors import UsageError
from pvdr_bench.results.collect import Results, collect, write_frame
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import atomic_write, write_json
from pvdr_bench.runs.provenance import shareable

PUBLISHED = ("run.yaml", "train.jsonl", "episodes.jsonl", "timing.jsonl", "artefacts.json", "done.json")


def publish(results: Results, folder: Path) -> list[Path]:
    """Copy the finished runs of ``results`` below ``folder``, beside those that are there; returns their paths.

    A run that is there already is replaced. The tidy frame beside them is that of all runs in ``folder``.

    Raises:
        UsageError: there is no finished run, or ``folder`` is the results folder itself.
    """
    if folder.resolve() == results.root.resolve():
        raise UsageError("a results folder cannot be published into itself", where=str(folder))
    names = [str(row["path"]) for _, row in results.runs.iterrows() if row["status"] == "done"]
    if not names:
        raise UsageError("there is no finished run to publish", where=str(results.root))
    for name in names:
        source, target = RunDir(results.places[name]), folder / name
        if target.exists():
            shutil.rmtree(target)
        target.mkdir(parents=True)
        for part in PUBLISHED:
            if (source.path / part).exists():
                atomic_write(target / part, (source.path / part).read_bytes())
        found = source.read_provenance() or {}
        resumes = [shareable(changed) for changed in found.get("resumes", [])]
        write_json(target / "provenance.json", {**shareable(found), "resumes": resumes})
    write_frame(collect(folder, cached=False), folder)
    return [folder / name for name in names]
