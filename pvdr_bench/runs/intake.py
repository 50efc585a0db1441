"""What comes in from the disk: the bytes of plain files, and JSON, whatever somebody put there.

A folder, a pipe, a device or a file without permission in a file's place is one :class:`DataError`, and none of them
is waited for. JSON is what this program writes: UTF-8, nested a few levels, without NaN tokens or endless numbers.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from pvdr_bench.errors import DataError, UnreadableError

LARGEST = 64 * 2**20  # bytes of a file that is one document: the largest of ours, a checkpoint's state, has a few MiB
LARGEST_LOG = 2**30
DEEPEST = 100  # levels of nesting; ours have less than ten
LONGEST = 300  # digits of a whole number: it fits into a float
# A socket or a device, a loop of links, a file in a folder's place: there is no plain file.
_NO_FILE = (errno.ENXIO, errno.ENODEV, errno.ELOOP, errno.ENOTDIR)


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a plain file.

    Raises:
        FileNotFoundError: there is none.
        DataError: something else stands there, or it is too large.
        UnreadableError: it cannot be read, and may be whole.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer opens at once
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise DataError(f"a {_kind(found.st_mode)} stands where a file should be", where=str(path))
            if found.st_size > largest:
                raise DataError(f"it has {found.st_size} bytes, and no such file has more than {largest}",
                                where=str(path))
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        kind = DataError if error.errno in _NO_FILE else UnreadableError
        raise kind(f"cannot be read: {error.strerror}", where=str(path)) from error


def _kind(mode: int) -> str:
    kinds = {"folder": stat.S_ISDIR, "pipe": stat.S_ISFIFO, "socket": stat.S_ISSOCK}
    return next((name for name, test in kinds.items() if test(mode)), "device")


def read_text(path: Path) -> str:
    """The content of a plain file as UTF-8.

    Raises:
        FileNotFoundError: there is none.
        DataError: see :func:`read_bytes`; or it is not UTF-8, with the byte.
    """
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=f"{path}: byte {error.start}") from error


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON, not UTF-8, nested too deeply, with a NaN token, or with a number that fits into no float.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")  # a UnicodeDecodeError is a ValueError, and names the byte
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} levels deep") from None
    if text.count("[") + text.count("{") > DEEPEST:
        check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Refuse what functions that walk a value would lose their stack in.

    Raises:
        ValueError: nested more than :data:`DEEPEST` levels deep.
    """
    level = [value]
    for _ in range(DEEPEST):
        level = [item for parent in level if isinstance(parent, dict | list)
                 for item in (parent.values() if isinstance(parent, dict) else parent)]
        if not level:
            return
    raise ValueError(f"nested more than {DEEPEST} levels deep")


def _whole(digits: str) -> int:
    if len(digits) > LONGEST:
        raise ValueError(f"the whole number {digits[:20]}... has {len(digits)} digits")
    return int(digits)


def _token(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_int=_whole, parse_constant=_token)
