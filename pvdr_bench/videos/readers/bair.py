"""BAIR robot pushing as its authors publish it: ``softmotion30_44k/{train,test}/traj_A_to_B.tfrecords``.

A record is one trajectory of 30 frames. Frame t of a camera is the feature ``t/image_aux1/encoded`` or
``t/image_main/encoded``: 64 x 64 x 3 raw RGB bytes, despite the name. Video prediction uses aux1, the default here. The
archive is read as it was downloaded: a shard is a span of bytes of the tar, and nothing is unpacked.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from pvdr_bench.errors import DataError
from pvdr_bench.videos.layout import HELDOUT, TRAIN
from pvdr_bench.videos.readers.base import (
    Frames,
    Reader,
    ReadOptions,
    SourceEpisode,
    Unit,
    choose_camera,
    reading,
    with_splits,
)
from pvdr_bench.videos.readers.tfrecord import Record, byte_lists, records

SIDE = 64
FOLDER = "softmotion30_44k"
_SHARD = re.compile(r"(?:.*/)?(train|test)/(traj_(\d+)_to_(\d+)\.tfrecords?)$")
_LOOK_AT = 100  # members of a tar
_CAMERAS = ("image_aux1", "image_main")
_SPLITS = {"train": TRAIN, "test": HELDOUT}


class BairReader(Reader):
    """The unpacked folder, the archive ``bair_robot_pushing_dataset_v0.tar``, or the folder that it lies in."""

    format = "bair"

    def __init__(self, root: Path, options: ReadOptions) -> None:
        super().__init__(_archive(root) or root, options)
        self._camera = choose_camera(options.camera, _CAMERAS, _CAMERAS, str(root))

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A tar, or a folder with shards of that name or with a tar that holds some."""
        if root.is_file():
            return root.suffix == ".tar"
        return next(_shard_files(root), None) is not None or any(_holds_shards(path) for path in root.glob("*.tar"))

    @property
    def camera(self) -> str:
        """``image_aux1`` or ``image_main``."""
        return self._camera

    def units(self) -> list[Unit]:
        """One for each shard, train before test, in the order of their trajectories."""
        found = _members(self.root) if self.root.is_file() else [
            Unit(f"{split}/{path.name}", path.stat().st_size, {"file": str(path.relative_to(self.root)), "start": 0})
            for split, path in _shard_files(self.root)]
        if not found:
            raise DataError("holds no shards of BAIR", where=str(self.root),
                            hint=f"{FOLDER}/train/traj_0_to_255.tfrecords and so on belong there")
        return with_splits(sorted(found, key=_order), lambda unit: _SPLITS[unit.name.partition("/")[0]])

    def episodes(self, unit: Unit) -> Iterator[SourceEpisode]:
        """One for each record; a missing one is found by the numbers in the shard's name."""
        path = self.root / unit.data["file"] if unit.data["file"] else self.root
        place = _SHARD.match(unit.name)
        assert place is not None
        count, wanted = 0, int(place[4]) - int(place[3]) + 1
        for record in records(path, unit.data["start"], unit.size):
            yield SourceEpisode(f"{unit.name}#{count}", unit.data["split"],
                                lambda record=record: iter((self._frames(record, path),)))  # type: ignore[misc]
            count += 1
        if count != wanted:
            raise DataError(f"{count} trajectories where its name tells of {wanted}", where=f"{path} ({unit.name})",
                            hint="it was not downloaded whole")

    def _frames(self, record: Record, path: Path) -> Frames:
        """uint8 [T, 64, 64, 3]."""
        names = re.compile(rf"(\d+)/{self._camera}/encoded$")
        found = {int(key.partition("/")[0]): values for key, values in byte_lists(record, path, names.match).items()}
        where = f"{path}, byte {record.offset}"
        if not found or sorted(found) != list(range(len(found))):
            raise DataError(f"a trajectory whose frames of {self._camera} are numbered {sorted(found)}", where=where)
        size = SIDE * SIDE * 3
        for t, values in found.items():
            if len(values) != 1 or len(values[0]) != size:
                sizes = ", ".join(str(len(value)) for value in values) or "none"
                raise DataError(f"frame {t} of {self._camera} has {sizes} bytes, not {size}", where=where)
        frames = np.stack([np.frombuffer(found[t][0], np.uint8) for t in range(len(found))])
        return frames.reshape(-1, SIDE, SIDE, 3)


def _shard_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Split and path of the shards below a folder: it, ``softmotion30_44k`` in it, or one of the two splits."""
    for base in (root, root / FOLDER):
        for split in _SPLITS:
            for path in sorted((base / split).glob("traj_*_to_*.tfrecord*")):
                if _SHARD.match(f"{split}/{path.name}") and path.is_file():
                    yield split, path


def _archive(root: Path) -> Path | None:
    """The tar in a folder without shards; None: the folder itself, or the file, is the source.

    Raises:
        DataError: there are several.
    """
    if not root.is_dir() or next(_shard_files(root), None) is not None:
        return None
    found = sorted(root.glob("*.tar"))
    if len(found) > 1:
        raise DataError(f"{len(found)} archives here", where=str(root),
                        hint=f"name one: {', '.join(str(path) for path in found[:5])}")
    return found[0] if found else None


def _holds_shards(path: Path) -> bool:
    """Whether a shard is among the first members of a tar; a broken one counts where it lies alone."""
    try:
        with tarfile.open(path, "r:") as archive:
            return any(_SHARD.match(member.name) for member in islice(archive, _LOOK_AT))
    except (tarfile.TarError, OSError):
        return len(list(path.parent.iterdir())) == 1


def _members(root: Path) -> list[Unit]:
    """The shards in the archive, as spans of its bytes."""
    found = []
    try:
        with tarfile.open(root, "r:") as archive:
            for member in archive:
                if member.isreg() and (place := _SHARD.match(member.name)):
                    found.append(Unit(f"{place[1]}/{place[2]}", member.size,
                                      {"file": "", "start": member.offset_data}))
    except tarfile.TarError as error:
        raise DataError(f"no tar archive, or a broken one: {error}", where=str(root),
                        hint="compare its size and sha256: pvdr-bench videos fetch bair") from error
    except OSError as error:
        raise reading(error, root) from error
    return found


def _order(unit: Unit) -> tuple[int, int]:
    place = _SHARD.match(unit.name)
    assert place is not None
    return list(_SPLITS).index(place[1]), int(place[3])
