"""Rows of one size in a file, read where they are wanted: memory holds what was asked for, not what was read before.

A mapped file counts every page that was ever touched as this process' own, which for a corpus larger than memory is all
of it; and a file that is cut off under a map kills the process. Reading does neither.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import DataError


class RowFile:
    """A file as an array of ``count`` rows.

    Args:
        shape: of one row.
    """

    def __init__(self, path: Path, dtype: Any, count: int, shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.count, self.shape = path, np.dtype(dtype), count, shape
        self._bytes = int(np.prod(shape)) * self.dtype.itemsize
        self._file = path.open("rb", buffering=0)

    def read(self, first: int, last: int) -> NDArray[Any]:
        """Rows ``first`` to ``last`` (exclusive).

        Raises:
            IndexError: there are fewer. DataError: the file was cut off since it was opened.
        """
        if not 0 <= first <= last <= self.count:
            raise IndexError(f"rows {first}:{last} of {self.count}")
        out = np.empty((last - first, *self.shape), self.dtype)
        self._into(out, first)
        return out

    def take(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Rows at ``indices`` [...], copied; neighbours in a row are read in one go."""
        flat = np.ascontiguousarray(indices, np.int64).ravel()
        if flat.size and (flat.min() < 0 or flat.max() >= self.count):
            raise IndexError(f"rows {flat.min()} to {flat.max()} of {self.count}")
        out = np.empty((flat.size, *self.shape), self.dtype)
        edges = np.append(np.flatnonzero(np.diff(flat, prepend=-2) != 1), flat.size)
        for begin, end in zip(edges[:-1], edges[1:], strict=True):
            self._into(out[begin:end], int(flat[begin]))
        return out.reshape(*np.shape(indices), *self.shape)

    def _into(self, out: NDArray[Any], first: int) -> None:
        view, offset = out.data.cast("B") if out.size else memoryview(b""), first * self._bytes
        while view:
            count = os.preadv(self._file.fileno(), [view], offset)
            if not count:
                raise DataError("became shorter since it was opened", where=f"{self.path}, byte {offset}")
            view, offset = view[count:], offset + count
