"""What a corpus is, and the code behind one: a `Generator` that makes videos, or a reader of files.

Whatever the origin, everything ends in one `ClipStore`. Nothing heavy is imported here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pvdr_bench.errors import SetupError
from pvdr_bench.needed import need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Clip:
    """One episode: ``frames`` uint8 [T, H, W, 3] and ``truth``, name -> float [T, width]."""

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
class Download:
    """A file that a corpus is read from.

    Attributes:
        url: where it is; a folder of a public bucket (``gs://BUCKET/FOLDER``) stands for all files in it.
        size: in bytes, of all files; 0: not known before they are listed.
        sha256: hex digits; empty: the bucket tells its files' own checksums.
    """

    url: str
    size: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class CorpusSource:
    """A corpus that can be made or read.

    Attributes:
        name: what ``--videos`` takes.
        description: one sentence.
        kind: ``generated`` (no download) or ``files``.
        maker: ``module:Class``: a `Generator` where the corpus is generated, the class that reads it where it is files.
        episodes: how many make the default corpus.
        title: name in figures and tables; empty: ``name``.
        origin: where the videos come from; empty: ``maker``.
        license: terms of the data.
        citation: what to cite for it.
        needs: distributions without which it cannot be made or read.
        recipe_name: what recipes call ``maker``, where the code has moved since: a recipe's hash names artefacts, and
            must not change with the place of the code. Empty: ``maker``.
        downloads: of a corpus of files, what `videos fetch` gets.
        camera: of a corpus of files, the camera that is read unless the user names another.
        fps: frames per second, where its files do not state it; 0: unknown.
        train_frames: frames of its training split, as published, so that others can be matched to its size.
    """

    name: str
    description: str
    kind: Literal["generated", "files"]
    maker: str
    episodes: int
    title: str = ""
    origin: str = ""
    license: str = ""
    citation: str = ""
    needs: tuple[str, ...] = ()
    recipe_name: str = ""
    downloads: tuple[Download, ...] = ()
    camera: str = ""
    fps: float = 0.0
    train_frames: int = 0

    def load(self) -> Any:
        """Import the maker.

        Raises:
            SetupError: it is not there.
        """
        module, _, name = self.maker.partition(":")
        try:
            return getattr(need(module, f"the corpus {self.name}"), name)
        except AttributeError as error:
            raise SetupError(f"the corpus {self.name}: cannot load {self.maker!r}: {error}") from error

    def check_needs(self) -> None:
        """Refuse to make or read it where something is missing.

        Raises:
            SetupError: a distribution of ``needs`` is not installed.
        """
        missing = [name for name in self.needs if not _installed(name)]
        if missing:
            raise SetupError(f"the corpus {self.name} needs {', '.join(missing)}",
                             hint=f"pip install {' '.join(missing)}")


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
