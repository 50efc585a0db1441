"""The registry of corpora: what exists, and the code that makes it. Nothing heavy is imported here.

A generated corpus names a `Generator` class. Corpora read from files (the real ones, and a folder of the user's own
videos) will name a reader instead; whatever the origin, everything ends in one `ClipStore`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pvdr_bench.errors import UsageError


@dataclass(frozen=True)
class Clip:
    """One generated episode: ``frames`` uint8 [T, H, W, 3] and ``truth``, name -> float [T, width]."""

    frames: NDArray[np.uint8]
    truth: Mapping[str, NDArray[Any]]


class Generator(ABC):
    """Makes episodes of one source (a task or scene) of a corpus. One per process, because of the renderer.

    An episode must depend on its ``rng`` alone, or on the episodes that the same object made before it: a part of a
    corpus (see `generate`) is always made by a fresh object from its first episode on.

    Attributes:
        version: raise it when the frames change.
        sources: names of the sources, in the corpus' order.
        truth_columns: name -> width of the side file's arrays.
        fps: frames per second of simulated time.
        packages: distributions whose versions are recorded beside the frames.
    """

    version: ClassVar[int]
    sources: ClassVar[tuple[str, ...]]
    truth_columns: ClassVar[dict[str, int]]
    fps: ClassVar[float]
    packages: ClassVar[tuple[str, ...]]

    @abstractmethod
    def __init__(self, source: str, image_size: int) -> None:
        """Build simulator and renderer for ``source``."""

    @abstractmethod
    def episode(self, rng: np.random.Generator) -> Clip:
        """Make one episode."""

    @abstractmethod
    def close(self) -> None:
        """Free simulator and renderer."""


@dataclass(frozen=True)
class CorpusSource:
    """A corpus that can be made or read.

    Attributes:
        name: what ``--videos`` takes.
        description: one sentence.
        kind: ``generated`` (no download) or ``files``.
        generator: ``module:Class`` of a `Generator`.
        episodes: how many make the default corpus.
        title: name in figures and tables; empty: ``name``.
        origin: where the videos come from; empty: ``generator``.
        license: terms of the data.
    """

    name: str
    description: str
    kind: str
    generator: str
    episodes: int
    title: str = ""
    origin: str = ""
    license: str = ""

    def load(self) -> type[Generator]:
        """Import the generator's class."""
        module, _, name = self.generator.partition(":")
        loaded: type[Generator] = getattr(importlib.import_module(module), name)
        return loaded


_SOURCES: dict[str, CorpusSource] = {
    source.name: source
    for source in (
        CorpusSource(
            "metaworld",
            "the tasks' own robot and tables at random task instances, without actions: in-domain videos",
            "generated", "pvdr_bench.videos.metaworld:MetaWorldGenerator", 1440, title="Meta-World",
            origin="metaworld 3.1.1: scripted experts with time-correlated noise, and random play",
            license="MIT (Meta-World)",
        ),
        CorpusSource(
            "fetch-push",
            "another robot pushing an object in another scene: a true domain gap",
            "generated", "pvdr_bench.videos.fetch:FetchPushGenerator", 500, title="Fetch push",
            origin="gymnasium-robotics FetchPush, random pushing", license="MIT (gymnasium-robotics)",
        ),
    )
}
BUILTIN = tuple(_SOURCES)


def sources() -> list[CorpusSource]:
    """All corpora, in order."""
    return list(_SOURCES.values())


def source(name: str) -> CorpusSource:
    """A corpus by its name.

    Raises:
        UsageError: unknown name; tells the nearest one.
    """
    if name not in _SOURCES:
        near = get_close_matches(name, _SOURCES, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"unknown corpus {name!r}", hint=f"{guess}there are: {', '.join(_SOURCES)}")
    return _SOURCES[name]


def register(entry: CorpusSource) -> None:
    """Add a corpus (plug-ins and tests).

    Raises:
        UsageError: the name is taken.
    """
    if entry.name in _SOURCES:
        raise UsageError(f"corpus {entry.name!r} exists already")
    _SOURCES[entry.name] = entry
