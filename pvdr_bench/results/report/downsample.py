"""Long logs as small plots: real points only, and no peak lost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def min_max(y: NDArray[np.float64], limit: int) -> NDArray[np.int64]:
    """Indices of at most ``limit`` points: the lowest and the highest of each of ``limit // 2`` equal stretches.

    Args:
        y: [n] finite values.
        limit: 2 or more.

    Returns:
        Ascending indices; all of them where n <= limit. Minimum and maximum of ``y`` are always among them.
    """
    n = y.size
    if n <= limit:
        return np.arange(n)
    kept: set[int] = set()
    for stretch in np.array_split(np.arange(n), max(1, limit // 2)):
        kept.add(int(stretch[np.argmin(y[stretch])]))
        kept.add(int(stretch[np.argmax(y[stretch])]))
    return np.array(sorted(kept), dtype=np.int64)
