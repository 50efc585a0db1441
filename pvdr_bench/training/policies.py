"""A run that is there to be played: what is published of it, and its newest policy without optimisers."""

from __future__ import annotations

from pathlib import Path

from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.rl.contract import Learner
from pvdr_bench.runs.checkpoints import POLICY_ONLY, Checkpoint, CheckpointStore
from pvdr_bench.runs.directory import RunDir


def keep_policy(run: Path, folder: Path) -> Path:
    """Copy a finished run to ``folder`` (RESULTS/method/task/...), with its policy as its one checkpoint.

    Every command that plays a run plays the copy; nothing can be trained on from it.

    Raises:
        UsageError: the run is not finished, or ``folder`` is there already.
    """
    from pvdr_bench.api import load_run
    from pvdr_bench.results.publish import copy_published

    source = load_run(run)
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


def load_for_play(learner: Learner, found: Checkpoint) -> None:
    """Give a learner what it needs to act, from a whole checkpoint or from a policy's."""
    if found.extra.get(POLICY_ONLY):
        learner.load_policy_state(found.state["learner"])
    else:
        learner.load_state_dict(found.state["learner"])


def refuse_policy(run_dir: RunDir) -> None:
    """Refuse to train on from a kept policy, before anything is written; only what is done can be one.

    Raises:
        DataError: the run's checkpoint holds no more than its policy.
    """
    found = run_dir.checkpoints.latest() if run_dir.done() is not None else None
    if found is not None and found.extra.get(POLICY_ONLY):
        raise DataError("this run's checkpoint holds its policy alone: it can be played, and not trained on",
                        where=str(run_dir.path), hint="to make the run anew, give another --results folder")
