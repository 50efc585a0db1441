"""Reading a clip store: a published corpus, read where clips are drawn. What lies on disk: ``layout.py``."""

from __future__ import annotations

from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import DataError
from pvdr_bench.runs.files import sha256_file
from pvdr_bench.videos.layout import (
    FORMAT_VERSION,
    FRAMES,
    HINT,
    INDEX,
    MANIFEST,
    TRAIN,
    TRUTH,
    Episode,
    Frames,
    checksum_ahead,
    partial_path,
    read_object,
)
from pvdr_bench.videos.rows import RowFile
from pvdr_bench.videos.windows import Drawn, episode_windows, of_size, sample_indices, within_episodes


class ClipStore:
    """A published corpus, opened for reading.

    Opening checks that all files are there and have their length; `verify` reads every byte.

    Args:
        path: the published folder.

    Raises:
        DataError: no such store, another format, or a file shorter or longer than it was.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not (self.path / MANIFEST).is_file():
            unfinished = partial_path(self.path).exists()
            raise DataError(
                "the corpus was not finished" if unfinished else "no clip store here", where=str(self.path),
                hint="make or continue it with: pvdr-bench videos generate NAME",
            )
        self.manifest: dict[str, Any] = read_object(self.path / MANIFEST)
        if self.manifest.get("format") != FORMAT_VERSION:
            raise DataError(
                f"clip store format {self.manifest.get('format')}, this version reads {FORMAT_VERSION}",
                where=str(self.path / MANIFEST), hint=HINT,
            )
        self._check_sizes()
        index = read_object(self.path / INDEX)
        self.image_size: int = index["image_size"]
        self.fps: float = index["fps"]
        self.episodes: list[Episode] = [Episode(*row) for row in index["episodes"]]
        self._crc32: list[int] = index["crc32"]
        self.num_frames: int = sum(e.length for e in self.episodes)
        shape = (self.num_frames, self.image_size, self.image_size, 3)
        stored, wanted = (self.path / FRAMES).stat().st_size, int(np.prod(shape))
        if stored != wanted:
            raise DataError(
                f"index tells of {wanted} bytes, the file has {stored}",
                where=f"{self.path / FRAMES}, byte {min(stored, wanted)}", hint=HINT,
            )
        self._rows = RowFile(self.path / FRAMES, np.uint8, self.num_frames, shape[1:])
        self._windows: dict[tuple[str | None, int, int], NDArray[np.int64]] = {}

    @property
    def hash(self) -> str:
        """12 hex digits that name frames, episodes and splits."""
        return str(self.manifest["hash"])

    @property
    def recipe(self) -> dict[str, Any]:
        """What the corpus was made from."""
        return dict(self.manifest["recipe"])

    @property
    def about(self) -> dict[str, str]:
        """Of real videos: ``source``, ``license`` and ``citation``, those that are known."""
        return dict(self.manifest.get("about", {}))

    def _check_sizes(self) -> None:
        for name, entry in self.manifest["files"].items():
            path = self.path / name
            if not path.is_file():
                raise DataError("file is missing", where=str(path), hint=HINT)
            size = path.stat().st_size
            if size != entry["bytes"]:
                what = "truncated" if size < entry["bytes"] else "longer than it was written"
                raise DataError(
                    f"file is {what}: {size} bytes instead of {entry['bytes']}",
                    where=f"{path}, byte {min(size, entry['bytes'])}", hint=HINT,
                )

    def verify(self) -> None:
        """Read every byte and compare checksums.

        Raises:
            DataError: naming the first broken episode and the bytes it covers.
        """
        frame_bytes = self.image_size * self.image_size * 3
        with (self.path / FRAMES).open("rb") as file:
            for number, (episode, crc) in enumerate(zip(self.episodes, self._crc32, strict=True)):
                first = file.seek(episode.start * frame_bytes)
                if checksum_ahead(file, episode.length * frame_bytes) != crc:
                    raise DataError(
                        f"checksum of episode {number} ({episode.source}) is wrong",
                        where=f"{self.path / FRAMES}, bytes {first} to {first + episode.length * frame_bytes}",
                        hint=HINT,
                    )
        for name, entry in self.manifest["files"].items():
            if sha256_file(self.path / name) != entry["sha256"]:
                raise DataError("checksum is wrong", where=str(self.path / name), hint=HINT)

    def frames(self, i0: int, i1: int) -> Frames:
        """Frames i0 to i1 (exclusive): uint8 [i1 - i0, H, W, 3], a read-only view of the file."""
        if not 0 <= i0 <= i1 <= self.num_frames:
            raise IndexError(f"frames {i0}:{i1} of a store with {self.num_frames}")
        return self._data[i0:i1]

    @cached_property
    def _data(self) -> Frames:
        """The whole file, mapped; made when it is first looked into."""
        return np.memmap(self.path / FRAMES, np.uint8, "r",
                         shape=(self.num_frames, self.image_size, self.image_size, 3))

    def read(self, i0: int, i1: int) -> Frames:
        """The same, copied: a corpus that is read through in pieces takes no more memory than a piece."""
        return self._rows.read(i0, i1)

    def take(self, indices: NDArray[np.int64]) -> Frames:
        """Frames at ``indices`` [...]: uint8 [..., H, W, 3], copied."""
        return self._rows.take(indices)

    def windows(self, split: str | None, frames: int, stride: int = 1) -> NDArray[np.int64]:
        """First frames [W] of every clip of ``frames`` frames, ``stride`` apart, that lies inside one episode.

        Args:
            split: ``train``, ``heldout``, or None for both.
        """
        key = (split, frames, stride)
        if key not in self._windows:
            self._windows[key] = episode_windows(self.episodes, split, frames, stride)
        return self._windows[key]

    def of_size(self, frames: int) -> ClipStore:
        """The same with at most about so many training frames; see :func:`~pvdr_bench.videos.windows.of_size`."""
        other = copy(self)
        other.episodes, other._windows = of_size(self.episodes, frames), {}
        return other

    def draw(
        self, rng: np.random.Generator, batch: int, frames: int, stride: int = 1, split: str | None = TRAIN,
        part: slice = slice(None),
    ) -> Drawn:
        """Clips uniform over windows, with replacement: uint8 [batch, frames, H, W, 3].

        With ``part`` the same batch is drawn, and only those clips of it are read.
        """
        indices = sample_indices(rng, self.windows(split, frames, stride), batch, frames, stride)[part]
        return Drawn(self.take(indices), within_episodes(self.episodes, indices[:, 0]))

    @cached_property
    def truth(self) -> dict[str, NDArray[np.float32]] | None:
        """The simulator's truth per frame, e.g. ``action`` [F, A], ``hand`` [F, 3] in metres; for probes only.

        ``action[t]`` led from frame t to t + 1 and is zero in an episode's last frame. None if the corpus has none.
        """
        if TRUTH not in self.manifest["files"]:
            return None
        with np.load(self.path / TRUTH) as archive:
            return {name: archive[name] for name in archive.files}
