"""The entries of one environment, on disk, and where its episodes are. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.rl.replay.columns import Array, Column, StoredColumn
from pvdr_bench.rl.replay.records import RecordFile

FLAGS = 4  # reward, is_first, is_last, is_terminal: the end of a row
Ints = NDArray[np.int64]


class Stream:
    """Files ``NAME.u8`` (frames), ``NAME.f32`` (rows: action and flags) and one for each column.

    Args:
        folder: the run's folder of them. scratch: where they live instead; ``folder`` then has what was synced.
    """

    def __init__(self, folder: Path, name: str, frame_bytes: int, row: int, scratch: Path | None = None) -> None:
        self.name, self.folder, self.scratch, self.length = name, folder, scratch, 0
        self.frames = RecordFile(folder, f"{name}.u8", frame_bytes, scratch)
        self.rows = RecordFile(folder, f"{name}.f32", 4 * row, scratch)
        self.columns: dict[str, StoredColumn] = {}
        self._synced = 0  # entries that the run's folder has
        self._forget_episodes()

    def declare(self, columns: Sequence[Column]) -> None:
        """Open the files of further columns; before the first entry."""
        for column in columns:
            self.columns[column.name] = StoredColumn(column, self.folder, self.name, self.scratch)

    def append(self, frame: NDArray[np.uint8], row: NDArray[np.float32], values: Mapping[str, Array]) -> None:
        """Write one entry at the end, with a value of each column."""
        self.frames.write(self.length, frame.tobytes())
        self.rows.write(self.length, row.tobytes())
        for name, column in self.columns.items():
            column.append(values[name])
        self.length += 1

    def read(self, start: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Entries [start, start + count): frames as bytes and rows."""
        rows = np.frombuffer(self.rows.read(start, count), np.float32)
        return np.frombuffer(self.frames.read(start, count), np.uint8), rows.reshape(count, -1)

    def read_into(self, taken: Ints, frames: NDArray[np.uint8], rows: NDArray[np.float32]) -> None:
        """Ascending entries ``taken`` [T], some of them repeated: frames [T, bytes] and rows [T, A + 4]."""
        low, count = int(taken[0]), int(taken[-1] - taken[0]) + 1
        if count == len(taken):
            self.frames.read_into(low, frames)
            self.rows.read_into(low, rows.view(np.uint8))
        else:
            some, flat = self.read(low, count)
            frames[:], rows[:] = some.reshape(count, -1)[taken - low], flat[taken - low]

    def values(self, column: str, taken: Ints) -> Array:
        """A column's values [T, *shape] of ascending entries ``taken`` [T], some of them repeated."""
        low, count = int(taken[0]), int(taken[-1] - taken[0]) + 1
        values = self.columns[column].read(low, count)
        return values if count == len(taken) else values[taken - low]

    # Episodes ---------------------------------------------------------------------------------------------------------

    def _forget_episodes(self) -> None:
        self._starts = np.zeros(0, np.int64)
        self._seen, self._closed = 0, False  # entries whose flags were read; whether the last of them ends an episode

    def episodes(self) -> tuple[Ints, Ints, bool]:
        """First and last entry of each episode, and whether the last one is over."""
        if self._seen < self.length:
            count = self.length - self._seen
            flags = np.frombuffer(self.rows.read(self._seen, count), np.float32).reshape(count, -1)[:, -FLAGS:]
            self._starts = np.append(self._starts, self._seen + np.flatnonzero(flags[:, 1]))
            self._seen, self._closed = self.length, bool(flags[-1, 2])
        ends = np.append(self._starts[1:] - 1, self.length - 1)[:len(self._starts)]
        return self._starts, ends, self._closed

    def bounds(self, index: Ints) -> tuple[Ints, Ints]:
        """First and last entry, so far, of the episodes that entries ``index`` [n] are in."""
        starts, ends, _ = self.episodes()
        which = np.searchsorted(starts, index, side="right") - 1
        return starts[which], ends[which]

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Force the entries to the run's disk: a checkpoint is being made."""
        for file in (self.frames, self.rows):
            file.save(self._synced, self.length)
            file.sync()
        for column in self.columns.values():
            column.save()
        self._synced = self.length

    def cut(self, length: int, saved: Mapping[str, list[Array]]) -> None:
        """Keep the first ``length`` entries, with the columns as they were ``saved``.

        Raises:
            DataError: there are fewer.
        """
        for file in (self.frames, self.rows):
            file.cut(length, length)
        for name, column in self.columns.items():
            column.restore(length, saved.get(name, []))
        self.length = self._synced = length
        self._forget_episodes()

    def state_dict(self) -> dict[str, list[Array]]:
        """What :meth:`cut` needs of the columns that may be written anew."""
        return {name: column.state_dict() for name, column in self.columns.items() if column.column.rewritable}

    def open_files(self) -> list[RecordFile]:
        """All files."""
        return [self.frames, self.rows, *(file for column in self.columns.values() for file in column.files.values())]

    def close(self) -> None:
        """Close all files."""
        for file in self.open_files():
            file.close()
