"""Where hand and goal are, as the simulator tells it; for measurements alone, never for learning."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import UsageError

AXES = "xyz"


def positions(truth: Mapping[str, NDArray[np.float32]], task: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Hand [3] and goal [3] in metres, of a step's ``truth`` in one environment.

    Raises:
        UsageError: the simulator does not tell.
    """
    names = [f"{what}_{axis}" for what in ("hand", "goal") for axis in AXES]
    if missing := [name for name in names if name not in truth]:
        raise UsageError(f"task {task} does not tell {', '.join(missing)}, which this measurement needs")
    found = np.array([float(truth[name][0]) for name in names])
    return found[:3], found[3:]
