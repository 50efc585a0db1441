"""What an environment shows and takes, as plain numbers: the spaces that suites declare and learners are built from.

Imports nothing: a space is read where no simulator and no torch may be loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ImageSpace:
    """Upright RGB pictures of bytes, [height, width, 3]; an observation or a goal."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a picture of {self.height} x {self.width} pixels")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3)."""
        return self.height, self.width, 3


@dataclass(frozen=True)
class BoxSpace:
    """Vectors of ``dim`` real numbers, each between ``low`` and ``high``; an action.

    The bounds are the same for every dimension: an environment takes actions in [-1, 1] and scales them to its own
    units. ``names`` says what each dimension moves; empty where nobody has named them.
    """

    dim: int
    low: float = -1.0
    high: float = 1.0
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"a space of {self.dim} dimensions")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"bounds {self.low} and {self.high}: a finite low must lie below a finite high")
        if self.names and len(set(self.names)) != self.dim:
            raise ValueError(f"{self.dim} dimensions and the names {', '.join(self.names)}")

    @property
    def shape(self) -> tuple[int]:
        """(dim,)."""
        return (self.dim,)
