"""Prepared TFDS data sets, and RLDS among them: ``NAME/VERSION/{dataset_info.json, NAME-train.tfrecord-00000-of-N}``.

One record is one episode: an Example in which a camera is a list of encoded pictures, ``steps/observation/image`` in
RLDS, ``image_aux1`` in ``bair_robot_pushing_small``. PNG or JPEG, as the first bytes say; as many frames as pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pvdr_bench.errors import DataError
from pvdr_bench.runs.files import read_json
from pvdr_bench.videos.layout import HELDOUT, TRAIN
from pvdr_bench.videos.readers.base import (
    Frames,
    Reader,
    ReadOptions,
    SourceEpisode,
    Unit,
    choose_camera,
    inside,
    with_splits,
)
from pvdr_bench.videos.readers.images import decode, is_picture
from pvdr_bench.videos.readers.tfrecord import Record, byte_lists, records

INFO = "dataset_info.json"
_PREFERRED = ("image", "image_aux1", "image_main")
_SPLITS = {"train": TRAIN, "test": HELDOUT, "val": HELDOUT, "validation": HELDOUT}
_DEFAULT = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_MOST_SHARDS = 100_000
_CHUNK = 2**24  # bytes of frames that are handed on at once


class RLDSReader(Reader):
    """A prepared TFDS data set, by its folder or the folder of its version."""

    format = "tfds"

    def __init__(self, root: Path, options: ReadOptions) -> None:
        folders = _folders(root)
        if not folders:
            raise DataError("no prepared TFDS data set here", where=str(root), hint=f"{INFO} belongs beside its shards")
        if len(folders) > 1:
            raise DataError(f"{len(folders)} data sets or versions here", where=str(root),
                            hint=f"name one: {', '.join(str(folder) for folder in folders[:5])}")
        super().__init__(folders[0], options)
        self.info = read_json(self.root / INFO)
        self._units = self._shards()
        self._camera = self._find_camera()

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A folder with ``dataset_info.json``, in it or in a folder of it."""
        return root.is_dir() and bool(_folders(root))

    @property
    def camera(self) -> str:
        """The feature's name."""
        return self._camera

    def units(self) -> list[Unit]:
        """One for each shard, in the order of the splits."""
        return self._units

    def _shards(self) -> list[Unit]:
        where = str(self.root / INFO)
        try:
            name, kind = str(self.info["name"]), str(self.info.get("fileFormat", "tfrecord"))
            splits = [(str(split["name"]), [int(length) for length in split["shardLengths"]],
                       str(split.get("filepathTemplate") or _DEFAULT)) for split in self.info["splits"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"does not tell name and shards: {error!r}", where=where) from error
        if kind != "tfrecord":
            raise DataError(f"shards of the format {kind}; tfrecord is read", where=where)
        found = []
        for split, lengths, template in splits:
            if len(lengths) > _MOST_SHARDS:
                raise DataError(f"{len(lengths)} shards of the split {split}", where=where)
            for number, length in enumerate(lengths):
                path = inside(self.root, _file_name(template, name, split, number, len(lengths), where), where)
                if path.is_file() and length:
                    found.append(Unit(str(path.relative_to(self.root)), path.stat().st_size,
                                      {"split": split, "records": length}))
                elif length:
                    raise DataError(f"a shard is missing, of {len(lengths)} of the split {split}", where=str(path),
                                    hint="fetch it, or take the split out of dataset_info.json")
        if not found:
            raise DataError("tells of no episodes", where=where)
        return with_splits(found, lambda unit: _SPLITS.get(unit.data["split"]))

    def _find_camera(self) -> str:
        """From the first record: names of lists whose first value is a picture."""
        path = self.root / self._units[0].name
        for record in records(path):
            cameras = [key for key, values in sorted(byte_lists(record, path).items())
                       if values and is_picture(values[0])]
            return choose_camera(self.options.camera, cameras, _PREFERRED, str(path))
        raise DataError("holds no record", where=str(path))

    def episodes(self, unit: Unit) -> Iterator[SourceEpisode]:
        """One for each record."""
        path, count, data = self.root / unit.name, 0, unit.data
        for record in records(path):
            yield SourceEpisode(f"{unit.name}#{count}", data["split"],
                                lambda record=record: self._frames(record, path))  # type: ignore[misc]
            count += 1
        if count != data["records"]:
            raise DataError(f"{count} episodes where {INFO} tells of {data['records']}", where=str(path))

    def _frames(self, record: Record, path: Path) -> Iterator[Frames]:
        where = f"{path}, byte {record.offset}"
        pictures = byte_lists(record, path, self._camera.__eq__).get(self._camera)
        if not pictures:
            raise DataError(f"an episode without {self._camera}", where=where)
        first = decode(pictures[0], f"{where}, {self._camera} 0")
        step = max(1, _CHUNK // first.nbytes)
        for begin in range(0, len(pictures), step):
            frames = [decode(picture, f"{where}, {self._camera} {begin + t}")
                      for t, picture in enumerate(pictures[begin:begin + step])]
            if any(frame.shape != first.shape for frame in frames):
                raise DataError(f"pictures of several sizes in {self._camera}", where=where)
            yield np.stack(frames)


def _folders(root: Path) -> list[Path]:
    """Folders with a ``dataset_info.json``: this one, or those one or two levels below it."""
    if (root / INFO).is_file():
        return [root]
    return sorted({path.parent for depth in ("*", "*/*") for path in root.glob(f"{depth}/{INFO}")})


def _file_name(template: str, name: str, split: str, number: int, of: int, where: str) -> str:
    """A shard's name from its template, whose fields are TFDS's own."""
    fields: Mapping[str, Any] = {
        "DATASET": name, "SPLIT": split, "FILEFORMAT": "tfrecord", "SHARD_INDEX": f"{number:05d}",
        "NUM_SHARDS": f"{of:05d}", "SHARD_X_OF_Y": f"{number:05d}-of-{of:05d}"}
    unknown = set(re.findall(r"{([^}]*)}", template)) - set(fields)
    if unknown:
        raise DataError(f"a template of shards with {sorted(unknown)}: {template[:80]!r}", where=where,
                        hint=f"known: {', '.join(fields)}")
    return re.sub(r"{(\w+)}", lambda match: str(fields[match[1]]), template)
