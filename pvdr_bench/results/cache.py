"""What run directories held when they were last read: ``RESULTS/.aggregate/contents.parquet``, safe to delete.

A row per run: :class:`~pvdr_bench.results.reading.Content`, and the (size, mtime_ns, inode) of each file that it was
read from. It is used only while all of these are the same. A file that changed in the last :data:`SETTLED_SECONDS`
is not trusted, since a second change within the clock's grain would not show, so a run that is being written is read
again until it rests. Broken runs are not kept: what is wrong with them is found anew each time.

The file is replaced in one step. Where two processes write it, the last one wins, and what only the other had read is
read again.
"""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pvdr_bench.catalog.protocol import Protocol
from pvdr_bench.errors import DataError, StorageError
from pvdr_bench.results.reading import FILES, POINT_TYPES, Content
from pvdr_bench.runs.files import atomic_write, content_hash
from pvdr_bench.runs.intake import LARGEST_LOG, read_bytes
from pvdr_bench.runs.known import FOLDER, SETTLED_SECONDS, file_system_time, ignore_in_git
from pvdr_bench.runs.standing import Signature, signature

SCHEMA = 3  # raise it when Content, or how files are read, changes
_NAME = "contents.parquet"
_KEY = b"pvdr_bench.contents"
_log = logging.getLogger(__name__)


def content_signature(path: Path) -> Signature:
    """What tells that the files a content is read from are as they were."""
    return signature(path, FILES)


class ContentCache:
    """The contents of the runs below a results folder, as they were last read.

    Args:
        root: the results folder; nothing is written before :meth:`store`.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER
        self.path = self.folder / _NAME
        self._entries = self._load()
        self._kept: dict[str, tuple[Signature, Content]] = {}
        self._new = False
        self._now: int | None = None

    def get(self, name: str, now: Signature) -> Content | None:
        """The content of the run ``name``, if its files are the same as then."""
        entry = self._entries.get(name)
        if entry is None or entry[0] != now:
            return None
        self._kept[name] = entry
        return entry[1]

    def begin(self) -> None:
        """Call before a run's files are read: what changes later than this is not trusted.

        The time is the file system's own, so clocks of hosts need not agree.
        """
        if self._now is None:
            self._now = file_system_time(self.folder.parent)

    def put(self, name: str, before: Signature, after: Signature, content: Content) -> None:
        """Remember what was read between two looks at a run's files, if they were at rest."""
        newest = max(after[1::3])
        if before == after and self._now is not None and newest < self._now - int(SETTLED_SECONDS * 1e9):
            self._kept[name] = after, content
            self._new = True

    def store(self) -> None:
        """Write what is known of the runs that were asked for; of others, nothing is kept.

        A folder that cannot be written costs time, not results: it is said in the log, and nothing is kept.
        """
        if not self._new and len(self._kept) == len(self._entries):
            return
        try:
            ignore_in_git(self.folder.parent)
            atomic_write(self.path, _to_parquet(self._kept), durable=False)
        except StorageError as error:
            _log.info("the cache of results is not written: %s", error.message)

    def _load(self) -> dict[str, tuple[Signature, Content]]:
        try:
            data = read_bytes(self.path, LARGEST_LOG)
        except (FileNotFoundError, DataError):
            return {}
        try:
            return _from_parquet(data)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # damaged from outside: made anew
            _log.warning("%s is damaged and made anew: %s", self.path, error)
            return {}


def _version() -> bytes:
    """What a cache must have been made with: which keys of a protocol mean something is part of a content."""
    return f"{SCHEMA} {content_hash(Protocol.keys('means'))}".encode()


def _to_parquet(entries: dict[str, tuple[Signature, Content]]) -> bytes:
    """A row per run; its points are lists."""
    contents = [content for _, content in entries.values()]
    offsets = np.cumsum([0, *(len(content.points["episodes"]) for content in contents)], dtype=np.int32)
    columns: dict[str, Any] = {
        "run": list(entries),
        "signature": pa.array([list(key) for key, _ in entries.values()], pa.list_(pa.int64())),
        "sync_every": [content.sync_every for content in contents],
        "reached": [content.reached for content in contents], "twice": [content.twice for content in contents],
        **{name: [json.dumps(getattr(content, name)) for content in contents]
           for name in ("facts", "protocol", "recipe")},
    }
    for name, kind in POINT_TYPES.items():
        values = np.concatenate([content.points[name] for content in contents] or [np.empty(0, kind)])
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(values, pa.string() if kind is object else None))
    sink = pa.BufferOutputStream()
    table = pa.table(columns).replace_schema_metadata({_KEY: _version()})
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def _from_parquet(data: bytes) -> dict[str, tuple[Signature, Content]]:
    """What :func:`_to_parquet` wrote; nothing of another version.

    Raises:
        pa.ArrowException, OSError, ValueError, KeyError: the file is damaged.
    """
    table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True, use_threads=False)
    if (table.schema.metadata or {}).get(_KEY) != _version():
        return {}
    table = table.combine_chunks()
    points, offsets = _points(table)
    parse = cache(json.loads)  # most runs share protocol and recipe; nobody changes a content
    head = {name: table.column(name).to_pylist()
            for name in ("run", "signature", "sync_every", "reached", "twice", "facts", "protocol", "recipe")}
    entries = {}
    for index, name in enumerate(head["run"]):
        part = slice(offsets[index], offsets[index + 1])
        facts, protocol, recipe = (parse(head[key][index]) for key in ("facts", "protocol", "recipe"))
        entries[name] = tuple(head["signature"][index]), Content(
            facts, protocol, recipe, head["sync_every"][index], {key: values[part] for key, values in points.items()},
            head["reached"][index], head["twice"][index])
    return entries


def _points(table: Any) -> tuple[dict[str, Any], list[int]]:
    """All runs' points one after the other, and where each run's begin."""
    points: dict[str, Any] = {}
    offsets = np.zeros(1, np.int32)
    for name, kind in POINT_TYPES.items():
        lists = table.column(name).combine_chunks() if len(table) else pa.array([], table.schema.field(name).type)
        lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
        offsets = lists.offsets.to_numpy()
        points[name] = lists.flatten().to_numpy(zero_copy_only=False).astype(kind, copy=False)
    return points, offsets.tolist()
