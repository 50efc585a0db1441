"""Checkpoints that hold a policy alone: they can be played, and not trained on."""

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


def refuse_policy(run_dir: RunDir) -> None:
    """Refuse to train on from a kept policy, before anything is written; only what is done can be one.

    Raises:
        DataError: the run's checkpoint holds no more than its policy.
    """
    found = run_dir.checkpoints.latest() if run_dir.done() is not None else None
    if found is not None and found.extra.get(POLICY_ONLY):
        raise DataError("this run's checkpoint holds its policy alone: it can be played, and not trained on",
                        where=str(run_dir.path), hint="to make the run anew, give another --results folder")
