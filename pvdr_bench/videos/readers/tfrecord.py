"""TFRecord files without TensorFlow: framing with its checksums, and the wire form of ``tf.train.Example``.

A record is its length (8 bytes, little-endian), the masked CRC-32C of those (4), the payload, and the masked CRC-32C of
that (4); tensorflow/core/lib/io/record_writer.h. An ``Example`` is a map from names to lists of bytes, floats or whole
numbers; a ``SequenceExample`` whose context holds all has the same bytes. Only lists of bytes are looked at here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pvdr_bench.errors import DataError
from pvdr_bench.needed import need
from pvdr_bench.videos.readers.base import reading

LARGEST_RECORD = 2**31  # bytes: what protocol buffers allow
_MASK = 0xA282EAD8
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Record:
    """A payload whose checksums are right, and where it begins in its file."""

    data: bytes
    offset: int


def masked(crc: int) -> int:
    """TensorFlow's masked form of a CRC-32C: rotated right by 15 bits, plus a constant."""
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def records(path: Path, start: int = 0, length: int | None = None) -> Iterator[Record]:
    """The records of a file, or of ``length`` bytes of it from ``start`` on (a member of a tar).

    Raises:
        DataError: truncated or damaged, with the byte; compressed as a whole.
    """
    crc = need("google_crc32c", "reading TFRecords").value
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            end = size if length is None else start + length
            if end > size:
                raise DataError(f"the file ends at byte {size}, and its table of contents tells of {end}",
                                where=f"{path}, byte {size}", hint="it was not downloaded whole")
            file.seek(start)
            while (at := file.tell()) < end:
                yield _record(file, path, at, end, crc)
    except OSError as error:
        raise reading(error, path) from error


def _record(file: BinaryIO, path: Path, at: int, end: int, crc: object) -> Record:
    assert callable(crc)
    head = file.read(min(12, end - at))
    if at == 0 and head[:2] == _GZIP:
        raise DataError("is compressed as a whole, which is not read", where=str(path), hint=f"gunzip < {path.name}")
    if len(head) < 12:
        raise DataError(f"ends inside a record's length ({len(head)} of 12 bytes)", where=f"{path}, byte {at}",
                        hint="it was not downloaded whole")
    length, length_crc = struct.unpack("<QI", head)
    if masked(crc(head[:8])) != length_crc:
        raise DataError("the checksum of a record's length is wrong", where=f"{path}, byte {at}",
                        hint="the file is damaged, or no TFRecord file: fetch it again")
    if length > LARGEST_RECORD:
        raise DataError(f"a record of {length} bytes; at most {LARGEST_RECORD} are read", where=f"{path}, byte {at}")
    if at + 12 + length + 4 > end:
        raise DataError(f"ends inside a record of {length} bytes, {end - at - 12} of which are there",
                        where=f"{path}, byte {end}", hint="it was not downloaded whole")
    data, tail = file.read(length), file.read(4)
    if len(data) < length or len(tail) < 4:
        raise DataError("became shorter while it was read", where=f"{path}, byte {at}")
    if masked(crc(data)) != struct.unpack("<I", tail)[0]:
        raise DataError("the checksum of a record is wrong", where=f"{path}, byte {at + 12}",
                        hint="the file is damaged: fetch it again")
    return Record(data, at + 12)


def byte_lists(record: Record, path: Path,
               wanted: Callable[[str], object] | None = None) -> dict[str, list[memoryview]]:
    """The features of an Example that are lists of bytes: name -> values, views of the record.

    Args:
        wanted: whether a name is to be read; None: all are.

    Raises:
        DataError: not an Example, with the byte.
    """
    view, found = memoryview(record.data), {}
    try:
        for outer, features, _ in _fields(view, 0, len(view)):
            if outer != 1 or features is None:
                continue
            for inner, entry, _ in _fields(view, *features):
                if inner == 1 and entry is not None:
                    name, value = _entry(view, entry, wanted)
                    if value is not None:
                        found[name] = value  # as everywhere with maps, the last of a name counts
    except _Broken as error:
        raise DataError(f"a record that is no tf.train.Example: {error}",
                        where=f"{path}, byte {record.offset + error.at}") from error
    return found


def _entry(view: memoryview, span: tuple[int, int],
           wanted: Callable[[str], object] | None) -> tuple[str, list[memoryview] | None]:
    """An entry of the map: its name, and its values where they are bytes and wanted."""
    name, values, feature = "", None, None
    for number, inside, at in _fields(view, *span):
        if inside is None:
            continue
        if number == 1:
            try:
                name = str(view[slice(*inside)], "utf-8")
            except UnicodeDecodeError:
                raise _Broken("a feature's name is not UTF-8", at) from None
        elif number == 2:
            feature = inside
    if feature is not None and (wanted is None or wanted(name)):
        for kind, items, _ in _fields(view, *feature):
            if kind == 1 and items is not None:
                values = [view[slice(*item)] for field, item, _ in _fields(view, *items)
                          if field == 1 and item is not None]
    return name, values


class _Broken(Exception):
    def __init__(self, text: str, at: int) -> None:
        super().__init__(text)
        self.at = at


def _fields(view: memoryview, at: int, end: int) -> Iterator[tuple[int, tuple[int, int] | None, int]]:
    """The fields of a message: number, span of its bytes (None where it is a plain number), and where it begins."""
    while at < end:
        start = at
        key, at = (view[at], at + 1) if view[at] < 0x80 else _varint(view, at, end)
        number, wire = key >> 3, key & 7
        if wire == 2:
            size, at = (view[at], at + 1) if at < end and view[at] < 0x80 else _varint(view, at, end)
            if size > end - at:
                raise _Broken(f"a field of {size} bytes where {end - at} are left", start)
            yield number, (at, at + size), start
            at += size
        elif wire == 0:
            _, at = _varint(view, at, end)
            yield number, None, start
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
            if at > end:
                raise _Broken("a number is cut off", start)
            yield number, None, start
        else:
            raise _Broken(f"wire type {wire}", start)


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    start = at
    while at < end and shift < 70:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _Broken("a number does not end", start)
