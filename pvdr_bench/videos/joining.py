"""Joining the parts of an import: appended to the final store in their order, each as soon as it is there."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvdr_bench.errors import DataError
from pvdr_bench.runs.faults import crash_point
from pvdr_bench.runs.files import read_json, write_json
from pvdr_bench.suites.resize import Fit
from pvdr_bench.videos.readers.base import ReadOptions, Unit
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.writer import ClipWriter

_COPY_FRAMES = 64


@dataclass(frozen=True)
class ImportPart:
    """What one worker makes; plain data, sent to it."""

    folder: str
    root: str
    format: str
    options: ReadOptions
    image_size: int
    fit: Fit
    cut: int
    unit: Unit


class Join:
    """Appends parts to the final store in their order, each as soon as it is there, and deletes it then.

    A mark beside each deleted part tells how many episodes it had. After a power cut the final store may have lost
    episodes that a mark tells of: from that part on, parts are made again. Parts themselves are not forced to the disk,
    which would write a corpus twice: those that are found are verified, and made again where they lost something.
    """

    def __init__(self, path: Path, parts: list[ImportPart], recipe: dict[str, Any], fps: float) -> None:
        self.writer = ClipWriter(path, parts[0].image_size, recipe, fps=fps, both_splits=True)
        self._parts = parts
        self._next = self._first = 0  # the part that is due, and its first episode's number
        for part in parts:
            if not _mark(part).exists():
                break
            episodes = int(read_json(_mark(part))["episodes"])
            if self._first + episodes > self.writer.num_episodes:
                break
            shutil.rmtree(part.folder, ignore_errors=True)
            self._next, self._first = self._next + 1, self._first + episodes
        for part in parts[self._next:]:
            marked = _mark(part).exists()
            if marked or not _is_whole(Path(part.folder)):
                shutil.rmtree(part.folder, ignore_errors=True)
            _mark(part).unlink(missing_ok=True)

    def is_made(self, part: ImportPart) -> bool:
        """Whether a part is there, or was and is joined."""
        return _mark(part).exists() or Path(part.folder).exists()

    def advance(self) -> None:
        """Join what is there and next in order."""
        while self._next < len(self._parts) and Path(self._parts[self._next].folder).exists():
            part = self._parts[self._next]
            store = ClipStore(part.folder)
            have = self.writer.num_episodes - self._first  # an interrupted join had these already
            for episode in store.episodes[have:]:
                end = episode.start + episode.length
                chunks = (store.read(at, min(at + _COPY_FRAMES, end))
                          for at in range(episode.start, end, _COPY_FRAMES))
                self.writer.append_chunks(chunks, episode.source, episode.split)
            self.writer.sync()
            write_json(_mark(part), {"episodes": len(store.episodes)})
            crash_point("videos.joined")
            _remove(Path(part.folder))
            self._next, self._first = self._next + 1, self._first + len(store.episodes)


def _remove(folder: Path) -> None:
    """Delete a part whose worker may still be taking its journal out of it: it has its name before that."""
    while folder.exists():
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def _is_whole(folder: Path) -> bool:
    """Whether a part is there and has the bytes that it was written with."""
    try:
        ClipStore(folder).verify()
    except DataError:
        return False
    return True


def _mark(part: ImportPart) -> Path:
    return Path(part.folder + ".json")
