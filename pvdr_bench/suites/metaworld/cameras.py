"""Where Meta-World's table is looked at from."""

from __future__ import annotations

import math

from pvdr_bench.suites.cameras import CameraPose

CAMERAS: dict[str, CameraPose] = {
    # Across the table towards the Sawyer robot: the whole moving arm, the hand's range and all objects are in view, and
    # motion along x, y and z looks different. Our own choice, since the paper's ``camera1`` is not published.
    "metaworld": CameraPose(lookat=(0.0, 0.62, 0.16), distance=1.35, azimuth=235.0, elevation=-28.0),
    # Meta-World's own ``corner`` (xyz_base.xml: pos -1.1 -0.4 0.6, looking along 1 1 -0.4, 45 degrees high as every
    # free camera there), the camera of APV, ContextWM and PreLAR. Its up vector points down, so its own picture stands
    # on its head; a free camera at the same pose is upright, which is that picture turned by 180 degrees.
    "corner": CameraPose(lookat=(0.0, 0.7, 0.16), distance=1.1 * math.sqrt(2.16), azimuth=45.0,
                         elevation=-math.degrees(math.atan2(0.4, math.sqrt(2.0)))),
}
