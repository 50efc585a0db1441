"""Which reader a source needs."""

from __future__ import annotations

from pathlib import Path

from pvdr_bench.errors import DataError, SetupError, UsageError
from pvdr_bench.needed import need
from pvdr_bench.videos.readers.base import Reader, ReadOptions
from pvdr_bench.words import did_you_mean, nearest

# In the order in which they are tried: a folder of one's own is whatever is nothing else.
FORMATS = {
    "bair": "pvdr_bench.videos.readers.bair:BairReader",
    "tfds": "pvdr_bench.videos.readers.rlds:RLDSReader",
    "lerobot": "pvdr_bench.videos.readers.lerobot:LeRobotReader",
    "folder": "pvdr_bench.videos.readers.folder:FolderReader",
}


def reader_class(name: str) -> type[Reader]:
    """A reader by its format's name, or by ``module:Class`` (a package's own).

    Raises:
        UsageError: no such format.
    """
    path = FORMATS.get(name, name)
    if ":" not in path:
        raise UsageError(f"unknown format {name!r}", where="--format",
                         hint=f"{did_you_mean(nearest(name, FORMATS))}there are: {', '.join(FORMATS)}")
    module, _, attribute = path.partition(":")
    found: type[Reader] = getattr(need(module, "this format"), attribute)
    return found


def open_source(root: Path, options: ReadOptions, name: str = "") -> Reader:
    """The reader of a source; the format is recognised where ``name`` gives none.

    Raises:
        SetupError: there is nothing. DataError: nothing that is known. UsageError: no such format or camera.
    """
    if not root.exists():
        raise SetupError("there is no such file or folder", where=str(root),
                         hint="name the file or folder that has the videos; videos fetch gets published ones")
    if name:
        return reader_class(name)(root, options)
    for each in FORMATS:
        if (kind := reader_class(each)).recognises(root):
            return kind(root, options)
    raise DataError("of no format that is read", where=str(root),
                    hint="docs/videos.md tells which are: BAIR, TFDS and RLDS, LeRobot, MP4, GIF, PNG, JPEG, NPZ")
