"""Spearman's rank correlation, without the half second that ``scipy.stats`` takes to import in every process of a run.

Shapes: B values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks [B] from 1 of values [B], ties averaged."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    averaged: NDArray[np.float64] = ((last - counts + 1 + last) / 2)[inverse]
    return averaged


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """Spearman's rank correlation of two [B]; None where there is none: fewer than three, not finite, or a constant."""
    if len(a) < 3 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    ra, rb = ranks(a), ranks(b)
    ra, rb = ra - ra.mean(), rb - rb.mean()
    norm = float(np.sqrt((ra**2).sum() * (rb**2).sum()))
    return float((ra * rb).sum() / norm) if norm > 0 else None
