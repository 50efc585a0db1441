"""What a camera is. Each suite says which it has (``SuiteInfo.cameras``), and a protocol or task names one.

Imports nothing: cameras are read where no simulator may be loaded.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CameraPose:
    """A free camera in MuJoCo's convention: metres and degrees."""

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float


@dataclass(frozen=True)
class SceneCamera:
    """A camera that the scene has itself, by its name there; for simulators that bring their own."""

    name: str


Camera = CameraPose | SceneCamera
