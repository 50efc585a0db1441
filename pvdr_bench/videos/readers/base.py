"""What every reader of real videos gives: pieces of a source that processes share, and their episodes, frame by frame.

A reader trusts nothing that it reads. What is broken becomes a :class:`~pvdr_bench.errors.DataError` with file and byte
offset (or episode), never a wrong frame, and memory is bounded by one record or one frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.runs.files import content_hash
from pvdr_bench.videos.layout import HELDOUT, TRAIN
from pvdr_bench.words import did_you_mean, nearest

Frames = NDArray[np.uint8]
MAX_PIXELS = 2**25  # of one frame: 8K video has 33.2 million, and fits
MAX_SIDE = 2**15
LONGEST_PATH = 1000


@dataclass(frozen=True)
class ReadOptions:
    """What a user may say of a source.

    Attributes:
        camera: which of the source's cameras; empty: the format's own choice, where there is one.
        fps: frames per second that are kept of video files; 0: every frame. Readers that cannot do so refuse it.
    """

    camera: str = ""
    fps: float = 0.0


@dataclass(frozen=True)
class Unit:
    """A piece of a source that one process reads from its beginning to its end.

    Attributes:
        name: relative to the source, for messages; unique.
        size: bytes of it, for progress.
        data: plain data of the reader's own.
        files: `hash_of` the files that it stands for, where its name and size do not tell them all.
    """

    name: str
    size: int
    data: Mapping[str, Any] = field(default_factory=dict)
    files: str = ""


@dataclass(frozen=True)
class SourceEpisode:
    """One episode of a source.

    Attributes:
        name: of the file and the place in it, relative to the source; unique, and the same on every machine.
        split: ``train`` or ``heldout`` where the source has both of its own, else None.
        frames: gives the frames in chunks uint8 [k, H, W, 3], all of one size; nothing is decoded before it is called.
    """

    name: str
    split: str | None
    frames: Callable[[], Iterator[Frames]]


class Reader(ABC):
    """Reads one format; made anew in each process.

    Attributes:
        format: its name, as ``--format`` has it.
        version: raised when the frames that it gives change.
        fps: frames per second that the source states, or 0 where it states none; set by the constructor.
        thins: whether it can keep fewer frames a second (``ReadOptions.fps``).
    """

    format: ClassVar[str]
    version: ClassVar[int] = 1
    fps: float = 0.0
    thins: ClassVar[bool] = False

    def __init__(self, root: Path, options: ReadOptions) -> None:
        """Look at the source without decoding anything.

        Raises:
            DataError: this is not a source of this format, or one that is broken.
            UsageError: it has no such camera, or cannot keep fewer frames a second.
        """
        if options.fps and not self.thins:
            raise all_frames(f"every frame of the format {self.format} is kept", root)
        self.root, self.options = root, options

    @classmethod
    @abstractmethod
    def recognises(cls, root: Path) -> bool:
        """Whether a file or folder looks like this format."""

    @abstractmethod
    def units(self) -> list[Unit]:
        """The pieces in the corpus' order, the same for whoever asks.

        Raises:
            DataError: something that the source names is missing.
        """

    @abstractmethod
    def episodes(self, unit: Unit) -> Iterator[SourceEpisode]:
        """Episodes of a piece, in order.

        Raises:
            DataError: broken, with file and byte offset.
        """

    @property
    @abstractmethod
    def camera(self) -> str:
        """The camera that is read; part of the recipe."""


def check_frame(height: int, width: int, where: str) -> None:
    """Refuse a picture of a size that nothing sensible has, before memory is taken for it.

    Raises:
        DataError: no pixel, or more than 33 million.
    """
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and height * width <= MAX_PIXELS):
        raise DataError(f"a picture of {width} x {height} pixels; at most {MAX_PIXELS} pixels are read", where=where)


def choose_camera(asked: str, cameras: Sequence[str], preferred: Sequence[str], where: str) -> str:
    """The full key of a camera: ``wrist`` is meant by ``observation.images.wrist`` or ``image_wrist`` too.

    Args:
        asked: what the user named; empty: the only one, or the first of ``preferred`` that is there.

    Raises:
        UsageError: none or several are meant; lists them.
        DataError: the source has no camera at all.
    """
    if not cameras:
        raise DataError("holds no pictures", where=where)
    for name in filter(None, (asked, *(() if asked else preferred))):
        found = _meant(name, cameras)
        if len(found) == 1:
            return found[0]
        if asked:
            listed = ", ".join(found or cameras)
            raise UsageError(f"camera {asked!r} {'may be any of several' if found else 'is not there'}", where=where,
                             hint=f"{did_you_mean(nearest(asked, cameras))}--camera takes one of: {listed}")
    if len(cameras) == 1:
        return cameras[0]
    raise UsageError(f"{len(cameras)} cameras, and none was chosen", where=where,
                     hint=f"--camera takes one of: {', '.join(cameras)}")


def _meant(name: str, cameras: Sequence[str]) -> list[str]:
    if name in cameras:
        return [name]
    last = {camera: camera.replace("/", ".").rpartition(".")[2] for camera in cameras}
    return ([camera for camera in cameras if last[camera] == name]
            or [camera for camera in cameras if last[camera] in (f"image_{name}", f"{name}_image")])


def all_frames(what: str, root: Path) -> UsageError:
    """The error where fewer frames a second were asked for, and all are kept."""
    return UsageError(f"--fps thins video files, and {what}", where=str(root),
                      hint="leave --fps out; the stride of a method's clips takes frames that are further apart")


def with_splits(units: Sequence[Unit], split: Callable[[Unit], str | None]) -> list[Unit]:
    """Units with their split in ``data``: the source's own where it both trains and holds something out, else None.

    A source that only trains says nothing of what to hold out: that is chosen, as where there are no splits.
    """
    own = [split(unit) for unit in units]
    if not {TRAIN, HELDOUT} <= set(own):
        own = [None] * len(own)
    return [replace(unit, data={**unit.data, "split": each}) for unit, each in zip(units, own, strict=True)]


def hash_of(files: Sequence[tuple[str, int]]) -> str:
    """Hash of files by name and size in bytes."""
    return content_hash([list(file) for file in files])


def inside(root: Path, relative: str, where: str) -> Path:
    """A path that a file of the source names, which has to lie inside the source.

    Links that lie in the source are followed: caches of downloads are made of them.

    Raises:
        DataError: it is absolute, leads out by ``..``, or no file can have that name.
    """
    parts = Path(relative).parts
    if not parts or Path(relative).is_absolute() or ".." in parts or "\0" in relative or len(relative) > LONGEST_PATH:
        raise DataError(f"names the file {relative[:80]!r}, which is not inside the source", where=where,
                        hint="do not trust this source: it asks for files that are none of its own")
    return root / relative


def reading(error: OSError, path: Path) -> DataError:
    """An error of the file system while a source is read."""
    return DataError(f"cannot be read: {error.strerror or error}", where=str(path))
