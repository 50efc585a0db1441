"""Camera poses by name; the poses themselves stand in ``suites/cameras.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvdr_bench.catalog.problems import unknown

if TYPE_CHECKING:
    from pvdr_bench.suites.base import CameraPose


def camera_pose(name: str, where: str | None = None) -> CameraPose:
    """The pose of a named camera; ``where`` is the place of the name.

    Raises:
        CatalogError: no such camera.
    """
    from pvdr_bench.suites.cameras import CAMERAS

    if name not in CAMERAS:
        raise unknown("camera", name, CAMERAS, where)
    return CAMERAS[name]
