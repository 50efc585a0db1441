"""Frames of one video file, decoded one after another by PyAV: H.264, HEVC, VP9, AV1 and what else FFmpeg has.

The container is chosen by the file's name and never guessed, so that a play list which calls itself a video opens no
other file. What the header says of its length is not believed: frames are counted as they come. Phones write upright
films as turned ones, with a matrix that turns them back: it is applied.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pvdr_bench.errors import DataError
from pvdr_bench.needed import need
from pvdr_bench.videos.readers.base import MAX_PIXELS, Frames, check_frame

CONTAINERS = {".mp4": "mov", ".m4v": "mov", ".mov": "mov", ".3gp": "mov", ".mkv": "matroska", ".webm": "matroska",
              ".avi": "avi"}
INSTALL = "pip install av"


class VideoFrame(NamedTuple):
    """A decoded frame: uint8 [H, W, 3], and when it is shown, in seconds from the first."""

    pixels: Frames
    seconds: float


def frames_of(path: Path) -> Iterator[VideoFrame]:
    """The frames of a video's first picture stream, in the order in which they are shown.

    Raises:
        DataError: no video of a known container, damaged (with the byte of the packet), too large a picture, pictures
            of several sizes, or none at all.
        SetupError: PyAV is not installed.
    """
    av: Any = need("av", "reading video files", INSTALL)
    kind = CONTAINERS.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"no video of a known kind ({', '.join(CONTAINERS)})", where=str(path))
    at: list[int | None] = [None]
    try:
        with av.open(str(path), format=kind, options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise DataError("holds no pictures", where=str(path))
            yield from _decode(av, container, container.streams.video[0], path, at)
    except (av.error.FFmpegError, OSError, ValueError, EOFError) as error:
        place = f"{path}, byte {at[0]}" if at[0] is not None else str(path)
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"cannot be decoded: {text}", where=place,
                        hint="the file is damaged or cut off; ffmpeg -v error -i FILE -f null - tells more") from error


def _decode(av: Any, container: Any, stream: Any, path: Path, at: list[int | None]) -> Iterator[VideoFrame]:
    context = stream.codec_context
    if context is None:
        raise DataError("a codec that PyAV does not know", where=str(path), hint="convert it: ffmpeg -i FILE out.mp4")
    if context.width or context.height:
        check_frame(context.height, context.width, str(path))
    context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
    context.thread_count = 1  # parts of a corpus are processes of their own
    count, shape, first = 0, None, 0.0
    for packet in container.demux(stream):
        at[0] = packet.pos if packet.pos is not None else at[0]
        if packet.is_corrupt:
            raise DataError("a damaged packet", where=f"{path}, byte {at[0]}")
        for frame in packet.decode():
            where = f"{path}, frame {count}"
            check_frame(frame.height, frame.width, where)
            if frame.is_corrupt:
                raise DataError("a damaged frame", where=where)
            pixels = _upright(frame)
            if shape is not None and pixels.shape != shape:
                raise DataError(f"pictures of several sizes: {shape[1]} x {shape[0]}, then {pixels.shape[1]} x "
                                f"{pixels.shape[0]}", where=where)
            seconds = float(frame.time) if frame.time is not None else count / float(stream.average_rate or 1)
            first = seconds if count == 0 else first
            shape, count = pixels.shape, count + 1
            yield VideoFrame(pixels, seconds - first)
    if not count:
        raise DataError("holds no frame that can be decoded", where=str(path))


def _upright(frame: Any) -> Frames:
    """RGB [H, W, 3], turned as the file says."""
    pixels: Frames = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # degrees, counter-clockwise
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def rate_of(path: Path) -> float:
    """Mean frames per second as the header states it; 0 where it states none.

    Raises:
        DataError: it cannot be opened.
    """
    av: Any = need("av", "reading video files", INSTALL)
    try:
        with av.open(str(path), format=CONTAINERS.get(path.suffix.lower()),
                     options={"protocol_whitelist": "file"}) as container:
            streams = container.streams.video
            rate = float(streams[0].average_rate or 0) if streams else 0.0
            return rate if 0 < rate < 10_000 else 0.0
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"cannot be opened: {error}", where=str(path)) from error


def thinned(frames: Iterator[VideoFrame], fps: float) -> Iterator[Frames]:
    """Frames [1, H, W, 3] at most ``fps`` times a second: the first one shown in each interval; 0: all of them."""
    due = 0
    for frame in frames:
        if fps <= 0:
            yield frame.pixels[None]
        elif (tick := int(frame.seconds * fps + 1e-6)) >= due:
            due = tick + 1
            yield frame.pixels[None]
