"""What the suite ``dummy`` says of itself."""

from __future__ import annotations

from pvdr_bench.suites.info import SuiteInfo
from pvdr_bench.suites.spaces import BoxSpace

DUMMY = SuiteInfo(
    name="dummy", title="Dummy", description="a dot that moves to a square; no simulator, for tests",
    factory="pvdr_bench.suites.dummy.env:DummyEnv", environments=("point",), revision=1,
    action_space=BoxSpace(2, names=("right", "up")),
    truth=("hand_x", "hand_y", "hand_z", "goal_x", "goal_y", "goal_z", "goal_distance"))
