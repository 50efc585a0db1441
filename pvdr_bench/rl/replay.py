"""Replay of whole episodes on disk: append-only uint8 frames, one stream per environment.

The loop fills it and cuts it back on resume; a learner only samples. An entry is an observation with what led
to it and what followed: ``image``, ``action`` (taken at it; zeros at an episode's last), ``reward`` (received on
arriving at it; 0 at a first), ``is_first``, ``is_last``, ``is_terminal``. An episode of T decisions is T + 1 entries.

With ``PVDR_BENCH_SCRATCH`` (a node's own disk) the streams live there, and what is new in them is copied to the run at
each checkpoint: a start on another node copies them back.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvdr_bench.errors import DataError, SetupError, UsageError
from pvdr_bench.rl.transition import Transition
from pvdr_bench.runs.faults import crash_point
from pvdr_bench.runs.files import content_hash, storage_errors

FLAGS = 4  # reward, is_first, is_last, is_terminal
SCRATCH = "PVDR_BENCH_SCRATCH"
_COPY_BYTES = 2**24


def scratch_folder(folder: Path) -> Path | None:
    """Where the streams of ``folder`` live while they are used; None: in the folder itself.

    Raises:
        SetupError: the variable is set to nothing: what it was made of does not exist on this node.
    """
    chosen = os.environ.get(SCRATCH)
    if chosen is None:
        return None
    if not chosen:
        raise SetupError("the scratch folder's name is empty on this node", where=SCRATCH,
                         hint="the profile's `scratch` names a variable that is not set here; null: replay in the run")
    return Path(chosen) / f"replay-{os.getuid()}-{content_hash(str(folder.resolve()))}"


class Stream:
    """The entries of one environment: ``NAME.u8`` (frames) and ``NAME.f32`` (action and flags).

    Args:
        folder: the run's folder of them. scratch: where they live instead; ``folder`` then has what was synced.
    """

    def __init__(self, folder: Path, name: str, frame_bytes: int, row: int, scratch: Path | None = None) -> None:
        self.frame_bytes, self.row_bytes, self.length = frame_bytes, 4 * row, 0
        home = (folder / f"{name}.u8", folder / f"{name}.f32")
        self.paths = home if scratch is None else (scratch / f"{name}.u8", scratch / f"{name}.f32")
        self.home = None if scratch is None else _open(home)
        self.synced = 0  # entries that the run's folder has, where that is another one
        self.files = _open(self.paths)

    def append(self, frame: NDArray[np.uint8], row: NDArray[np.float32]) -> None:
        """Write one entry at the end."""
        sizes = (self.frame_bytes, self.row_bytes)
        for fd, path, data, size in zip(self.files, self.paths, (frame.tobytes(), row.tobytes()), sizes, strict=True):
            with storage_errors(path):
                if os.pwrite(fd, data, self.length * size) < size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.length += 1

    def read(self, start: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Entries [start, start + count): frames as bytes and rows."""
        parts = [os.pread(fd, count * size, start * size)
                 for fd, size in zip(self.files, (self.frame_bytes, self.row_bytes), strict=True)]
        return np.frombuffer(parts[0], np.uint8), np.frombuffer(parts[1], np.float32).reshape(count, -1)

    def cut(self, length: int) -> None:
        """Keep the first ``length`` entries.

        Raises:
            DataError: there are fewer.
        """
        if self.home is not None:
            self._fetch(length)
        for fd, path, size in zip(self.files, self.paths, (self.frame_bytes, self.row_bytes), strict=True):
            if os.fstat(fd).st_size < length * size:
                raise DataError(f"replay ends at byte {os.fstat(fd).st_size}, the checkpoint needs {length * size}",
                                where=str(path), hint="delete the run folder and start the run again")
            os.ftruncate(fd, length * size)
        self.length = length

    def sync(self) -> None:
        """Force the entries to the run's disk."""
        if self.home is not None:
            self._bring()
        for fd in self.home or self.files:
            os.fsync(fd)

    def _bring(self) -> None:
        """Copy what is new since the last time to the run's folder."""
        assert self.home is not None
        for source, target, path, size in zip(self.files, self.home, self.paths, (self.frame_bytes, self.row_bytes),
                                              strict=True):
            with storage_errors(path):
                copy_bytes(source, target, self.synced * size, self.length * size)
        self.synced = self.length

    def _fetch(self, length: int) -> None:
        """Copy the first ``length`` entries back from the run's folder, as far as it has them, and cut it there."""
        assert self.home is not None
        for source, target, path, size in zip(self.home, self.files, self.paths, (self.frame_bytes, self.row_bytes),
                                              strict=True):
            with storage_errors(path):
                os.ftruncate(target, 0)
                copy_bytes(source, target, 0, min(length * size, os.fstat(source).st_size))
                os.ftruncate(source, min(length * size, os.fstat(source).st_size))
        self.synced = length

    def close(self) -> None:
        """Close all files."""
        for fd in (*self.files, *(self.home or ())):
            os.close(fd)


def _open(paths: tuple[Path, Path]) -> list[int]:
    """Both files for reading and writing; made where they are missing."""
    return [os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644) for path in paths]


def copy_bytes(source: int, target: int, start: int, end: int) -> None:
    """Copy bytes [start, end) of an open file to the same place of another.

    Raises:
        OSError: the disk is full.
    """
    while start < end:
        data = os.pread(source, min(_COPY_BYTES, end - start), start)
        if os.pwrite(target, data, start) < len(data) or not data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        start += len(data)


class EpisodeReplay:
    """Episodes of ``num_envs`` environments below ``folder``.

    Args:
        capacity: entries that :meth:`sample` looks back on, over all environments; 0: all.
    """

    def __init__(self, folder: Path, num_envs: int, image_size: int, action_dim: int, capacity: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.scratch = scratch_folder(folder)
        if self.scratch is not None:
            with storage_errors(self.scratch):
                self.scratch.mkdir(parents=True, exist_ok=True)
        self.image_size, self.action_dim, self.capacity = image_size, action_dim, capacity
        self.streams = [Stream(folder, f"env-{i:03d}", image_size * image_size * 3, action_dim + FLAGS, self.scratch)
                        for i in range(num_envs)]
        self._reward = np.zeros(num_envs, np.float32)

    def __len__(self) -> int:
        return sum(stream.length for stream in self.streams)

    def add(self, transition: Transition) -> None:
        """Append one decision of all environments, and the final observations of episodes that ended."""
        image, final = transition.image.numpy(), transition.next_image.numpy()
        action, reward = transition.action.numpy(), transition.reward.numpy()
        first, terminal = transition.is_first.numpy(), transition.terminated.numpy()
        ended = terminal | transition.truncated.numpy()
        for i, stream in enumerate(self.streams):
            arrived = 0.0 if first[i] else self._reward[i]
            stream.append(image[i], np.array([*action[i], arrived, first[i], 0, 0], np.float32))
            if ended[i]:
                row = np.array([*np.zeros(self.action_dim), reward[i], 0, 1, terminal[i]], np.float32)
                stream.append(final[i], row)
        self._reward = reward.astype(np.float32).copy()
        crash_point("replay.append")

    def sample(self, rng: torch.Generator, batch: int, length: int) -> dict[str, Tensor]:
        """``batch`` sequences of ``length`` entries, uniform over the starts; they may cross episodes (is_first).

        Returns:
            image uint8 [B, L, H, W, 3]; action [B, L, A]; reward, is_first, is_last, is_terminal [B, L].

        Raises:
            UsageError: no environment has ``length`` entries yet.
        """
        keep = self.capacity // len(self.streams) if self.capacity else max(s.length for s in self.streams)
        lows = [max(0, s.length - max(keep, length)) for s in self.streams]
        starts = np.array([max(0, s.length - low - length + 1) for s, low in zip(self.streams, lows, strict=True)])
        if not starts.sum():
            raise UsageError(f"replay has no sequence of {length} entries yet")
        picks = torch.randint(int(starts.sum()), (batch,), generator=rng).numpy()
        bounds, parts = np.cumsum(starts), []
        for pick in picks:
            i = int(np.searchsorted(bounds, pick, side="right"))
            parts.append(self.streams[i].read(lows[i] + int(pick - (bounds[i] - starts[i])), length))
        size = self.image_size
        frames = np.stack([frames for frames, _ in parts]).reshape(batch, length, size, size, 3)
        rows = torch.from_numpy(np.stack([rows for _, rows in parts]))
        action, flags = rows[..., :self.action_dim], rows[..., self.action_dim:]
        return {"image": torch.from_numpy(frames), "action": action, "reward": flags[..., 0],
                "is_first": flags[..., 1].bool(), "is_last": flags[..., 2].bool(), "is_terminal": flags[..., 3].bool()}

    def state_dict(self) -> dict[str, Any]:
        """Lengths of the streams, forced to disk, and the rewards that wait for their entry."""
        for stream in self.streams:
            stream.sync()
        return {"lengths": [stream.length for stream in self.streams], "reward": torch.from_numpy(self._reward.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut the streams back to what :meth:`state_dict` saw."""
        for stream, length in zip(self.streams, state["lengths"], strict=True):
            stream.cut(int(length))
        self._reward = state["reward"].numpy().copy()

    def clear(self) -> None:
        """Forget everything: the run starts anew."""
        for stream in self.streams:
            stream.cut(0)

    def close(self) -> None:
        """Close the files; a node's own disk is left clean."""
        for stream in self.streams:
            stream.close()
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)
