"""Safe writing: atomic, flushed to the disk, with clear errors; and JSON without NaN tokens.

NaN and infinities are no JSON. They are written as ``null``, and the outermost object lists them in the key
``_nonfinite`` as JSON pointer -> ``"nan" | "inf" | "-inf"``. :func:`from_json` puts them back, other readers see null.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pvdr_bench.errors import DataError, StorageError
from pvdr_bench.runs.faults import armed, crash_point
from pvdr_bench.runs.intake import parse_json, read_bytes

NONFINITE = "_nonfinite"
_HINTS = {
    errno.ENOSPC: "the disk is full ({free} free): make room and give the same command again; what was saved is intact",
    errno.EDQUOT: "your disk quota is used up: make room and give the same command again; what was saved is intact",
    errno.EROFS: "the file system is read-only: choose another place: --out, --results or PVDR_BENCH_DATA",
    **dict.fromkeys((errno.EACCES, errno.EPERM),
                    "no permission to write: choose another place: --out, --results or PVDR_BENCH_DATA"),
    **dict.fromkeys((errno.ENOTSUP, errno.ENOSYS),
                    "the file system has no hard links: choose another place: --out, --results or PVDR_BENCH_DATA"),
    errno.EFBIG: "the file is larger than the file system or `ulimit -f` allows",
    errno.EIO: "the disk reports an input/output error: check it, then give the same command again",
    errno.ESTALE: "the network file system lost this file: give the same command again",
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "a file stands where a folder is needed"),
    errno.EISDIR: "a folder stands where a file is needed",
    errno.ENOENT: "the folder is not there and cannot be made: choose another one",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter --results folder",
}


@contextmanager
def storage_errors(path: Path | None) -> Iterator[None]:
    """Turn the errors of a full or unwritable disk into one :class:`StorageError` that names ``path``, if known."""
    try:
        yield
    except OSError as error:
        if error.errno not in _HINTS:
            raise
        hint, where = _HINTS[error.errno].format(free=_free(path or Path())), None if path is None else str(path)
        raise StorageError(f"cannot write: {error.strerror}", where=where, hint=hint) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are not there; one that cannot be made is a StorageError."""
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def check_folder(path: Path) -> None:
    """Refuse what cannot become a folder to write in, before the work whose results it is for; makes nothing.

    Raises:
        StorageError: a file stands there or above, or there is no permission.
    """
    with storage_errors(path):
        above = next(place for place in (path, *path.absolute().parents) if place.exists())
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _free(path: Path) -> str:
    for folder in (path, *path.parents):
        with suppress(OSError):
            return f"{shutil.disk_usage(folder).free / 2**20:.0f} MiB"
    return "unknown space"


def write_all(descriptor: int, data: bytes, name: str) -> None:
    """Write all of ``data``; the crash point ``NAME/torn`` lies between its two halves."""
    if armed(f"{name}/torn"):
        half = len(data) // 2
        _write(descriptor, data[:half])
        crash_point(f"{name}/torn")
        data = data[half:]
    else:
        crash_point(f"{name}/torn")
    _write(descriptor, data)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view):]


def write_file(path: Path, data: bytes, *, durable: bool = True, target: Path | None = None) -> None:
    """Write a new file that nobody reads yet, and fsync it if ``durable``; errors name ``target``, if it is given."""
    with storage_errors(target or path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            write_all(descriptor, data, f"write/{_label(path)}")
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        crash_point(f"write/{_label(path)}/done")


def refuse_folder(path: Path) -> None:
    """A path at which a file, or files whose names begin so, are to be written must not be a folder.

    Raises:
        StorageError: it is one.
    """
    if not path.name or path.is_dir():
        raise StorageError("a folder stands where a file is needed", where=str(path), hint="add the file's name to it")


def atomic_write(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace ``path`` by ``data``: a reader, or a crash at any moment, sees the old file or the new one.

    Raises:
        StorageError: the disk is full or cannot be written; the old file is intact.
    """
    refuse_folder(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_file(temporary, data, durable=durable, target=path)
        with storage_errors(path):
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    crash_point(f"replace/{path.name}")
    if durable:
        sync_folder(path.parent)


def create_once(path: Path, data: bytes) -> bool:
    """Make ``path`` of ``data`` in one step, and only where there is none: of many who try at once one succeeds.

    Returns:
        Whether it was made by this call; if not, the file that is there is whole and somebody else's.

    Raises:
        StorageError: the disk is full or cannot be written, or has no hard links.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write_file(temporary, data)
        with storage_errors(path):
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def _label(path: Path) -> str:
    """The file's name without the process id of a temporary file."""
    name = path.name
    return name[1:].rsplit(".", 2)[0] if name.startswith(".") and name.endswith(".tmp") else name


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that names created in it survive a power cut."""
    with storage_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:  # some network file systems refuse fsync on folders and need none
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed process left in ``folder``; call it only as the only writer."""
    for path in folder.glob(".*.tmp"):
        if path.name.startswith((".lock.", ".now.")):
            continue  # another process may be asking for the lock right now
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sha256(data: bytes) -> str:
    """Hex digest of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """``value`` as JSON types; NumPy and torch scalars and arrays become numbers and lists.

    Raises:
        TypeError: a type that has no JSON form.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"no JSON form for {type(value).__name__}: {value!r}")


def _pull_nonfinite(value: Any, pointer: str, found: dict[str, str]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        found[pointer] = "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
        return None
    if isinstance(value, dict):
        return {key: _pull_nonfinite(item, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}", found)
                for key, item in value.items()}
    if isinstance(value, list):
        return [_pull_nonfinite(item, f"{pointer}/{i}", found) for i, item in enumerate(value)]
    return value


def to_json(value: Mapping[str, Any], *, indent: int | None = None) -> str:
    """An object as strict JSON; non-finite numbers as this module's head says."""
    found: dict[str, str] = {}
    clean = _pull_nonfinite(plain(value), "", found)
    if found:
        clean[NONFINITE] = found
    return json.dumps(clean, indent=indent, allow_nan=False, ensure_ascii=False)


def encode(text: str) -> bytes:
    """UTF-8; undecodable bytes of file names become JSON escapes."""
    return text.encode("utf-8", "backslashreplace")


def from_json(text: str | bytes) -> Any:
    """What :func:`to_json` wrote, with NaN and infinities back in place.

    Raises:
        ValueError: not such a text.
    """
    value = parse_json(text)
    if isinstance(value, dict) and NONFINITE in value:
        places = value.pop(NONFINITE)
        if not isinstance(places, dict):
            raise ValueError(f"`{NONFINITE}` must be an object")
        for pointer, number in places.items():
            _put_nonfinite(value, pointer, number)
    return value


def _put_nonfinite(value: Any, pointer: str, number: Any) -> None:
    """Put one NaN or infinity back where a null stands for it.

    Raises:
        ValueError: there is no such place, or no null in it.
    """
    keys: list[Any] = [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
    target, place = None, value
    try:
        for key in keys:
            target, last = place, int(key) if isinstance(place, list) else key
            place = target[last]
    except (KeyError, IndexError, TypeError, ValueError):
        target = None
    if target is None or place is not None or number not in ("nan", "inf", "-inf"):
        raise ValueError(f"`{NONFINITE}` says {number!r} of {pointer!r}, and no null is there")
    target[last] = float(number)


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces; NaN and infinities as their own tokens (for hashing only)."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(value: Any) -> str:
    """12 hex digits of the sha256 of :func:`canonical_json`."""
    return sha256(encode(canonical_json(value)))[:12]


def write_json(path: Path, value: Mapping[str, Any], *, durable: bool = True) -> None:
    """Atomically write an object as readable JSON."""
    atomic_write(path, encode(to_json(value, indent=2) + "\n"), durable=durable)


def read_json(path: Path) -> dict[str, Any]:
    """Read what :func:`write_json` wrote.

    Raises:
        DataError: the file is no JSON object, or cannot be read.
        FileNotFoundError: there is none.
    """
    data = read_bytes(path)
    try:
        value = from_json(data)
    except ValueError as error:
        raise DataError(f"not a JSON file: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise DataError(f"a JSON object is needed, not a {type(value).__name__}", where=str(path))
    return value
