"""What the rows of a finished run's ``timing.jsonl`` have to hold, whatever its learner."""

from __future__ import annotations

from itertools import pairwise

from pvdr_bench.runs.cost import KINDS, RunCost, cost_of
from pvdr_bench.runs.directory import RunDir

LOOP = {"act", "env", "env.physics", "env.render", "reward", "reset"}


def checked_parts(run: RunDir, action_repeat: int) -> tuple[set[str], set[str], RunCost]:
    """Parts of training and of evaluations, and the cost; asserts that all seconds are there, and none of them twice.

    The run is done: its last row is that of the final evaluation.
    """
    rows, done = run.read_phases(), run.done()
    assert done is not None and rows[-1]["phase"] == "final" and "start" in rows[0]["seconds"]
    for before, row in pairwise([None, *rows]):
        took = row["wall_seconds"] - (before["wall_seconds"] if before else 0.0)
        spent = sum(value for name, value in row["seconds"].items() if "." not in name)
        assert 0 < spent <= took + 0.01
        for name, value in row["seconds"].items():
            inner = sum(x for other, x in row["seconds"].items() if other.rpartition(".")[0] == name)
            assert inner <= value + 1e-3, name
        assert set(row["seconds"]) - {"start", "env.physics", "env.render"} <= set(row["calls"])
        assert set(row["flop"]) <= set(row["calls"]) and all(value > 0 for value in row["flop"].values())
    assert rows[-1]["wall_seconds"] <= done["wall_seconds"] < rows[-1]["wall_seconds"] + 5
    cost = cost_of(rows, action_repeat)
    assert set(cost.shares) == set(KINDS) and all(value is not None for value in cost.shares.values())
    assert abs(sum(value or 0.0 for value in cost.shares.values()) - 1) < 1e-6
    parts = [set[str](), set[str]()]
    for row in rows:
        parts[row["phase"] != "train"] |= set(row["seconds"]) - {"start", "checkpoint"}
    return parts[0], parts[1], cost
