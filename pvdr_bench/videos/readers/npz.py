"""An episode in a NumPy archive, read a few frames at a time: no array is taken into memory whole.

Arrays of whole numbers from 0 to 255: [T, H, W, 3], [T, 3, H, W], or pictures stacked along the channels [T, 3k, H, W],
whose newest is the last.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from pvdr_bench.errors import DataError
from pvdr_bench.videos.readers.base import MAX_PIXELS, Frames, check_frame, choose_camera, reading

_PREFERRED = ("frames", "images", "image", "video", "observation", "observations")
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    channels_first: bool


def frames_in(path: Path, camera: str = "") -> Iterator[Frames]:
    """The frames uint8 [1, H, W, 3] of an archive's array.

    Raises:
        DataError: no such archive, damaged, or no array of pictures in it.
        UsageError: several, and none was chosen.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = arrays_in(archive, path)
            name = choose_camera(camera, sorted(arrays), _PREFERRED, str(path))
            with archive.open(f"{name}.npy") as file:
                yield from _frames(file, path, name)
    except _DAMAGE as error:
        raise DataError(f"no NumPy archive, or a damaged one: {error}", where=str(path)) from error
    except OSError as error:
        raise reading(error, path) from error


def arrays_in(archive: zipfile.ZipFile, path: Path) -> dict[str, _Header]:
    """The arrays of an archive that may be pictures."""
    found = {}
    for name in archive.namelist():
        if name.endswith(".npy"):
            with archive.open(name) as file:
                header = _header(file, f"{path}: {name}")
            if len(header.shape) == 4 and header.dtype.kind in "ui" and _sides(header)[2] % 3 == 0:
                found[name.removesuffix(".npy")] = header
    return found


def _header(file: IO[bytes], where: str) -> _Header:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise DataError(f"an array of format {version}", where=where)
    shape, fortran, dtype = read(file)
    if fortran and len(shape) == 4:
        raise DataError("an array in Fortran's order", where=where, hint="np.ascontiguousarray, and save it again")
    first = len(shape) == 4 and shape[3] != 3 and shape[1] % 3 == 0 and shape[1] > 0
    return _Header(tuple(int(side) for side in shape), dtype, first)


def _sides(header: _Header) -> tuple[int, int, int]:
    """Height, width, channels."""
    _, a, b, c = header.shape
    return (b, c, a) if header.channels_first else (a, b, c)


def _frames(file: IO[bytes], path: Path, name: str) -> Iterator[Frames]:
    header = _header(file, f"{path}: {name}")
    height, width, channels = _sides(header)
    where = f"{path}: {name}"
    check_frame(height, width, where)
    if channels < 3 or channels * height * width > 16 * MAX_PIXELS:
        raise DataError(f"pictures of {channels} channels", where=where)
    size = height * width * channels * header.dtype.itemsize
    for number in range(header.shape[0]):
        raw = file.read(size)
        if len(raw) < size:
            raise DataError(f"ends after {number} of {header.shape[0]} frames", where=where)
        frame = np.frombuffer(raw, header.dtype).reshape(header.shape[1:])
        if header.dtype != np.uint8:
            if frame.min() < 0 or frame.max() > 255:
                raise DataError(f"values from {frame.min()} to {frame.max()}; a picture's are 0 to 255",
                                where=f"{where}, frame {number}")
            frame = frame.astype(np.uint8)
        frame = frame.transpose(1, 2, 0) if header.channels_first else frame
        yield np.ascontiguousarray(frame[None, ..., -3:])
    if file.read(1):  # reading to the end also compares the archive's checksum
        raise DataError("bytes after the last frame", where=where)
