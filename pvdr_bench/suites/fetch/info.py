"""The corpus that the Fetch robot's scene makes."""

from __future__ import annotations

from pvdr_bench.suites.cameras import CameraPose
from pvdr_bench.suites.corpora import CorpusSource

# The robot's table, from its left front.
CAMERA = CameraPose(lookat=(1.25, 0.75, 0.55), distance=1.35, azimuth=145.0, elevation=-30.0)

FETCH_PUSH = CorpusSource(
    "fetch-push", "another robot pushing an object in another scene: a true domain gap", "generated",
    "pvdr_bench.suites.fetch.corpus:FetchPushGenerator", 500, title="Fetch push",
    origin="gymnasium-robotics FetchPush, random pushing", license="MIT (gymnasium-robotics)",
    needs=("gymnasium-robotics", "mujoco"), recipe_name="pvdr_bench.videos.fetch:FetchPushGenerator")
