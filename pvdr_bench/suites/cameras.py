"""Named free cameras. A protocol names one; the corpora in the same scenes are filmed with the same one."""

from __future__ import annotations

from pvdr_bench.suites.base import CameraPose

CAMERAS: dict[str, CameraPose] = {
    # Across the table towards the Sawyer robot: the whole moving arm, the hand's range and all objects are in view, and
    # motion along x, y and z looks different. Our own choice, since the paper's ``camera1`` is not published.
    "metaworld": CameraPose(lookat=(0.0, 0.62, 0.16), distance=1.35, azimuth=235.0, elevation=-28.0),
    # The Fetch robot's table, from its left front.
    "fetch": CameraPose(lookat=(1.25, 0.75, 0.55), distance=1.35, azimuth=145.0, elevation=-30.0),
}
