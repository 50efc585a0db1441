"""Making a corpus: parts in worker processes, joined into one clip store.

A corpus is cut into parts of `PART_EPISODES` episodes of one source. A part is made by one fresh process (several GL
renderers in one process give garbage frames) from its first episode on, and published as a small store of its own; so
the result does not depend on the number of workers, and what was finished before an interruption is not made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from pvdr_bench.errors import SetupError, UsageError
from pvdr_bench.needed import missing
from pvdr_bench.runs.files import make_folder
from pvdr_bench.runs.locks import FileLock
from pvdr_bench.suites.corpora import CorpusSource, Generator
from pvdr_bench.videos.layout import JOURNAL, partial_path
from pvdr_bench.videos.parts import check_parts, make_parts, open_finished
from pvdr_bench.videos.sources import source
from pvdr_bench.videos.store import ClipStore
from pvdr_bench.videos.writer import ClipWriter

PART_EPISODES = 40
Progress = Callable[[int, int], None]  # episodes done, episodes in all


@dataclass(frozen=True)
class _Part:
    """What one worker makes; plain data, sent to it."""

    folder: str
    corpus: CorpusSource
    source: str
    image_size: int
    seed: int
    first: int  # number of its first episode in the corpus
    episodes: int


def corpus_path(corpus_name: str, image_size: int, data_dir: Path | str) -> Path:
    """Where a corpus of this image size lives: ``DATA/videos/<corpus>/<image size>``."""
    return Path(data_dir) / "videos" / corpus_name / str(image_size)


def recipe_of(corpus: CorpusSource, image_size: int, episodes: int, seed: int) -> dict[str, Any]:
    """All that determines a corpus, apart from the versions of the simulators (kept in the manifest)."""
    generator = corpus.load()
    return {
        "corpus": corpus.name, "image_size": image_size, "episodes": episodes, "seed": seed,
        "generator": corpus.recipe_name or corpus.maker, "version": generator.version,
        "sources": list(generator.sources), "part_episodes": PART_EPISODES,
    }


def generate(
    corpus_name: str, image_size: int, data_dir: Path | str, episodes: int | None = None, workers: int = 1,
    seed: int = 0, progress: Progress | None = None,
) -> ClipStore:
    """Make a corpus, continue an interrupted one, or open a finished one.

    The same arguments give the same bytes on one machine, whatever ``workers`` is.

    Args:
        corpus_name: a name of `sources`.
        image_size: height and width in pixels.
        data_dir: data root; see `pvdr_bench.runs.paths.data_root`.
        episodes: how many; default: the corpus' own number.
        workers: processes.
        seed: of everything random.
        progress: called about twice a second.

    Raises:
        UsageError: unknown corpus or impossible numbers.
        SetupError: a package that it needs is not installed.
        ChangedError: a corpus with another recipe is there.
        LockedError: another process is making this corpus.
        TrainingError: a worker died.
    """
    corpus = source(corpus_name)
    if corpus.kind != "generated":
        raise UsageError(f"corpus {corpus_name!r} is read from files, not generated",
                         hint=f"pvdr-bench videos import {corpus_name}")
    corpus.check_needs()
    total = corpus.episodes if episodes is None else episodes
    if total < 1 or workers < 1 or image_size < 8:
        raise UsageError("episodes and workers must be at least 1, the image size at least 8")
    if seed < 0:
        raise UsageError(f"--seed {seed}: a seed is not negative")
    recipe = recipe_of(corpus, image_size, total, seed)
    path = corpus_path(corpus_name, image_size, data_dir)
    make_folder(path.parent)
    with FileLock(path.with_name(path.name + ".lock"), f"corpus {corpus_name}"):
        if path.exists():
            return open_finished(path, recipe)
        parts = plan_parts(corpus, image_size, total, seed, path.with_name(path.name + ".parts"))
        check_parts(path.with_name(path.name + ".parts"), recipe)
        _run(parts, workers, total, progress)
        store = _join(path, parts, corpus.load(), image_size, recipe)
        shutil.rmtree(path.with_name(path.name + ".parts"))
    if progress:
        progress(total, total)
    return store


def plan_parts(corpus: CorpusSource, image_size: int, episodes: int, seed: int, folder: Path) -> list[_Part]:
    """Deal the episodes out to the sources as evenly as possible, and cut each share into parts."""
    names = corpus.load().sources
    parts: list[_Part] = []
    first = 0
    for number, name in enumerate(names):
        share = episodes // len(names) + (number < episodes % len(names))
        while share > 0:
            count = min(PART_EPISODES, share)
            target = str(folder / f"part-{len(parts):04d}")
            parts.append(_Part(target, corpus, name, image_size, seed, first, count))
            first, share = first + count, share - count
    return parts


def _run(parts: list[_Part], workers: int, total: int, progress: Progress | None) -> None:
    """Make all missing parts in fresh processes."""
    def tick() -> None:
        if progress:
            progress(_episodes_done(parts), total)

    unmade = [part for part in parts if not Path(part.folder).exists()]
    make_parts(unmade, _make_part, workers, tick, "making the corpus", fresh=True)


def _episodes_done(parts: list[_Part]) -> int:
    """Count from the files: finished parts and the journals of unfinished ones."""
    count = 0
    for part in parts:
        journal = partial_path(Path(part.folder)) / JOURNAL
        try:
            count += part.episodes if Path(part.folder).exists() else journal.read_bytes().count(b"\n")
        except FileNotFoundError:
            continue  # not begun, or published just now
    return count


def _make_part(part: _Part) -> None:
    """In a worker: make one part from its first episode on and publish it."""
    folder = Path(part.folder)
    unfinished = partial_path(folder)
    if unfinished.exists():
        # begun anew on purpose: simulators carry state from episode to episode, and a part must not depend on that
        shutil.rmtree(unfinished)
    kind = part.corpus.load()
    recipe = {k: v for k, v in asdict(part).items() if k not in ("folder", "corpus")}
    writer = ClipWriter(folder, part.image_size, recipe, fps=kind.fps, truth_columns=kind.truth_columns)
    try:
        made = kind(part.source, part.image_size)
    except ModuleNotFoundError as error:
        raise missing(error, part.corpus.maker.partition(":")[0], f"the corpus {part.corpus.name}") from error
    except ImportError as error:
        raise SetupError(f"cannot make {part.corpus.name}: {error}", hint="pvdr-bench doctor") from error
    try:
        for index in range(part.first, part.first + part.episodes):
            clip = made.episode(np.random.default_rng([part.seed, crc32(part.corpus.name.encode()), index]))
            check_frames(clip.frames, f"{part.source}, episode {index}")
            writer.append(clip.frames, part.source, clip.truth)
    finally:
        made.close()
        writer.close()
    writer = ClipWriter(folder, part.image_size, recipe, fps=kind.fps, truth_columns=kind.truth_columns)
    writer.finish()


def check_frames(frames: np.ndarray[Any, np.dtype[np.uint8]], where: str) -> None:
    """Catch what a broken GL context renders without an error: blank frames and striped noise.

    In a real scene neighbouring pixels are alike: noise has a mean neighbour difference near its own contrast.

    Raises:
        SetupError: the frames are garbage.
    """
    sample = frames[:: max(1, len(frames) // 4)].astype(np.int16)
    contrast = float(sample.std())
    rough = float(max(np.abs(np.diff(sample, axis=1)).mean(), np.abs(np.diff(sample, axis=2)).mean()))
    if contrast < 2.0 or rough > 0.6 * contrast:
        raise SetupError(
            f"the renderer gives garbage (contrast {contrast:.1f}, neighbour difference {rough:.1f})", where=where,
            hint="pvdr-bench doctor tests the GL library; MUJOCO_GL chooses it",
        )


def _join(
    path: Path, parts: list[_Part], kind: type[Generator], image_size: int, recipe: dict[str, Any]
) -> ClipStore:
    """Append all parts, in order, to the final store and publish it."""
    writer = ClipWriter(path, image_size, recipe, fps=kind.fps, truth_columns=kind.truth_columns)
    for part in parts:
        store = ClipStore(part.folder)
        truth = store.truth
        for number, episode in enumerate(store.episodes):
            if part.first + number < writer.num_episodes:
                continue  # an interrupted join had it already
            rows = slice(episode.start, episode.start + episode.length)
            writer.append(
                store.read(rows.start, rows.stop), episode.source,
                {name: values[rows] for name, values in truth.items()} if truth else None,
            )
    return writer.publish({name: version(name) for name in kind.packages})
