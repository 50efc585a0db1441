"""A run that is there to be played: what is published of it, and its newest policy without optimisers."""

from __future__ import annotations

from pathlib import Path

from pvdr_bench.api import load_run
from pvdr_bench.errors import UsageError
from pvdr_bench.results.publish import copy_published
from pvdr_bench.runs.checkpoints import POLICY_ONLY, CheckpointStore


def keep_policy(run: Path | str, folder: Path, results: Path | None = None) -> Path:
    """Copy a finished run to ``folder`` (RESULTS/method/task/...), with its policy as its one checkpoint.

    Every command that plays a run plays the copy; nothing can be trained on from it. A run may be named as ``load_run``
    takes it, below ``results``.

    Raises:
        UsageError: the run is not finished, or ``folder`` is there already.
    """
    source = load_run(run, results)
    if source.status != "done":
        raise UsageError(f"only finished runs are kept for playing; this one is {source.status}", where=str(run))
    target = folder / source.spec.path("")
    if target.exists():
        raise UsageError("there is a run already", where=str(target), hint="remove it first, or name another folder")
    with source.open() as session:
        state, step = session.learner.policy_state(), session.env_steps
    copy_published(source.dir, target)
    CheckpointStore(target / "checkpoints").save(step, {"learner": state}, {POLICY_ONLY: True})
    return target
