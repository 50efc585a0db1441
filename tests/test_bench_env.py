"""``bench env``: what it tells of one process and of several."""

from __future__ import annotations

import pytest

from pvdr_bench.bench.env import measure


def test_a_decisions_time_is_that_of_one_of_the_processes_that_there_are() -> None:
    found = measure(num_envs=2, workers=[0, 1, 4], seconds=0.05, image_size=16, suite="dummy")
    for row, processes in zip(found["workers"], (1, 1, 2), strict=True):  # two environments make no four processes
        assert row["ms_per_decision"] == pytest.approx(1e3 * processes / row["decisions_per_second"])
        assert row["env_steps_per_second"] == pytest.approx(4 * row["decisions_per_second"])
    assert found["best"] == max(row["env_steps_per_second"] for row in found["workers"])
