"""Append-only logs: one JSON object per line, cut back to a checkpoint's offsets on resume.

A line is written in one go and ends with a newline. A last line without one was torn by a crash: readers leave it
out, the next writer cuts it off.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pvdr_bench.errors import DataError, LockedError
from pvdr_bench.runs.faults import crash_point
from pvdr_bench.runs.files import encode, from_json, storage_errors, to_json, write_all
from pvdr_bench.runs.intake import LARGEST_LOG, read_bytes


class JsonlLog:
    """The one writer of a log. It opens the file at the first append.

    Every row reaches the operating system at once, so ``kill -9`` loses nothing; :meth:`sync` brings rows to the disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._end = 0

    def _open(self) -> int:
        if self._descriptor is None:
            with storage_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
                self._end = whole_length(self.path)
                if os.fstat(descriptor).st_size > self._end:
                    os.ftruncate(descriptor, self._end)
            self._descriptor = descriptor
        return self._descriptor

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row.

        Raises:
            StorageError: the disk is full; the log is as it was before.
            LockedError: another process has written to the log.
        """
        descriptor = self._open()
        self._check_end(descriptor)
        data = encode(to_json(row) + "\n")
        crash_point(f"log/{self.path.name}")
        with storage_errors(self.path):
            try:
                write_all(descriptor, data, f"log/{self.path.name}")
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, self._end)
                raise
        self._end += len(data)

    def _check_end(self, descriptor: int) -> None:
        """Refuse to go on where the file does not end with this process's last row: a checkpoint's offset counts its
        rows alone, so one row of another process would make every later offset wrong."""
        with storage_errors(self.path):
            size = os.fstat(descriptor).st_size
        if size != self._end:
            raise LockedError(f"another process has changed this log: it has {size} bytes, and this process left it "
                              f"with {self._end}", where=str(self.path),
                              hint="nothing more is written here; the same command goes on from the last checkpoint")

    def offset(self) -> int:
        """Length in bytes up to the last whole line."""
        return self._end if self._descriptor is not None else whole_length(self.path)

    def sync(self) -> int:
        """fsync, and return :meth:`offset`, which a checkpoint may then rely on.

        Raises:
            LockedError: another process has written to the log.
        """
        if self._descriptor is not None:
            self._check_end(self._descriptor)
            with storage_errors(self.path):
                os.fsync(self._descriptor)
        crash_point(f"sync/{self.path.name}")
        return self.offset()

    def truncate(self, offset: int) -> None:
        """Cut the log back to ``offset`` bytes.

        Raises:
            DataError: the log is shorter than that, or ``offset`` is not the end of a line.
        """
        self.close()
        length = whole_length(self.path)
        if offset > length:
            raise DataError(f"the log has {length} bytes, but the checkpoint needs {offset}", where=str(self.path),
                            hint="rows were lost outside this program: restore the file or start the run anew")
        if offset == 0 and not self.path.exists():
            return
        with storage_errors(self.path), self.path.open("r+b") as file:
            if offset:
                file.seek(offset - 1)
                if file.read(1) != b"\n":
                    raise DataError("the checkpoint's offset is not the end of a line",
                                    where=f"{self.path}: byte {offset}")
            file.truncate(offset)
            crash_point(f"truncate/{self.path.name}")
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the file; a later append opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def whole_length(path: Path) -> int:
    """Bytes of ``path`` up to and with its last newline; 0 where there is no file."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """All whole rows of a log; [] where there is no file. A torn last line is left out.

    Raises:
        DataError: a line in the file is not a JSON object; says which line and byte.
    """
    return read_jsonl_from(path, 0)[0]


def read_jsonl_from(path: Path | str, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Rows from byte ``offset`` on, and the offset to go on from: follows a log that is being written.

    A file shorter than ``offset`` was cut back by a resume; it is read from its beginning.
    """
    path = Path(path)
    try:
        data = read_bytes(path, LARGEST_LOG)
    except FileNotFoundError:
        return [], 0
    if len(data) < offset:
        offset = 0
    data = data[offset:]
    data = data[:data.rfind(b"\n") + 1]
    return parse_rows(data, path, offset), offset + len(data)


def parse_rows(data: bytes, path: Path, offset: int = 0, *, wanted: bytes = b"") -> list[dict[str, Any]]:
    """The rows of a log's whole lines.

    Args:
        path: the log, for errors.
        offset: where in it ``data`` begins.
        wanted: leave out lines without these bytes.

    Raises:
        DataError: a line is not a JSON object; says which line and byte.
    """
    rows, position = [], offset
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        if wanted in line and line.strip():
            rows.append(_parse(line, path, number if offset == 0 else None, position))
        position += len(line)
    return rows


def _parse(line: bytes, path: Path, number: int | None, position: int) -> dict[str, Any]:
    where = f"{path}: " + (f"line {number}, " if number else "") + f"byte {position}"
    hint = "pvdr-bench verify says more; the command of a run that is not done cuts its logs back to its checkpoint"
    try:
        row = from_json(line)
    except ValueError as error:
        raise DataError(f"not a JSON line: {error}", where=where, hint=hint) from error
    if not isinstance(row, dict):
        raise DataError(f"a JSON object is needed, not a {type(row).__name__}", where=where, hint=hint)
    return row
