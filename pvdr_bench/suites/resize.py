"""Frames of any size made square, by the area that each new pixel covers: exact in whole numbers, on every machine.

A pixel of the result is the mean over its area of the source, whose pixels at the border count by the share that lies
inside. Enlarging by the same rule repeats pixels. Nothing depends on a library's version or on the order of a sum.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]  # [T, H, W, 3]
Fit = Literal["crop", "squash", "pad"]
_AT_ONCE = 2**20  # bytes of frames whose sums are in memory
FITS: tuple[Fit, ...] = ("crop", "squash", "pad")


def fitted(frames: Frames, size: int, fit: Fit = "crop") -> Frames:
    """Frames [T, H, W, 3] -> [T, size, size, 3].

    Args:
        fit: what is done where they are not square: ``crop`` the middle, ``squash`` them, or ``pad`` them with black.
    """
    height, width = frames.shape[1:3]
    if height != width and fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        frames = frames[:, top:top + side, left:left + side]
    elif height != width and fit == "pad":
        side = max(height, width)
        square = np.zeros((len(frames), side, side, 3), np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        square[:, top:top + height, left:left + width] = frames
        frames = square
    return area_resize(frames, size)


def area_resize(frames: Frames, size: int) -> Frames:
    """Frames [T, H, W, 3] -> [T, size, size, 3], each new pixel the mean over its area, rounded half up."""
    height, width = frames.shape[1:3]
    if height == width == size:
        return np.ascontiguousarray(frames)
    if size % height == 0 and size % width == 0:
        return _repeated(frames, size // height, size // width)
    area, out = height * width, np.empty((len(frames), size, size, 3), np.uint8)
    step = max(1, _AT_ONCE // (area * 3))
    for first in range(0, len(frames), step):
        sums = _sums(_sums(frames[first:first + step], size, 1), size, 2)  # of H * W shares each
        out[first:first + step] = (sums + area // 2) // area
    return out


def _repeated(frames: Frames, rows: int, columns: int) -> Frames:
    """Each pixel ``rows`` by ``columns`` times; a level at a time, in half the time of `np.repeat` twice or less."""
    length, height, width, levels = frames.shape
    out = np.empty((length, height, rows, width, columns, levels), np.uint8)
    for column in range(columns):
        for level in range(levels):
            out[:, :, 0, :, column, level] = frames[..., level]
    for row in range(1, rows):
        out[:, :, row] = out[:, :, 0]
    return out.reshape(length, height * rows, width * columns, levels)


def _sums(values: NDArray[np.generic], size: int, axis: int) -> NDArray[np.int64]:
    """Sums over ``size`` equal stretches of an axis of length n, in units of 1/size of a pixel: n of them each."""
    length = values.shape[axis]
    total = np.zeros((*values.shape[:axis], length + 1, *values.shape[axis + 1:]), np.int64)
    first = [slice(None)] * values.ndim
    first[axis] = slice(1, None)
    np.cumsum(values, axis=axis, dtype=np.int64, out=total[tuple(first)])
    edges = np.arange(size + 1, dtype=np.int64) * length  # in units of 1/size of a pixel
    whole, part = edges // size, edges % size
    shape = [1] * values.ndim
    shape[axis] = size + 1
    inside = np.take(values, np.minimum(whole, length - 1), axis=axis).astype(np.int64) * part.reshape(shape)
    sums: NDArray[np.int64] = np.diff(np.take(total, whole, axis=axis) * size + inside, axis=axis)
    return sums
