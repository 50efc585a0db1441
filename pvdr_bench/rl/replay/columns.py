"""What a learner keeps beside each entry of replay: log-probabilities, search policies, latent states, priorities.

A column is written with its entry. A *rewritable* one may be written anew at any time, and a killed run must still
continue as if it had never been killed: a write after the last checkpoint must not be seen by a start from it. So no
value that a checkpoint knows is ever overwritten. Each entry of a rewritable column has a few places (slots), one file
each, and a number that says which one holds its value; the first write after a checkpoint goes to a place that no kept
checkpoint uses, later ones overwrite that. A checkpoint stores the numbers, a byte per entry; the places of unwritten
values are holes in their files. Nothing is journaled, undone or compacted. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import DataError
from pvdr_bench.rl.replay.records import RecordFile
from pvdr_bench.runs.checkpoints import KEEP
from pvdr_bench.runs.faults import crash_point

Array = NDArray[Any]
Dtype = Literal["float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool"]
KEPT = KEEP + 1  # checkpoints that a run may go on from


@dataclass(frozen=True)
class Column:
    """One array per entry, taken from the extras of that name which ``act`` returned; zeros at an episode's last."""

    name: str
    shape: tuple[int, ...] = ()
    dtype: Dtype = "float32"
    rewritable: bool = False

    @property
    def bytes(self) -> int:
        """Of one entry."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Grown:
    """A NumPy array [n] that grows at its end."""

    def __init__(self, dtype: str) -> None:
        self._room, self.length = np.zeros(64, dtype), 0

    def append(self, value: float) -> None:
        """One more element."""
        if self.length == len(self._room):
            self._room = np.concatenate([self._room, np.zeros_like(self._room)])
        self._room[self.length] = value
        self.length += 1

    @property
    def all(self) -> Array:
        """The elements; a view, to be written to as well."""
        return self._room[:self.length]

    def reset(self, values: Array) -> None:
        """Hold exactly these."""
        self._room, self.length = np.concatenate([values, np.zeros(64, self._room.dtype)]), len(values)


class StoredColumn:
    """A column of one environment: file ``STREAM.COLUMN``, with ``.1`` and so on for the further places."""

    def __init__(self, column: Column, folder: Path, stream: str, scratch: Path | None) -> None:
        self.column, self._name = column, f"{stream}.{column.name}"
        self._folder, self._scratch = folder, scratch
        self.files = {0: self._file(0)}
        self.slots = Grown("uint8")  # of each entry
        self.saved: list[Array] = []  # the slots as the kept checkpoints know them, the newest last

    def _file(self, slot: int) -> RecordFile:
        name = f"{self._name}.{slot}" if slot else self._name
        return RecordFile(self._folder, name, self.column.bytes, self._scratch)

    def append(self, value: Array) -> None:
        """The value of the next entry."""
        self.files[0].write(self.slots.length, value.tobytes())
        self.slots.append(0)

    def read(self, start: int, count: int) -> Array:
        """Values [count, *shape] of entries [start, start + count)."""
        slots = self.slots.all[start:start + count]
        out = np.empty((count, *self.column.shape), self.column.dtype)
        for slot in np.unique(slots) if self.column.rewritable else (0,):
            rows = np.flatnonzero(slots == slot) if self.column.rewritable else np.arange(count)
            low, high = int(rows[0]), int(rows[-1]) + 1
            data = np.frombuffer(self.files[int(slot)].read(start + low, high - low), self.column.dtype)
            out[rows] = data.reshape(high - low, *self.column.shape)[rows - low]
        return out

    def write(self, index: NDArray[np.int64], values: Array) -> None:
        """Replace the values at ``index`` [n], each of which is there once and in order."""
        places = self._places(index)
        for low, high in runs(index, places):
            slot = int(places[low])
            if slot not in self.files:
                self.files[slot] = self._file(slot)
            self.files[slot].write(int(index[low]), values[low:high].tobytes())
            crash_point("replay.rewrite")
        self.slots.all[index] = places

    def _places(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Where new values go: over the old ones if no kept checkpoint knows those, else to a free place."""
        places = self.slots.all[index].copy()
        if not self.saved:
            return places
        known = np.stack([_at(saved, index) for saved in self.saved])  # [checkpoints, n]
        taken = (known == places).any(0)
        for slot in reversed(range(KEPT + 1)):
            places[taken & (known != slot).all(0)] = slot
        return places

    def save(self) -> None:
        """Force the values to the run's disk and remember where they are: a checkpoint is being made."""
        slots = self.slots.all.copy()
        before = self.saved[-1] if self.saved else slots[:0]
        changed = np.flatnonzero(slots != _at(before, np.arange(len(slots))))
        for low, high in runs(changed, slots[changed]):
            self.files[int(slots[changed[low]])].save(int(changed[low]), int(changed[high - 1]) + 1)
        for file in self.files.values():
            file.sync()
        self.saved = [*self.saved, slots][-KEPT:]

    def state_dict(self) -> list[Array]:
        """Slots as the kept checkpoints know them; nothing for a column that is never written anew."""
        return [saved.copy() for saved in self.saved] if self.column.rewritable else []

    def restore(self, length: int, saved: list[Array]) -> None:
        """Go back to what :meth:`state_dict` saw, of ``length`` entries.

        Raises:
            DataError: the files hold less.
        """
        self.saved = [np.asarray(slots, np.uint8) for slots in saved] or [np.zeros(length, np.uint8)]
        slots = self.saved[-1]
        if len(slots) != length:
            raise DataError(f"the checkpoint has {len(slots)} entries of {self.column.name} and {length} of the others",
                            where=str(self.files[0].path))
        self.slots.reset(slots)
        for slot in range(1, KEPT + 1):
            if (slots == slot).any() and slot not in self.files:
                self.files[slot] = self._file(slot)
        for slot, file in self.files.items():
            used = np.flatnonzero(slots == slot)
            file.cut(length if slot == 0 else int(used[-1]) + 1 if len(used) else 0, length)

    def close(self) -> None:
        """Close all files."""
        for file in self.files.values():
            file.close()


def _at(slots: Array, index: NDArray[np.int64]) -> Array:
    """Slots at ``index``; 255, which is no slot, for entries that were not there yet."""
    known = np.full(len(index), 255, np.uint8)
    inside = index < len(slots)
    known[inside] = slots[index[inside]]
    return known


def runs(index: NDArray[np.int64], label: Array) -> Iterator[tuple[int, int]]:
    """Stretches [low, high) of sorted ``index`` that are consecutive and have one label."""
    if not len(index):
        return
    breaks = np.flatnonzero((np.diff(index) != 1) | (label[1:] != label[:-1])) + 1
    bounds = [0, *breaks.tolist(), len(index)]
    yield from zip(bounds[:-1], bounds[1:], strict=True)
