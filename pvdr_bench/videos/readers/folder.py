"""A folder of one's own: video files, GIFs, NPZ arrays, and folders of PNG or JPEG frames; or one such file.

Each video, GIF and NPZ file is an episode, and so is each folder that holds pictures, in the order of their numbers
(``frame_2`` before ``frame_10``). Hidden files are passed over, and files of other kinds.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pvdr_bench.errors import DataError, UsageError
from pvdr_bench.needed import need
from pvdr_bench.videos.readers.base import (
    Frames,
    Reader,
    ReadOptions,
    SourceEpisode,
    Unit,
    all_frames,
    check_frame,
    hash_of,
    reading,
)
from pvdr_bench.videos.readers.images import decode, rgb
from pvdr_bench.videos.readers.npz import frames_in
from pvdr_bench.videos.readers.video import CONTAINERS, frames_of, rate_of, thinned

PICTURES = (".png", ".jpg", ".jpeg")
FILES = (*CONTAINERS, ".gif", ".npz")
_FILES_IN_UNIT, _BYTES_IN_UNIT = 64, 2**28
_LARGEST_PICTURE = 2**28  # bytes


class FolderReader(Reader):
    """Videos as people have them."""

    format = "folder"
    thins = True

    def __init__(self, root: Path, options: ReadOptions) -> None:
        super().__init__(root, options)
        self._base = root.parent if root.is_file() else root
        self._names = _episodes_below(root)
        if not self._names:
            raise DataError("holds no videos", where=str(root),
                            hint=f"read are {', '.join(FILES)}, and folders of {', '.join(PICTURES)}")
        if options.camera and not any(name.endswith(".npz") for name in self._names):
            raise UsageError(f"camera {options.camera!r} of files that have no cameras", where=str(root),
                             hint="leave --camera out, or name the folder of that camera")
        films = [name for name in self._names if Path(name).suffix.lower() in CONTAINERS]
        if options.fps and len(films) < len(self._names):
            other = next(name for name in self._names if name not in films)
            raise all_frames(f"{len(self._names) - len(films)} of the episodes here are none, such as {other}: import "
                             "them apart", root)
        self.fps = rate_of(self._base / films[0]) if films else 0.0

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whatever is not of another format."""
        return root.is_dir() or root.suffix.lower() in FILES

    @property
    def camera(self) -> str:
        """Which array of NPZ files; empty: the only one with pictures."""
        return self.options.camera

    def units(self) -> list[Unit]:
        """Up to 64 files or folders, or 256 MiB, together."""
        found: list[Unit] = []
        names: list[str] = []
        held: list[tuple[str, int]] = []  # the files of these names, and their bytes
        size = 0
        for name in self._names:
            path = self._base / name
            files = [path] if path.is_file() else _pictures(path)
            sizes = [(str(file.relative_to(self._base)), file.stat().st_size) for file in files]
            own = sum(each for _, each in sizes)
            if names and (len(names) == _FILES_IN_UNIT or size + own > _BYTES_IN_UNIT):
                found.append(_unit(names, held, size))
                names, held, size = [], [], 0
            names.append(name)
            held += sizes
            size += own
        return [*found, _unit(names, held, size)]

    def episodes(self, unit: Unit) -> Iterator[SourceEpisode]:
        """One for each file or folder of pictures."""
        for name in unit.data["files"]:
            path = self._base / name
            yield SourceEpisode(name, None, lambda path=path: self._frames(path))  # type: ignore[misc]

    def _frames(self, path: Path) -> Iterator[Frames]:
        kind = path.suffix.lower()
        if path.is_dir():
            return _frames_of_folder(path)
        if kind == ".npz":
            return frames_in(path, self.options.camera)
        return _frames_of_gif(path) if kind == ".gif" else thinned(frames_of(path), self.options.fps)


def _unit(names: list[str], held: list[tuple[str, int]], size: int) -> Unit:
    label = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    return Unit(label, size, {"files": names}, hash_of(held))


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts ``frame_2`` before ``frame_10``; the name itself settles what is alike."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), "") if part.isdecimal() and len(part) < 100 else (0, 0, part) for part in parts] + [
        (2, 0, name)]


def _episodes_below(root: Path) -> list[str]:
    """Files that are videos and folders that hold pictures, relative to the root, in their order."""
    if root.is_file():
        return [root.name]
    found = []
    for folder, folders, files in os.walk(root, onerror=_cannot_look):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural)
        kinds = {Path(name).suffix.lower() for name in files if not name.startswith(".")}
        if kinds & set(PICTURES):
            found.append(os.path.relpath(folder, root))
        found += [os.path.relpath(Path(folder) / name, root) for name in files
                  if not name.startswith(".") and Path(name).suffix.lower() in FILES]
    return sorted(found, key=natural)


def _cannot_look(error: OSError) -> None:
    raise reading(error, Path(error.filename or "."))


def _pictures(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")
                 and Path(entry.name).suffix.lower() in PICTURES and entry.is_file()]
    return [folder / name for name in sorted(names, key=natural)]


def _frames_of_folder(folder: Path) -> Iterator[Frames]:
    shape = None
    for path in _pictures(folder):
        try:
            if path.stat().st_size > _LARGEST_PICTURE:
                raise DataError(f"a picture of {path.stat().st_size} bytes", where=str(path))
            frame = decode(path.read_bytes(), str(path))
        except OSError as error:
            raise reading(error, path) from error
        if shape is not None and frame.shape != shape:
            raise DataError(f"{frame.shape[1]} x {frame.shape[0]} pixels, and the frames before it {shape[1]} x "
                            f"{shape[0]}", where=str(path), hint="the frames of one episode have one size")
        shape = frame.shape
        yield frame[None]


def _frames_of_gif(path: Path) -> Iterator[Frames]:
    module: Any = need("PIL.Image", "reading GIFs", "pip install pillow")
    number = 0
    try:
        with warnings.catch_warnings(), module.open(path, formats=("GIF",)) as image:
            warnings.simplefilter("ignore", module.DecompressionBombWarning)
            check_frame(image.height, image.width, str(path))
            while True:
                yield rgb(image)[None]
                number += 1
                image.seek(number)
    except EOFError:
        if not number:
            raise DataError("holds no frame", where=str(path)) from None
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they meet
        raise DataError(f"cannot be decoded: {type(error).__name__}: {error}",
                        where=f"{path}, frame {number}") from error


