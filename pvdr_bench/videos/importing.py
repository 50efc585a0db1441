"""Real videos into a clip store: pieces of the source in worker processes, joined in their order as they are done.

Nothing is in memory whole, neither episode nor file. A piece of the source (`Unit`) becomes a small store of its own,
which is appended to the final one and deleted as soon as those before it are, so that the disk holds little more than
the result. Killed at any moment, the same command goes on: the bytes do not depend on interruptions, nor on how many
processes there are, nor on where the source lies.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pvdr_bench.errors import TrainingError, UsageError
from pvdr_bench.runs.files import content_hash, make_folder
from pvdr_bench.runs.locks import FileLock
from pvdr_bench.suites.resize import FITS, Fit, fitted
from pvdr_bench.videos.generate import corpus_path
from pvdr_bench.videos.joining import ImportPart, Join
from pvdr_bench.videos.layout import Frames, partial_path, split_of
from pvdr_bench.videos.parts import check_parts, make_parts, open_finished
from pvdr_bench.videos.readers.base import Reader, ReadOptions, SourceEpisode, Unit
from pvdr_bench.videos.readers.detect import open_source, reader_class
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.writer import ClipWriter

VERSION = 2  # raised when the same source gives other frames or another order
PACKAGES = ("av", "pillow", "pyarrow", "numpy")
CUT_OF_FOLDERS = 300  # frames: ten seconds of a phone's film
Progress = Callable[[int, int], None]  # bytes of the source done, bytes in all


@dataclass(frozen=True)
class ImportOptions:
    """How a source becomes a corpus.

    Attributes:
        format: the reader, by its name or ``module:Class``; empty: recognised.
        camera: see `ReadOptions`; empty: the format's or the corpus' own.
        fps: frames per second that are kept of video files; 0: every frame. Other sources refuse it.
        stated_fps: of the source, where its files do not state it.
        fit: what is done with frames that are not square.
        cut: longest episode in frames; longer ones become several. 0: as long as they are.
        about: source, licence and citation, kept with the store.
    """

    format: str = ""
    camera: str = ""
    fps: float = 0.0
    stated_fps: float = 0.0
    fit: Fit = "crop"
    cut: int = 0
    about: dict[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse numbers that make no sense.

        Raises:
            UsageError: with the key.
        """
        if self.fit not in FITS:
            raise UsageError(f"unknown fit {self.fit!r}", where="--fit", hint=f"one of {', '.join(FITS)}")
        if not 0 <= self.fps < 1e6 or self.cut < 0:
            raise UsageError("fps and cut must not be negative", hint="0 keeps every frame, and whole episodes")


def import_videos(name: str, root: Path, image_size: int, data_dir: Path | str, options: ImportOptions | None = None,
                  workers: int = 1, progress: Progress | None = None) -> ClipStore:
    """Turn a source into the corpus ``name`` of an image size, continue, or open a finished one.

    Args:
        root: file or folder of the source.
        image_size: height and width in pixels.
        data_dir: data root; see `pvdr_bench.runs.paths.data_root`.
        workers: processes.
        progress: called about twice a second; it may raise, to stop.

    Raises:
        SetupError: there is no such source.
        DataError: the source is broken, with file and byte; nothing of it is published.
        UsageError: impossible numbers, no such camera, or fewer frames a second of what is no video file.
        ChangedError: a corpus of another recipe is there. LockedError: another process makes it.
        StorageError: the disk is full. TrainingError: a worker died.
    """
    options = options or ImportOptions()
    options.check()
    if workers < 1 or image_size < 8:
        raise UsageError("jobs must be at least 1, the image size at least 8")
    reader = open_source(root, ReadOptions(options.camera, options.fps), options.format)
    units = reader.units()
    recipe = recipe_of(name, reader, units, image_size, options)
    path = corpus_path(name, image_size, data_dir)
    make_folder(path.parent)
    with FileLock(path.with_name(path.name + ".lock"), f"corpus {name}"):
        if path.exists():
            return open_finished(path, recipe)
        folder = path.with_name(path.name + ".parts")
        check_parts(folder, recipe)
        parts = [ImportPart(str(folder / f"part-{number:05d}"), str(reader.root), options.format or _path_of(reader),
                       reader.options, image_size, options.fit, options.cut, unit) for number, unit in enumerate(units)]
        store = _make(path, parts, recipe, _fps(reader, options), options.about, workers, progress)
        shutil.rmtree(folder)
    return store


def default_cut(root: Path, options: ReadOptions, format: str = "") -> int:
    """`ImportOptions.cut` where nothing is said: films of one's own are cut, episodes of a data set stay whole.

    Raises:
        SetupError, DataError, UsageError: see `open_source`.
    """
    return CUT_OF_FOLDERS if open_source(root, options, format).format == "folder" else 0


def recipe_of(name: str, reader: Reader, units: list[Unit], image_size: int, options: ImportOptions) -> dict[str, Any]:
    """All that determines an imported corpus; each file by name and size, wherever they lie."""
    return {
        "corpus": name, "image_size": image_size, "import": VERSION, "format": reader.format,
        "reader": reader.version, "camera": reader.camera, "fps": options.fps, "fit": options.fit, "cut": options.cut,
        "source": {"units": len(units), "bytes": sum(unit.size for unit in units),
                   "hash": content_hash([[unit.name, unit.size, unit.files] for unit in units])},
    }


def _path_of(reader: Reader) -> str:
    return f"{type(reader).__module__}:{type(reader).__name__}"


def _fps(reader: Reader, options: ImportOptions) -> float:
    """Frames per second of the store; 0: unknown. A reader that took ``options.fps`` keeps so many at most."""
    stated = reader.fps or options.stated_fps
    return min(stated, options.fps) if stated and options.fps else options.fps or stated


def _make(path: Path, parts: list[ImportPart], recipe: dict[str, Any], fps: float, about: dict[str, str], workers: int,
          progress: Progress | None) -> ClipStore:
    """Make the parts that are missing, and join them on the way."""
    join = Join(path, parts, recipe, fps)
    total = sum(part.unit.size for part in parts)

    def tick() -> None:
        join.advance()
        if progress:
            progress(sum(part.unit.size for part in parts if join.is_made(part)), total)

    try:
        try:
            unmade = [part for part in parts if not join.is_made(part)]
            make_parts(unmade, _make_part, workers, tick, "importing videos")
        except TrainingError as error:
            open_ones = [part.unit.name for part in parts if partial_path(Path(part.folder)).exists()]
            raise TrainingError(error.message, where=", ".join(open_ones[:4]) or None, hint=error.hint) from error
        join.advance()
        store = join.writer.publish(_versions(), about)
    finally:
        join.writer.close()
    if progress:
        progress(total, total)
    return store


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


# In a worker ---------------------------------------------------------------------------------------------------------


def _make_part(part: ImportPart) -> None:
    """Make a part, or go on with it after its last whole episode, and publish it."""
    recipe = {"unit": part.unit.name, "size": part.unit.size}
    writer = ClipWriter(Path(part.folder), part.image_size, recipe, durable=False)  # soon read, joined and deleted
    written = Counter(writer.sources)
    last = writer.sources[-1] if writer.sources else None  # it may lack pieces
    try:
        for episode in _reader(part.root, part.format, part.options).episodes(part.unit):
            skip = written[episode.name]
            if not skip or episode.name == last:
                _append(writer, episode, part, skip)
        writer.finish()
    finally:
        writer.close()


@lru_cache(maxsize=1)
def _reader(root: str, name: str, options: ReadOptions) -> Reader:
    return reader_class(name)(Path(root), options)


def _append(writer: ClipWriter, episode: SourceEpisode, part: ImportPart, skip: int) -> None:
    """Write an episode, in pieces where it is too long; the first ``skip`` pieces are there."""
    split = episode.split or split_of(episode.name)
    for number, piece in enumerate(pieces(episode.frames(), part.cut)):
        frames = (fitted(chunk, part.image_size, part.fit) for chunk in piece)
        if number < skip:
            for _ in piece:
                pass
        else:
            writer.append_chunks(frames, episode.name, split)


def pieces(chunks: Iterable[Frames], cut: int) -> Iterator[Iterator[Frames]]:
    """A stream of chunks [k, ...] as pieces of at most ``cut`` frames, each read before the next; 0: one piece."""
    stream = iter(chunks)
    if not cut:
        yield stream
        return
    rest: list[Frames] = []

    def piece() -> Iterator[Frames]:
        left = cut
        while left and (chunk := rest.pop() if rest else next(stream, None)) is not None:
            if len(chunk) > left:
                rest.append(chunk[left:])
                chunk = chunk[:left]
            left -= len(chunk)
            yield chunk

    while True:
        if not rest and (first := next(stream, None)) is not None:
            rest.append(first)
        if not rest:
            return
        yield piece()
