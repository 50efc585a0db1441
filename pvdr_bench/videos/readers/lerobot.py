"""LeRobot data sets v2.0, v2.1 and v3.0: ``meta/info.json`` names where everything lies, and is followed.

Up to v2.1 each episode has a video and a Parquet file of its own; in v3.0 one video holds many episodes, and
``meta/episodes/*/*.parquet`` says from when to when each lasts. Cameras of dtype ``image`` lie in the Parquet files as
encoded pictures. Templates may name fields of LeRobot's own only, and lead to no file outside the data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pvdr_bench.errors import DataError
from pvdr_bench.runs.files import read_json
from pvdr_bench.runs.intake import parse_json
from pvdr_bench.videos.readers.base import (
    Frames,
    Reader,
    ReadOptions,
    SourceEpisode,
    Unit,
    choose_camera,
    hash_of,
    inside,
)
from pvdr_bench.videos.readers.images import decode
from pvdr_bench.videos.readers.lerobot_info import check_declared, declared_size, filled, whole
from pvdr_bench.videos.readers.parquet import batches, table_rows
from pvdr_bench.videos.readers.video import frames_of

INFO = "meta/info.json"
_INDEX = "episode_index"  # the column that tells rows of one episode from another's
VERSIONS = ("v2.0", "v2.1", "v3.0")
_EPISODES_IN_UNIT = 40  # of v2, whose episodes are files
_MOST_EPISODES = 10_000_000
_CHUNK = 2**24  # bytes of frames that are handed on at once


class LeRobotReader(Reader):
    """A data set by its folder."""

    format = "lerobot"

    def __init__(self, root: Path, options: ReadOptions) -> None:
        super().__init__(root, options)
        self._where = str(root / INFO)
        self.info = read_json(root / INFO)
        self.codebase = str(self.info.get("codebase_version"))
        if self.codebase not in VERSIONS:
            raise DataError(f"a LeRobot data set of version {self.codebase}; {', '.join(VERSIONS)} are read",
                            where=self._where, hint="convert it with LeRobot's own scripts")
        self.fps = self._number("fps")
        features = self.info.get("features")
        if not isinstance(features, dict):
            raise DataError("tells of no features", where=self._where)
        cameras = {str(name): facts for name, facts in features.items()
                   if isinstance(facts, dict) and facts.get("dtype") in ("video", "image")}
        self._camera = choose_camera(options.camera, sorted(cameras), ("image", "front", "top"), self._where)
        self._dtype = str(cameras[self._camera]["dtype"])
        self._size = declared_size(cameras[self._camera], self._where)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A folder with ``meta/info.json``."""
        return (root / INFO).is_file()

    @property
    def camera(self) -> str:
        """The feature's name."""
        return self._camera

    def _number(self, key: str) -> float:
        value = self.info.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            raise DataError(f"{key} is {value!r}", where=f"{self._where}: {key}")
        return float(value)

    def units(self) -> list[Unit]:
        """Of v3.0 one for each video or Parquet file; of v2 one for each forty episodes."""
        if self.codebase == "v3.0":
            return self._units_of_files()
        found = []
        episodes = list(self._episodes_of_v2())
        for first in range(0, len(episodes), _EPISODES_IN_UNIT):
            part = episodes[first:first + _EPISODES_IN_UNIT]
            files = [(index, length, str(self._file_of_v2(index))) for index, length in part]
            held = [(name, (self.root / name).stat().st_size) for _, _, name in files]
            found.append(Unit(f"episodes {part[0][0]} to {part[-1][0]}", sum(size for _, size in held),
                              {"episodes": files}, hash_of(held)))
        if not found:
            raise DataError("tells of no episodes", where=str(self.root / "meta"))
        return found

    def episodes(self, unit: Unit) -> Iterator[SourceEpisode]:
        """The episodes of a unit; a video of many is decoded once, as they are asked for."""
        if self.codebase == "v3.0":
            yield from self._episodes_in_file(unit)
            return
        for index, length, name in unit.data["episodes"]:
            path = self.root / name
            frames = self._pictures(path, enumerate(batches(path, [self._camera]))) if self._dtype == "image" \
                else self._video(path)
            yield SourceEpisode(f"episode {index}", None, Counted(frames, length, str(path)))

    # v2.0, v2.1 ---------------------------------------------------------------------------------------------------

    def _episodes_of_v2(self) -> Iterator[tuple[int, int]]:
        """Index and length of each episode."""
        path = self.root / "meta" / "episodes.jsonl"
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file):
                    if line.strip():
                        row = parse_json(line)
                        yield whole(row["episode_index"]), whole(row["length"])
                    if number > _MOST_EPISODES:
                        raise ValueError("too many lines")
        except (OSError, ValueError, KeyError, TypeError) as error:
            text = getattr(error, "strerror", None) or repr(error)
            raise DataError(f"cannot be read: {text}", where=str(path)) from error

    def _file_of_v2(self, index: int) -> Path:
        chunk = index // int(self._number("chunks_size"))
        fields = {"episode_chunk": chunk, "episode_index": index, "video_key": self._camera}
        return self._named("video_path" if self._dtype == "video" else "data_path", fields)

    # v3.0 ---------------------------------------------------------------------------------------------------------

    def _units_of_files(self) -> list[Unit]:
        key, video = self._camera, self._dtype == "video"
        place = f"videos/{key}/" if video else "data/"
        columns = ["episode_index", "length", f"{place}chunk_index", f"{place}file_index"]
        columns += [f"{place}from_timestamp", f"{place}to_timestamp"] if video else []
        rows: list[tuple[tuple[int, int], int, int, float]] = []
        tables = sorted((self.root / "meta" / "episodes").glob("*/*.parquet"))
        for path in tables:
            try:
                for row in table_rows(path, columns):
                    start = float(row[columns[4]]) if video else 0.0
                    if not 0 <= start < 1e9:
                        raise ValueError(f"an episode that begins at second {start}")
                    rows.append(((whole(row[columns[2]]), whole(row[columns[3]])), whole(row["episode_index"]),
                                 whole(row["length"]), start))
            except (ValueError, TypeError) as error:
                raise DataError(f"cannot be used: {error}", where=str(path)) from error
        if not rows:
            raise DataError("tells of no episodes", where=str(self.root / "meta" / "episodes"))
        rows.sort(key=lambda row: (row[0], row[3], row[1]))
        found = []
        for (chunk, number), group in groupby(rows, key=lambda row: row[0]):
            name = self._named("video_path" if video else "data_path",
                               {"chunk_index": chunk, "file_index": number, "video_key": key})
            episodes = [(index, length, round(start * self.fps)) for _, index, length, start in group]
            found.append(Unit(str(name), (self.root / name).stat().st_size, {"episodes": episodes}))
        return found

    def _episodes_in_file(self, unit: Unit) -> Iterator[SourceEpisode]:
        path, episodes = self.root / unit.name, unit.data["episodes"]
        if self._dtype == "image":
            table = Table(path, self._camera)
            for index, length, _ in sorted(episodes, key=lambda episode: table.place(episode[0])):
                yield SourceEpisode(f"{unit.name}#{index}", None,
                                    Counted(self._pictures(path, table.rows(index)), length, str(path)))
            return
        after = 0
        for index, length, first in episodes:
            if first < after:
                raise DataError(f"episode {index} begins at frame {first}, inside the one before it", where=str(path))
            after = first + length
        film = Film(path, self.fps, self._size)
        for index, length, first in episodes:
            yield SourceEpisode(f"{unit.name}#{index}", None, Counted(film.span(first, length), length, str(path)))

    # Frames -------------------------------------------------------------------------------------------------------

    def _named(self, key: str, fields: Mapping[str, Any]) -> Path:
        """A file of the data set by a template of ``info.json``, relative to its folder; it is there.

        Raises:
            DataError: no such template, strange fields, outside of the data set, or no such file.
        """
        template, where = self.info.get(key), f"{self._where}: {key}"
        if not isinstance(template, str):
            raise DataError(f"no template {key}", where=where)
        name = filled(template, fields, where)
        if not inside(self.root, name, where).is_file():
            raise DataError("is missing", where=str(self.root / name), hint=f"{INFO} tells of it: fetch it again")
        return Path(name)

    def _video(self, path: Path) -> Iterator[Frames]:
        for frame in frames_of(path):
            check_declared(frame.pixels, self._size, str(path))
            yield frame.pixels[None]

    def _pictures(self, path: Path, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[Frames]:
        """Encoded pictures of numbered rows of a Parquet file."""
        held: list[Frames] = []
        for number, row in rows:
            where, cell = f"{path}, row {number}", row[self._camera]
            data = cell.get("bytes") if isinstance(cell, dict) else cell
            if data is None and isinstance(cell, dict) and isinstance(cell.get("path"), str):
                data = inside(self.root, cell["path"], where).read_bytes()
            if not isinstance(data, bytes):
                raise DataError(f"{self._camera} holds no picture", where=where)
            held.append(decode(data, where))
            check_declared(held[-1], self._size, where)
            if len(held) * held[0].nbytes >= _CHUNK:
                yield np.stack(held)
                held = []
        if held:
            yield np.stack(held)


class Counted:
    """The frames of an episode whose number is known: more or fewer are an error."""

    def __init__(self, frames: Iterator[Frames], length: int, where: str) -> None:
        self._frames, self._length, self._where = frames, length, where

    def __call__(self) -> Iterator[Frames]:
        """The chunks, counted.

        Raises:
            DataError: another number of frames than the data set tells of.
        """
        count = 0
        for chunk in self._frames:
            count += len(chunk)
            if count <= self._length:
                yield chunk
            else:
                break
        if count != self._length:
            more = "more than " if count > self._length else f"{count}, not "
            raise DataError(f"an episode of {more}the {self._length} frames that the data set tells of",
                            where=self._where)


class Film:
    """A video of many episodes, decoded from its beginning to its end as spans of it are asked for, in order."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int] | None) -> None:
        self._path, self._fps, self._size = path, fps, size
        self._frames = frames_of(path)
        self._next = 0

    def span(self, first: int, length: int) -> Iterator[Frames]:
        """Frames ``first`` to ``first + length``; those before it that nobody asked for are passed over."""
        while self._next < first + length:
            frame = next(self._frames, None)
            if frame is None:
                return
            number, self._next = self._next, self._next + 1
            if abs(frame.seconds * self._fps - number) > 0.5:
                raise DataError(f"frame {number} is shown at second {frame.seconds:.3f}, and the data set has "
                                f"{self._fps:g} frames a second", where=str(self._path))
            if number >= first:
                check_declared(frame.pixels, self._size, str(self._path))
                yield frame.pixels[None]


class Table:
    """A Parquet file of many episodes, read from its beginning to its end as they are asked for, in its order."""

    def __init__(self, path: Path, camera: str) -> None:
        self._path, self._places = path, dict[Any, int]()
        last = None
        for number, row in enumerate(batches(path, [_INDEX], 4096)):
            index = row[_INDEX]
            if index != last and index in self._places:
                raise DataError(f"the rows of episode {index} do not stand together", where=f"{path}, row {number}")
            self._places.setdefault(index, number)
            last = index
        self._rows = enumerate(batches(path, [camera, _INDEX]))
        self._held: tuple[int, dict[str, Any]] | None = None  # the first row after the episode that was read last

    def place(self, episode: int) -> int:
        """The number of an episode's first row; -1: it has none."""
        return self._places.get(episode, -1)

    def rows(self, episode: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and values of an episode's rows; those before it that nobody asked for are passed over."""
        if episode not in self._places:
            return
        row, self._held = self._held or next(self._rows, None), None
        while row is not None and row[0] < self._places[episode]:
            row = next(self._rows, None)
        while row is not None and row[1][_INDEX] == episode:
            yield row
            row = next(self._rows, None)
        self._held = row
