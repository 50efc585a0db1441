"""The one clip store that all corpora share: episodes of RGB frames, memory-mapped.

A published store is an immutable folder:

=============== ====================================================================================================
``frames.u8``   raw uint8 [F, H, W, 3], all episodes one after another
``index.json``  ``image_size``, ``fps``, ``episodes`` = [[start, length, source, split], ...], ``crc32`` per episode
``truth.npz``   optional side file, arrays [F, ...] of the simulator's truth (actions, hand position). **Learning from
                videos never reads it**; it exists for offline probes (inverse dynamics, planner test) alone.
``manifest.json`` recipe, hash, bytes and sha256 of every file
=============== ====================================================================================================

A store being written lives beside it in ``<path>.partial`` with a journal, one line per complete episode, so that a
killed writer continues after the last episode that is wholly on disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import ChangedError, DataError, UsageError
from pvdr_bench.runs.faults import crash_point
from pvdr_bench.runs.files import storage_errors

FORMAT_VERSION = 1
FRAMES, INDEX, TRUTH, MANIFEST, JOURNAL, TRUTH_RAW = (
    "frames.u8", "index.json", "truth.npz", "manifest.json", "journal.jsonl", "truth.f32",
)
TRAIN, HELDOUT = "train", "heldout"
HELDOUT_PERCENT = 10
_HINT = "delete the folder and make the corpus again: pvdr-bench videos generate"

Frames = NDArray[np.uint8]


def split_of(index: int) -> str:
    """``heldout`` for one episode in ten, by a hash of its index alone: stable when a corpus grows."""
    digest = hashlib.sha256(f"episode-{index}".encode()).digest()
    return HELDOUT if int.from_bytes(digest[:4], "big") % 100 < HELDOUT_PERCENT else TRAIN


def canonical(value: object) -> str:
    """JSON text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The keys on which two recipes differ, one a line."""
    keys = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    return "\n".join(f"  {k}: stored {old.get(k)!r}, asked for {new.get(k)!r}" for k in keys)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def fsync_dir(path: Path) -> None:
    """Make a rename inside ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: object) -> None:
    """Write JSON and flush it to disk."""
    with path.open("w") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is a `DataError` naming the byte."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError("file is missing", where=str(path), hint=_HINT) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        at = error.pos if isinstance(error, json.JSONDecodeError) else error.start
        raise DataError("not valid JSON", where=f"{path}, byte {at}", hint=_HINT) from error


@dataclass(frozen=True)
class Episode:
    """Frames ``start`` to ``start + length`` of a store."""

    start: int
    length: int
    source: str
    split: str


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
        self.manifest: dict[str, Any] = read_json(self.path / MANIFEST)
        if self.manifest.get("format") != FORMAT_VERSION:
            raise DataError(
                f"clip store format {self.manifest.get('format')}, this version reads {FORMAT_VERSION}",
                where=str(self.path / MANIFEST), hint=_HINT,
            )
        self._check_sizes()
        index = read_json(self.path / INDEX)
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
                where=f"{self.path / FRAMES}, byte {min(stored, wanted)}", hint=_HINT,
            )
        self._data: Frames = np.memmap(self.path / FRAMES, np.uint8, "r", shape=shape)
        self._windows: dict[tuple[str | None, int, int], NDArray[np.int64]] = {}

    @property
    def hash(self) -> str:
        """12 hex digits that name frames, episodes and splits."""
        return str(self.manifest["hash"])

    @property
    def recipe(self) -> dict[str, Any]:
        """What the corpus was made from."""
        return dict(self.manifest["recipe"])

    def _check_sizes(self) -> None:
        for name, entry in self.manifest["files"].items():
            path = self.path / name
            if not path.is_file():
                raise DataError("file is missing", where=str(path), hint=_HINT)
            size = path.stat().st_size
            if size != entry["bytes"]:
                what = "truncated" if size < entry["bytes"] else "longer than it was written"
                raise DataError(
                    f"file is {what}: {size} bytes instead of {entry['bytes']}",
                    where=f"{path}, byte {min(size, entry['bytes'])}", hint=_HINT,
                )

    def verify(self) -> None:
        """Read every byte and compare checksums.

        Raises:
            DataError: naming the first broken episode and the bytes it covers.
        """
        frame_bytes = self.image_size * self.image_size * 3
        for number, (episode, crc) in enumerate(zip(self.episodes, self._crc32, strict=True)):
            if _crc32(self.frames(episode.start, episode.start + episode.length)) != crc:
                first = episode.start * frame_bytes
                raise DataError(
                    f"checksum of episode {number} ({episode.source}) is wrong",
                    where=f"{self.path / FRAMES}, bytes {first} to {first + episode.length * frame_bytes}", hint=_HINT,
                )
        for name, entry in self.manifest["files"].items():
            if file_sha256(self.path / name) != entry["sha256"]:
                raise DataError("checksum is wrong", where=str(self.path / name), hint=_HINT)

    def frames(self, i0: int, i1: int) -> Frames:
        """Frames i0 to i1 (exclusive): uint8 [i1 - i0, H, W, 3], a read-only view of the file."""
        if not 0 <= i0 <= i1 <= self.num_frames:
            raise IndexError(f"frames {i0}:{i1} of a store with {self.num_frames}")
        return self._data[i0:i1]

    def take(self, indices: NDArray[np.int64]) -> Frames:
        """Frames at ``indices`` [...]: uint8 [..., H, W, 3], copied."""
        return np.asarray(self._data[indices])

    def windows(self, split: str | None, frames: int, stride: int = 1) -> NDArray[np.int64]:
        """First frames [W] of every clip of ``frames`` frames, ``stride`` apart, that lies inside one episode.

        Args:
            split: ``train``, ``heldout``, or None for both.
        """
        key = (split, frames, stride)
        if key not in self._windows:
            self._windows[key] = episode_windows(self.episodes, split, frames, stride)
        return self._windows[key]

    def sample(
        self, rng: np.random.Generator, batch: int, frames: int, stride: int = 1, split: str | None = TRAIN,
        part: slice = slice(None),
    ) -> Frames:
        """A batch of clips, uniform over windows with replacement: uint8 [batch, frames, H, W, 3].

        With ``part`` the same batch is drawn, and only those clips of it are read.
        """
        return self.take(sample_indices(rng, self.windows(split, frames, stride), batch, frames, stride)[part])

    @cached_property
    def truth(self) -> dict[str, NDArray[np.float32]] | None:
        """The simulator's truth per frame, e.g. ``action`` [F, A], ``hand`` [F, 3] in metres; for probes only.

        ``action[t]`` led from frame t to t + 1 and is zero in an episode's last frame. None if the corpus has none.
        """
        if TRUTH not in self.manifest["files"]:
            return None
        with np.load(self.path / TRUTH) as archive:
            return {name: archive[name] for name in archive.files}


def episode_windows(episodes: list[Episode], split: str | None, frames: int, stride: int) -> NDArray[np.int64]:
    """See `ClipStore.windows`."""
    if frames < 1 or stride < 1:
        raise UsageError(f"clips need at least one frame and a stride of at least one, not {frames} and {stride}")
    span = (frames - 1) * stride
    starts = [
        np.arange(e.start, e.start + e.length - span, dtype=np.int64)
        for e in episodes if split in (None, e.split) and e.length > span
    ]
    if not starts:
        raise UsageError(
            f"no clip of {frames} frames with stride {stride} fits into an episode of split {split!r}",
            hint="make the clip shorter, or the corpus larger (a tiny corpus may have no held-out episode)",
        )
    return np.concatenate(starts)


def sample_indices(
    rng: np.random.Generator, windows: NDArray[np.int64], batch: int, frames: int, stride: int
) -> NDArray[np.int64]:
    """Frame numbers [batch, frames] of clips drawn uniformly; one draw of ``rng`` per clip, for pixels and tokens."""
    starts = windows[rng.integers(len(windows), size=batch)]
    return starts[:, None] + stride * np.arange(frames, dtype=np.int64)


def _crc32(frames: Frames) -> int:
    return zlib.crc32(frames.tobytes())


def partial_path(path: Path) -> Path:
    """Where the unfinished store of ``path`` is written."""
    return path.with_name(path.name + ".partial")


def _append(file: Any, data: Any, name: str) -> None:
    """Write in two halves with a crash point between them, so that tests meet torn episodes."""
    half = len(data) // 2
    file.write(data[:half])
    file.flush()
    crash_point(name)
    file.write(data[half:])
    file.flush()


class ClipWriter:
    """Appends episodes to an unfinished store and publishes it in one rename.

    A second writer with the same path and recipe continues after the last complete episode (`num_episodes` tells how
    many there are). There must be one writer at a time; `generate` holds a lock.

    Args:
        path: the folder to publish.
        image_size: height and width in pixels.
        recipe: plain JSON data, all that determines the frames.
        fps: frames per second of the real motion.
        truth_columns: name -> width of each array of the side file; None for none.
        first_index: number of the first episode within its corpus (decides the splits).

    Raises:
        ChangedError: an unfinished store of another recipe is there.
    """

    def __init__(
        self, path: Path | str, image_size: int, recipe: Mapping[str, Any], *, fps: float = 20.0,
        truth_columns: Mapping[str, int] | None = None, first_index: int = 0,
    ) -> None:
        self.path, self.image_size, self.fps = Path(path), image_size, fps
        self.recipe = json.loads(canonical(recipe))
        self.truth_columns = dict(truth_columns) if truth_columns else None
        self.first_index = first_index
        self.partial = partial_path(self.path)
        self.num_frames = 0
        self._rows: list[dict[str, Any]] = []
        with storage_errors(self.partial):
            self._open()

    @property
    def num_episodes(self) -> int:
        """Complete episodes so far, those of an interrupted writer included."""
        return len(self._rows)

    def _open(self) -> None:
        self.partial.mkdir(parents=True, exist_ok=True)
        recipe_file = self.partial / "recipe.json"
        header = {"format": FORMAT_VERSION, "image_size": self.image_size, "truth": self.truth_columns, **self.recipe}
        if recipe_file.exists():
            old = read_json(recipe_file)
            if old != json.loads(canonical(header)):
                raise ChangedError(
                    f"an unfinished corpus with another recipe is here:\n{difference(old, header)}",
                    where=str(self.partial), hint="delete that folder, or generate with the stored recipe",
                )
        else:
            temporary = self.partial / "recipe.json.tmp"
            write_json(temporary, header)
            temporary.replace(recipe_file)
        for name in (FRAMES, JOURNAL, TRUTH_RAW):
            (self.partial / name).touch()
        self._recover()
        self._frames_file = (self.partial / FRAMES).open("ab")
        self._truth_file = (self.partial / TRUTH_RAW).open("ab")
        self._journal = (self.partial / JOURNAL).open("ab")

    def _recover(self) -> None:
        """Cut all files back to the last episode that is complete and has its checksum."""
        good_bytes, frame_bytes = 0, self.image_size * self.image_size * 3
        row_bytes = 4 * sum((self.truth_columns or {}).values())
        truth_bytes = (self.partial / TRUTH_RAW).stat().st_size
        with (self.partial / JOURNAL).open("rb") as journal, (self.partial / FRAMES).open("rb") as frames:
            for line in journal:
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                except (json.JSONDecodeError, UnicodeDecodeError):
                    row = None  # a torn line: the writer was killed while it wrote; everything after it is redone
                if row is None or zlib.crc32(frames.read(row["length"] * frame_bytes)) != row["crc32"]:
                    break
                if (self.num_frames + row["length"]) * row_bytes > truth_bytes:
                    break
                self._rows.append(row)
                self.num_frames += row["length"]
                good_bytes += len(line)
        os.truncate(self.partial / JOURNAL, good_bytes)
        os.truncate(self.partial / FRAMES, self.num_frames * frame_bytes)
        os.truncate(self.partial / TRUTH_RAW, self.num_frames * row_bytes)

    def append(self, frames: Frames, source: str, truth: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Add one episode.

        Args:
            frames: uint8 [T, H, W, 3].
            source: where it comes from, e.g. the task's name.
            truth: arrays [T, width] or [T], exactly those of ``truth_columns``.

        Raises:
            DataError: frames or truth of another shape or type.
            StorageError: the disk is full.
        """
        expected = (self.image_size, self.image_size, 3)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != expected or not len(frames):
            raise DataError(
                f"episode is {frames.dtype} {frames.shape}, expected uint8 [T >= 1, {expected}]", where=source
            )
        table = self._truth_table(len(frames), truth, source)
        row = {"length": len(frames), "source": source, "crc32": _crc32(frames)}
        with storage_errors(self.partial):
            _append(self._truth_file, table.tobytes(), "videos.truth")
            _append(self._frames_file, frames.tobytes(), "videos.frames")
            _append(self._journal, (canonical(row) + "\n").encode(), "videos.journal")
        self._rows.append(row)
        self.num_frames += len(frames)

    def _truth_table(
        self, length: int, truth: Mapping[str, NDArray[Any]] | None, source: str
    ) -> NDArray[np.float32]:
        columns = self.truth_columns or {}
        given = truth or {}
        if set(given) != set(columns):
            raise DataError(f"truth has {sorted(given)}, the store expects {sorted(columns)}", where=source)
        parts = [np.zeros((length, 0), np.float32)]
        for name, width in columns.items():
            part = np.asarray(given[name], np.float32).reshape(-1, width)
            if len(part) != length:
                raise DataError(f"truth {name!r} has {len(part)} rows for {length} frames", where=source)
            parts.append(part)
        return np.concatenate(parts, axis=1)

    def close(self) -> None:
        """Close the files; the unfinished store stays and can be continued."""
        for file in (self._frames_file, self._truth_file, self._journal):
            file.close()

    def publish(self, made_with: Mapping[str, str] | None = None) -> ClipStore:
        """Write index and manifest and rename the folder to its final name; returns the published store.

        Raises:
            ChangedError: a store of this name exists already.
            DataError: there is no episode.
        """
        if not self._rows:
            raise DataError("a corpus needs at least one episode", where=str(self.partial))
        if self.path.exists():
            raise ChangedError("a published store is there already", where=str(self.path))
        with storage_errors(self.partial):
            self._publish(dict(made_with or {}))
        return ClipStore(self.path)

    def _publish(self, made_with: dict[str, str]) -> None:
        for file in (self._frames_file, self._truth_file, self._journal):
            os.fsync(file.fileno())
        self.close()
        write_json(self.partial / INDEX, self._index())
        names = [FRAMES, INDEX]
        if self.truth_columns:
            self._write_truth()
            names.append(TRUTH)
        files = {n: _fingerprint(self.partial / n) for n in names}
        identity = canonical({n: files[n]["sha256"] for n in (FRAMES, INDEX)})
        manifest = {
            "format": FORMAT_VERSION, "files": files, "recipe": self.recipe, "made_with": made_with,
            "hash": hashlib.sha256(identity.encode()).hexdigest()[:12],
        }
        write_json(self.partial / MANIFEST, manifest)
        fsync_dir(self.partial)
        crash_point("videos.publish")
        self.partial.replace(self.path)
        crash_point("videos.published")
        fsync_dir(self.path.parent)
        for name in (JOURNAL, TRUTH_RAW, "recipe.json"):  # last, so that a kill before the rename loses nothing
            (self.path / name).unlink(missing_ok=True)

    def _index(self) -> dict[str, Any]:
        episodes, start = [], 0
        for number, row in enumerate(self._rows):
            episodes.append([start, row["length"], row["source"], split_of(self.first_index + number)])
            start += row["length"]
        return {
            "image_size": self.image_size, "fps": self.fps, "episodes": episodes,
            "crc32": [row["crc32"] for row in self._rows],
        }

    def _write_truth(self) -> None:
        assert self.truth_columns is not None
        width = sum(self.truth_columns.values())
        table = np.fromfile(self.partial / TRUTH_RAW, np.float32).reshape(self.num_frames, width)
        with (self.partial / TRUTH).open("wb") as raw, zipfile.ZipFile(raw, "w") as archive:
            column = 0
            for name, count in self.truth_columns.items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, np.ascontiguousarray(table[:, column:column + count]))
                # a fixed date, so that the same corpus has the same bytes
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), buffer.getvalue())
                column += count


def remove_partial(path: Path) -> None:
    """Delete the unfinished store of ``path``, if any."""
    partial = partial_path(path)
    if partial.exists():
        shutil.rmtree(partial)
