"""What a camera is. Each suite says which it has (``SuiteInfo.cameras``), and a protocol or task names one.

Imports no simulator: cameras are read where none may be loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pvdr_bench.errors import UsageError

WHOLE = (0.0, 0.0, 1.0, 1.0)


def check_crop(crop: Sequence[float]) -> tuple[float, float, float, float]:
    """A crop's left, top, right and bottom edge, in parts of a picture's side.

    Raises:
        UsageError: no square inside the picture.
    """
    if len(crop) == 4:
        left, top, right, bottom = (float(edge) for edge in crop)
        inside = 0.0 <= left < right <= 1.0 and 0.0 <= top < bottom <= 1.0
        if inside and abs((right - left) - (bottom - top)) < 1e-6:
            return left, top, right, bottom
    raise UsageError(f"crop {list(crop)} is no square inside the picture",
                     hint="give [left, top, right, bottom] between 0 and 1, as wide as high")


@dataclass(frozen=True)
class CameraPose:
    """A free camera in MuJoCo's convention: metres and degrees.

    Attributes:
        fovy: vertical field of view of the whole picture; None: that of the model.
        crop: left, top, right and bottom edge of what is seen of that picture, in parts of its side; square.
    """

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float
    fovy: float | None = None
    crop: tuple[float, float, float, float] = WHOLE

    def __post_init__(self) -> None:
        check_crop(self.crop)


@dataclass(frozen=True)
class SceneCamera:
    """A camera that the scene has itself, by its name there; for simulators that bring their own."""

    name: str


Camera = CameraPose | SceneCamera
