"""What a learner and the loop use of replay. The loop fills it and cuts it back on resume; a learner only samples and,
where it declares columns for that, writes back.

An entry is an observation with what led to it and what followed: ``image``, ``action`` (taken at it; zeros at an
episode's last), ``reward`` (received on arriving at it; 0 at a first), ``is_first``, ``is_last``, ``is_terminal``, and
the learner's columns. An episode of T decisions is T + 1 entries. Entries are never removed, only looked past.

With ``PVDR_BENCH_SCRATCH`` (a node's own disk) the streams live there, and what is new in them is copied to the run at
each checkpoint: a start on another node copies them back.

Shapes: N environments, H = W image size, A action dimensions, B positions, T entries of a stretch.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.rl.replay.columns import Array, Column
from pvdr_bench.rl.replay.drawing import Draw, Positions, Window, choose_uniform, last_of_each, ranges
from pvdr_bench.rl.replay.priorities import COLUMN, PRIORITY, Priorities, Weights, choose_by_weight
from pvdr_bench.rl.replay.scratch import scratch_folder
from pvdr_bench.rl.replay.stream import FLAGS, Stream
from pvdr_bench.rl.transition import Transition
from pvdr_bench.runs.faults import crash_point
from pvdr_bench.runs.files import make_folder

_OWN = ("image", "action", "reward", "is_first", "is_last", "is_terminal", "inside", PRIORITY, "u8", "f32")


class EpisodeReplay:
    """Episodes of ``num_envs`` environments below ``folder``.

    Args:
        capacity: newest entries that are drawn from, over all environments; 0: all.
    """

    def __init__(self, folder: Path, num_envs: int, image_size: int, action_dim: int, capacity: int = 0) -> None:
        make_folder(folder)
        self.scratch = scratch_folder(folder)
        if self.scratch is not None:
            make_folder(self.scratch)
        self.image_size, self.action_dim, self.capacity = image_size, action_dim, capacity
        self.columns: dict[str, Column] = {}
        self.weights: Weights | None = None  # where the learner declares priorities
        self.streams = [Stream(folder, f"env-{i:03d}", image_size * image_size * 3, action_dim + FLAGS, self.scratch)
                        for i in range(num_envs)]
        self._reward = np.zeros(num_envs, np.float32)

    def __len__(self) -> int:
        return sum(stream.length for stream in self.streams)

    def declare(self, columns: Sequence[Column] = (), *, capacity: int = 0,
                priorities: Priorities | None = None) -> None:
        """What the learner wants of it, said once, in the learner's constructor.

        Args:
            columns: kept beside each entry, from the extras of ``act``, and read with it.
            priorities: entries have one, written like a column by the name of :data:`PRIORITY`.

        Raises:
            UsageError: a column's name is taken or no name; there are entries already.
        """
        if self.columns or self.weights or (len(self) and (columns or priorities)):
            raise UsageError("replay's columns are declared once, before anything is in it")
        for i, column in enumerate(columns):
            if column.name in _OWN or not re.fullmatch(r"[a-z]\w*", column.name):
                raise UsageError(f"replay can have no column {column.name!r}",
                                 hint=f"small letters, digits and _, but not {', '.join(_OWN)}")
            if column.name in (other.name for other in columns[:i]):
                raise UsageError(f"two columns of replay have the name {column.name!r}")
        self.capacity, self.columns = capacity, {column.name: column for column in columns}
        for stream in self.streams:
            stream.declare([*columns, COLUMN] if priorities else columns)
        self.weights = Weights(priorities, self.streams) if priorities else None

    # Filling, by the loop ---------------------------------------------------------------------------------------------

    def add(self, transition: Transition) -> None:
        """Append one decision of all environments, and the final observations of episodes that ended.

        Raises:
            UsageError: a column is not among the extras, or is of another shape or type.
        """
        image, final = transition.image.numpy(), transition.next_image.numpy()
        action, reward = transition.action.numpy(), transition.reward.numpy()
        first, terminal = transition.is_first.numpy(), transition.terminated.numpy()
        ended = terminal | transition.truncated.numpy()
        values = {name: _checked(column, transition.extras) for name, column in self.columns.items()}
        for i in range(len(self.streams)):
            arrived = 0.0 if first[i] else self._reward[i]
            self._append(i, image[i], np.array([*action[i], arrived, first[i], 0, 0], np.float32),
                         {name: value[i] for name, value in values.items()})
            if ended[i]:
                row = np.array([*np.zeros(self.action_dim), reward[i], 0, 1, terminal[i]], np.float32)
                self._append(i, final[i], row, {name: np.zeros_like(value[i]) for name, value in values.items()})
        self._reward = reward.astype(np.float32).copy()
        crash_point("replay.append")

    def _append(self, i: int, frame: NDArray[np.uint8], row: NDArray[np.float32], values: dict[str, Array]) -> None:
        if self.weights:
            values[PRIORITY] = self.weights.append(i)
        self.streams[i].append(frame, row, values)

    # Sampling, by the learner -----------------------------------------------------------------------------------------

    def sample(self, rng: torch.Generator, batch: int, length: int) -> dict[str, Tensor]:
        """``batch`` stretches of ``length`` entries, uniform over the starts; they may cross episodes (is_first).

        Raises:
            UsageError: no stream is that long yet.
        """
        return self.read(self.draw(rng, batch, length).positions, length)

    def draw(self, rng: torch.Generator, batch: int, length: int, window: Window = "any",
             prioritised: bool = False) -> Draw:
        """Positions of ``batch`` stretches of ``length`` entries, with repetition.

        Args:
            prioritised: in proportion to the priorities of the stretches' first entries, not uniform.

        Raises:
            UsageError: there is no such stretch yet; or none with a priority above 0, or no priorities at all.
        """
        if prioritised and not self.weights:
            raise UsageError("replay has no priorities", hint="the learner declares them in its constructor")
        keep = self.capacity // len(self.streams) if self.capacity else max(s.length for s in self.streams)
        some = [ranges(stream, max(0, stream.length - max(keep, length)), length, window) for stream in self.streams]
        weights = self.weights.all if self.weights and prioritised else None
        found = choose_by_weight(some, weights, rng, batch) if weights else choose_uniform(some, rng, batch)
        if found is None:
            raise UsageError(f"replay has no sequence of {length} entries yet"
                             + (" with a priority above 0" if prioritised else ""))
        return found

    def read(self, positions: Positions, length: int, before: int = 0, padded: bool = False,
             columns: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The stretches [B, before + length, ...] around positions [B]: ``before`` entries, then ``length``.

        Args:
            padded: what lies outside the position's episode is its nearest entry again; ``inside`` (bool) tells.
            columns: the learner's to read with them; None: all.

        Raises:
            UsageError: a stretch that is not padded is not there.
        """
        stream, index = positions.stream.numpy(), positions.index.numpy()
        first, last = self._bounds(stream, index, padded)
        offset = np.arange(-before, length)
        wanted = index[:, None] + offset
        taken = np.clip(wanted, first[:, None], last[:, None])
        if not padded and (taken != wanted).any():
            raise UsageError("replay has no such entries: a stretch goes over the end or the beginning",
                             hint="padded=True repeats an episode's first and last entries")
        size, shape = self.image_size, taken.shape
        frames = np.empty((*shape, size * size * 3), np.uint8)
        flat = np.empty((*shape, self.action_dim + FLAGS), np.float32)
        for b, i in enumerate(stream):
            self.streams[i].read_into(taken[b], frames[b], flat[b])
        image, rows = torch.from_numpy(frames.reshape(*shape, size, size, 3)), torch.from_numpy(flat)
        action, flags = rows[..., :self.action_dim], rows[..., self.action_dim:]
        out = {"image": image, "action": action, "reward": flags[..., 0],
               "is_first": flags[..., 1].bool(), "is_last": flags[..., 2].bool(), "is_terminal": flags[..., 3].bool()}
        for name in self.columns if columns is None else columns:
            out[name] = torch.from_numpy(np.stack([self.streams[i].values(name, rows)
                                                   for i, rows in zip(stream, taken, strict=True)]))
        return {**out, "inside": torch.from_numpy(taken == wanted)} if padded else out

    def _bounds(self, stream: Array, index: Array, padded: bool) -> tuple[Array, Array]:
        """First and last entry that may be read for each position: of its episode, or of its stream."""
        first, last = np.zeros_like(index), np.zeros_like(index)
        for i in np.unique(stream):
            rows = stream == i
            if padded:
                first[rows], last[rows] = self.streams[i].bounds(index[rows])
            else:
                last[rows] = self.streams[i].length - 1
        return first, last

    # Writing back, by the learner -------------------------------------------------------------------------------------

    def write(self, positions: Positions, column: str, values: Tensor) -> None:
        """Replace a column's values [..., *shape] at positions [...]; of several for one entry the last one stays.

        :data:`PRIORITY` takes priorities, numbers from 0.

        Raises:
            UsageError: no such column, not a rewritable one, no such entries, or values of another shape or type.
            TrainingError: a priority is negative or not finite.
        """
        kind = COLUMN if column == PRIORITY and self.weights else self.columns.get(column)
        if kind is None or not kind.rewritable:
            raise UsageError(f"replay has no rewritable column {column!r}",
                             hint=f"declared: {', '.join(self.columns) or 'none'}")
        new = self.weights.of(values) if self.weights and kind is COLUMN else _converted(kind, values)
        shape = kind.shape
        if new.shape != (*positions.index.shape, *shape):
            raise UsageError(f"values {new.shape} of {column} for positions {tuple(positions.index.shape)}")
        self._write(positions.stream.numpy().ravel(), positions.index.numpy().ravel(), column,
                    new.reshape(-1, *shape))

    def _write(self, stream: Array, index: Array, column: str, values: Array) -> None:
        lengths = np.array([s.length for s in self.streams])
        if ((stream < 0) | (stream >= len(lengths))).any() or ((index < 0) | (index >= lengths[stream])).any():
            raise UsageError("these positions are not in the replay")
        kept = last_of_each(stream, index)
        for i in np.unique(stream):
            rows = kept[stream[kept] == i]
            self.streams[i].columns[column].write(index[rows], values[rows])
            if self.weights and column == PRIORITY:
                self.weights.write(i, index[rows], values[rows])

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Lengths of the streams, forced to disk, and the rewards that wait for their entry.

        With columns that may be written anew, also where their values are: every call is a checkpoint, and what the
        last few of them saw is kept (see ``columns.py``).
        """
        for stream in self.streams:
            stream.sync()
            crash_point("replay.sync")
        state = {"lengths": [stream.length for stream in self.streams], "reward": torch.from_numpy(self._reward.copy())}
        if self._rewritable():
            state["columns"] = [stream.state_dict() for stream in self.streams]
        if self.weights:
            state["largest"] = self.weights.largest
        return state

    def _rewritable(self) -> list[str]:
        return [name for name, column in self.streams[0].columns.items() if column.column.rewritable]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut the streams back to what :meth:`state_dict` saw.

        Raises:
            DataError: there is less, or it is of other columns.
        """
        saved: list[dict[str, list[Array]]] = state.get("columns", [{} for _ in self.streams])
        if sorted(saved[0]) != sorted(self._rewritable()):
            raise DataError(f"the checkpoint's replay has the rewritable columns {sorted(saved[0])}, the learner "
                            f"declares {sorted(self._rewritable())}", hint="delete the run folder and start it again")
        for stream, length, columns in zip(self.streams, state["lengths"], saved, strict=True):
            stream.cut(int(length), columns)
        self._reward = state["reward"].numpy().copy()
        if self.weights:
            self.weights.load(self.streams, float(state["largest"]))

    def clear(self) -> None:
        """Forget everything: the run starts anew."""
        for stream in self.streams:
            stream.cut(0, {})
        if self.weights:
            self.weights.load(self.streams)

    def close(self) -> None:
        """Close the files; a node's own disk is left clean."""
        for stream in self.streams:
            stream.close()
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


def _checked(column: Column, extras: dict[str, Tensor]) -> Array:
    """A column's values [N, *shape] among the extras of a decision."""
    if column.name not in extras:
        raise UsageError(f"replay's column {column.name!r} is not among the extras that act returned",
                         hint=f"there are: {', '.join(extras) or 'none'}")
    values = _converted(column, extras[column.name])
    if values.shape[1:] != column.shape:
        raise UsageError(f"replay's column {column.name!r} has the shape {column.shape}, act returned {values.shape}")
    return values


def _converted(column: Column, values: Tensor) -> Array:
    """As an array of the column's own type; nothing is rounded in silence."""
    array: Array = values.detach().cpu().numpy()
    if array.dtype != np.dtype(column.dtype):
        raise UsageError(f"replay's column {column.name!r} is of {column.dtype}, not of {array.dtype}",
                         hint="convert the values, or declare the column with their type")
    return array
