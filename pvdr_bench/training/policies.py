"""Checkpoints that hold a policy alone: they can be played, and not trained on; and done runs that have none."""

from __future__ import annotations

from pvdr_bench.errors import DataError
from pvdr_bench.rl.contract import Learner
from pvdr_bench.runs.checkpoints import POLICY_ONLY, Checkpoint
from pvdr_bench.runs.directory import RunDir


def load_for_play(learner: Learner, found: Checkpoint) -> None:
    """Give a learner what it needs to act, from a whole checkpoint or from a policy's."""
    if found.extra.get(POLICY_ONLY):
        learner.load_policy_state(found.state["learner"])
    else:
        learner.load_state_dict(found.state["learner"])


def check_extension(run_dir: RunDir) -> None:
    """Refuse to extend a done run that has nothing to go on from, before anything is written.

    Raises:
        DataError: it has no whole checkpoint, or its checkpoint holds no more than its policy.
    """
    if run_dir.done() is None:
        return
    found = run_dir.resumable()
    if found is not None and found.extra.get(POLICY_ONLY):
        raise DataError("this run's checkpoint holds its policy alone: it can be played, and not trained on",
                        where=str(run_dir.path), hint="to make the run anew, give another --results folder")
