"""The side file of a clip store with the simulator's truth, row by row while it grows, then as one NPZ."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import DataError


def truth_table(length: int, columns: Mapping[str, int], truth: Mapping[str, NDArray[Any]],
                source: str) -> NDArray[np.float32]:
    """The arrays of an episode side by side: float32 [length, sum of widths].

    Args:
        columns: name -> width. truth: arrays [length, width] or [length], exactly those.

    Raises:
        DataError: others, or of another length.
    """
    if set(truth) != set(columns):
        raise DataError(f"truth has {sorted(truth)}, the store expects {sorted(columns)}", where=source)
    parts = [np.zeros((length, 0), np.float32)]
    for name, width in columns.items():
        part = np.asarray(truth[name], np.float32).reshape(-1, width)
        if len(part) != length:
            raise DataError(f"truth {name!r} has {len(part)} rows for {length} frames", where=source)
        parts.append(part)
    return np.concatenate(parts, axis=1)


def write_truth(raw: Path, target: Path, columns: Mapping[str, int], frames: int) -> None:
    """A file of such rows as an NPZ with an array for each column; the same rows give the same bytes."""
    table = np.fromfile(raw, np.float32).reshape(frames, sum(columns.values()))
    with target.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        column = 0
        for name, count in columns.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(table[:, column:column + count]))
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), buffer.getvalue())
            column += count
