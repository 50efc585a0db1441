"""Writing a clip store, episode by episode, so that it survives any death. What lies on disk: ``layout.py``."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import ChangedError, DataError
from pvdr_bench.runs.difference import difference
from pvdr_bench.runs.faults import armed, crash_point
from pvdr_bench.runs.files import canonical_json, content_hash, sha256_file, storage_errors, sync_folder, write_json
from pvdr_bench.videos.layout import (
    FORMAT_VERSION,
    FRAMES,
    HELDOUT,
    INDEX,
    JOURNAL,
    MANIFEST,
    TRAIN,
    TRUTH,
    TRUTH_RAW,
    Frames,
    checksum_ahead,
    partial_path,
    read_object,
    split_of,
    write_object,
)
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.truth import truth_table, write_truth


def _append(file: Any, data: Any, name: str) -> None:
    """Write in two halves with a crash point between them, so that tests meet torn episodes."""
    half = len(data) // 2 if armed(name) else len(data)
    file.write(data[:half])
    file.flush()
    crash_point(name)
    if half < len(data):
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
        both_splits: where all episodes say the same split, some of them get the other one.
        durable: whether it survives a power cut once it is published; else whoever finds it has to verify it.

    Raises:
        ChangedError: an unfinished store of another recipe is there.
    """

    def __init__(
        self, path: Path | str, image_size: int, recipe: Mapping[str, Any], *, fps: float = 20.0,
        truth_columns: Mapping[str, int] | None = None, first_index: int = 0, both_splits: bool = False,
        durable: bool = True,
    ) -> None:
        self.path, self.image_size, self.fps = Path(path), image_size, fps
        self.recipe: dict[str, Any] = json.loads(canonical_json(recipe))
        self.truth_columns = dict(truth_columns) if truth_columns else None
        self.first_index, self.both_splits, self.durable = first_index, both_splits, durable
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
            if changed := difference(read_object(recipe_file), json.loads(canonical_json(header))):
                raise changed_recipe("an unfinished corpus", changed, self.partial)
        else:
            write_json(recipe_file, header)
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
                if row is None or checksum_ahead(frames, row["length"] * frame_bytes) != row["crc32"]:
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
        self._check_frames(frames, source)
        table = truth_table(len(frames), self.truth_columns or {}, truth or {}, source)
        with storage_errors(self.partial):
            _append(self._truth_file, table.tobytes(), "videos.truth")
        self.append_chunks([frames], source)

    def append_chunks(self, chunks: Iterable[Frames], source: str, split: str | None = None) -> None:
        """Add one episode that is never in memory whole, without truth (which :meth:`append` takes).

        Args:
            chunks: uint8 [k, H, W, 3] each; an error that they raise leaves the store as it was before.
            split: ``train`` or ``heldout`` where that is known; None: by the episode's number.

        Raises:
            DataError: see :meth:`append`; there is no frame.
            StorageError: the disk is full.
        """
        length = crc = 0
        try:
            for chunk in chunks:
                self._check_frames(chunk, source)
                data = np.ascontiguousarray(chunk).data.cast("B")
                crc, length = zlib.crc32(data, crc), length + len(chunk)
                with storage_errors(self.partial):
                    _append(self._frames_file, data, "videos.frames")
            if not length:
                raise DataError("an episode without frames", where=source)
        except BaseException:
            with suppress(OSError):
                self._frames_file.truncate(self.num_frames * self.image_size * self.image_size * 3)
            raise
        row = {"length": length, "source": source, "crc32": crc, **({"split": split} if split else {})}
        with storage_errors(self.partial):
            _append(self._journal, (canonical_json(row) + "\n").encode(), "videos.journal")
        self._rows.append(row)
        self.num_frames += length

    def _check_frames(self, frames: Frames, source: str) -> None:
        expected = (self.image_size, self.image_size, 3)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != expected or not len(frames):
            raise DataError(
                f"episode is {frames.dtype} {frames.shape}, expected uint8 [T >= 1, {expected}]", where=source
            )

    @property
    def sources(self) -> list[str]:
        """The source of each complete episode."""
        return [row["source"] for row in self._rows]

    def sync(self) -> None:
        """What was appended survives a power cut from here on."""
        with storage_errors(self.partial):
            for file in (self._truth_file, self._frames_file, self._journal):
                file.flush()
                os.fsync(file.fileno())

    def close(self) -> None:
        """Close the files; the unfinished store stays and can be continued."""
        for file in (self._frames_file, self._truth_file, self._journal):
            file.close()

    def publish(self, made_with: Mapping[str, str] | None = None, about: Mapping[str, str] | None = None) -> ClipStore:
        """`finish`, and open the published store."""
        self.finish(made_with, about)
        return ClipStore(self.path)

    def finish(self, made_with: Mapping[str, str] | None = None, about: Mapping[str, str] | None = None) -> None:
        """Write index and manifest and rename the folder to its final name.

        It is not opened then: a part may be joined and deleted by another process as soon as it has its name.

        Args:
            made_with: versions of packages. about: source, licence and citation, for those who use the videos.

        Raises:
            ChangedError: a store of this name exists already.
            DataError: there is no episode.
        """
        if not self._rows:
            raise DataError("a corpus needs at least one episode", where=str(self.partial))
        if self.path.exists():
            raise ChangedError("a published store is there already", where=str(self.path))
        with storage_errors(self.partial):
            self._finish(dict(made_with or {}), dict(about or {}))

    def _finish(self, made_with: dict[str, str], about: dict[str, str]) -> None:
        if self.durable:
            self.sync()
        self.close()
        write_object(self.partial / INDEX, self._index(), durable=self.durable)
        names = [FRAMES, INDEX]
        if self.truth_columns:
            write_truth(self.partial / TRUTH_RAW, self.partial / TRUTH, self.truth_columns, self.num_frames)
            names.append(TRUTH)
        files = {name: _fingerprint(self.partial / name) for name in names}
        manifest = {
            "format": FORMAT_VERSION, "files": files, "recipe": self.recipe, "made_with": made_with,
            "hash": content_hash({name: files[name]["sha256"] for name in (FRAMES, INDEX)}),
            **({"about": about} if about else {}),
        }
        write_object(self.partial / MANIFEST, manifest, durable=self.durable)
        if self.durable:
            sync_folder(self.partial)
        crash_point("videos.publish")
        self.partial.replace(self.path)
        crash_point("videos.published")
        if self.durable:
            sync_folder(self.path.parent)
        for name in (JOURNAL, TRUTH_RAW, "recipe.json"):  # last, so that a kill before the rename loses nothing
            (self.path / name).unlink(missing_ok=True)

    def _index(self) -> dict[str, Any]:
        episodes, start = [], 0
        for row, split in zip(self._rows, self._splits(), strict=True):
            episodes.append([start, row["length"], row["source"], split])
            start += row["length"]
        return {
            "image_size": self.image_size, "fps": self.fps, "episodes": episodes,
            "crc32": [row["crc32"] for row in self._rows],
        }

    def _splits(self) -> list[str]:
        """Each episode's split: its own, or by its number.

        With ``both_splits`` a handful of videos has both: the last source (of a single one: its last long episode) is
        held out, and the others are trained on.
        """
        splits = [row.get("split") or split_of(self.first_index + number) for number, row in enumerate(self._rows)]
        if not self.both_splits or len(splits) < 2 or len(set(splits)) > 1:
            return splits
        sources, longest = self.sources, max(row["length"] for row in self._rows)
        last = max(n for n, row in enumerate(self._rows) if 2 * row["length"] >= longest)
        return [HELDOUT if (source == sources[-1] if len(set(sources)) > 1 else number == last) else TRAIN
                for number, source in enumerate(sources)]


def changed_recipe(what: str, changed: list[str], place: Path) -> ChangedError:
    """The error for videos made from another recipe, with what differs."""
    return ChangedError("\n  ".join([f"{what} with another recipe is here:", *changed]), where=str(place),
                        hint="delete that folder, use another data root (PVDR_BENCH_DATA), or ask for that recipe")


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
