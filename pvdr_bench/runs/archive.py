"""Published runs in one file: ``DIR/runs.zip``, with the checksum of each of its files.

The archive's first member, ``manifest.json``, lists all others with their bytes and sha256. The same runs give the same
archive (names sorted, times and modes fixed). Commands that read ``DIR`` read its runs from a copy that is unpacked
once, into ``DATA/.unpacked/SHA256`` (safe to delete), and checked against the manifest at each use.

An archive may come from anybody: names that lead out of the folder, links, doubles, and more bytes than the manifest
says are refused before anything is written.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pvdr_bench.errors import DataError, StorageError, UsageError
from pvdr_bench.runs.files import encode, sha256, sha256_file, storage_errors, sync_folder, to_json
from pvdr_bench.runs.paths import ARCHIVE, data_root

MANIFEST, FORMAT = "manifest.json", 1
COPIES = ".unpacked"  # hidden: no search for runs looks into it
# A folder with one of these is a run: one that lost a file is no secret.
SIGNS = ("run.yaml", "failed.json", "done.json", "episodes.jsonl")
LARGEST_MANIFEST, LARGEST_SMALL = 64 * 2**20, 64 * 2**20  # bytes; an archive of any size may hold the second
LARGEST_RATIO = 200  # of unpacked and packed bytes; logs have 5 to 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError, struct.error,
            OverflowError, OSError)


@dataclass(frozen=True)
class Member:
    """What the manifest says of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Archive:
    """An archive whose list of files was found to be in order; their contents are checked where they are read."""

    path: Path
    members: dict[str, Member]

    def runs(self) -> list[str]:
        """Names of the runs in it: their paths below the folder that was packed."""
        folders = {str(PurePosixPath(name).parent) for name in self.members if PurePosixPath(name).name in SIGNS}
        return sorted((name for name in folders if not folders.intersection(map(str, PurePosixPath(name).parents))),
                      key=lambda name: name.split("/"))  # as a walk of folders finds them

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of each file, by name.

        Raises:
            DataError: one is not as the manifest says; names it.
        """
        with _damages(self.path), zipfile.ZipFile(self.path) as archive:
            for name, member in sorted(self.members.items()):
                where = f"{self.path}: {name}"
                with _damages(where), archive.open(name) as file:
                    data = file.read(member.size + 1)
                if len(data) != member.size or sha256(data) != member.sha256:
                    raise DataError("its checksum is wrong", where=where, hint=_HINT)
                yield name, data


_HINT = "restore the file: git checkout, or fetch it anew"


@contextmanager
def _damages(where: Path | str) -> Iterator[None]:
    """Turn what zipfile raises on a damaged file into one error."""
    try:
        yield
    except _DAMAGES as error:
        raise DataError(f"the archive is damaged: {error}", where=str(where), hint=_HINT) from error


def open_archive(path: Path) -> Archive:
    """Read an archive's list of files.

    Raises:
        DataError: it is no archive, its list is broken, or holds what no archive of runs holds.
        UsageError: there is none.
    """
    if not path.is_file():
        raise UsageError("there is no archive of runs here", where=str(path),
                         hint="aggregate --publish DIR, or pack DIR, writes one")
    with _damages(path), zipfile.ZipFile(path) as archive:
        there = {info.filename: info for info in archive.infolist()}
        if len(there) != len(archive.infolist()):
            raise DataError("a file is in the archive twice", where=str(path), hint=_HINT)
        head = there.pop(MANIFEST, None)
        if head is None or head.file_size > LARGEST_MANIFEST:
            raise DataError(f"the archive has no {MANIFEST} of a usual size", where=str(path), hint=_HINT)
        with _damages(f"{path}: {MANIFEST}"):
            members = _members(json.loads(archive.read(head)), f"{path}: {MANIFEST}")
    _check(path, members, there)
    return Archive(path, members)


def _members(manifest: Any, where: str) -> dict[str, Member]:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError("the manifest's format is not known", where=where, hint=f"this version reads format {FORMAT}")
    try:
        return {str(name): Member(int(told["bytes"]), str(told["sha256"])) for name, told in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"not a list of files: {error!r}", where=where, hint=_HINT) from error


def _check(path: Path, members: Mapping[str, Member], there: Mapping[str, zipfile.ZipInfo]) -> None:
    """Refuse what leads out of the folder, is no plain file, or is larger than the manifest, or than reason, says."""
    if odd := sorted(set(members) ^ set(there)):
        what = "is in the manifest and not in the archive" if odd[0] in members else "is not in the manifest"
        raise DataError(f"{what}", where=f"{path}: {odd[0]}", hint=_HINT)
    folders = {str(folder) for name in members for folder in PurePosixPath(name).parents}
    for name, info in there.items():
        where = f"{path}: {name}"
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\\" in name or ":" in parts[0] or not name.isprintable():
            raise DataError("its name leads out of the archive's folder", where=where, hint="do not unpack this file")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG) or name in folders:
            raise DataError("it is no plain file", where=where, hint="do not unpack this file")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"its compression {info.compress_type} is not used here", where=where, hint=_HINT)
        if info.file_size != members[name].size or members[name].size < 0:
            raise DataError(f"it has {info.file_size} bytes, and {members[name].size} in the manifest", where=where,
                            hint=_HINT)
    total = sum(member.size for member in members.values())
    if total > max(LARGEST_SMALL, LARGEST_RATIO * path.stat().st_size):
        raise DataError(f"it would unpack to {total / 2**20:.0f} MiB, more than runs of its size can have",
                        where=str(path), hint="do not unpack this file")


def write_archive(path: Path, files: Mapping[str, Path]) -> Archive:
    """Write an archive of files by their names in it, read it back, and put it in place.

    Raises:
        StorageError: the disk is full; an archive that was there is intact.
        DataError: a file changed meanwhile.
    """
    manifest = {name: {"bytes": files[name].stat().st_size, "sha256": sha256_file(files[name])}
                for name in sorted(files)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(temporary, "w") as archive:
                _add(archive, MANIFEST, encode(to_json({"format": FORMAT, "files": manifest}, indent=1) + "\n"))
                for name in manifest:
                    _add(archive, name, files[name].read_bytes())
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        for _ in open_archive(temporary).contents():
            pass
        with storage_errors(path):
            temporary.replace(path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return open_archive(path)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data, zipfile.ZIP_DEFLATED, 9)


def unpack(archive: Archive, folder: Path) -> None:
    """Write all files below ``folder``; what is there with the same content stays.

    Raises:
        DataError: a file of the archive is damaged.
        UsageError: a file is there with another content.
        StorageError: the disk is full.
    """
    for name, data in archive.contents():
        target = folder / name
        with storage_errors(target):
            if target.exists() and (not target.is_file() or target.read_bytes() != data):
                raise UsageError("this is there already, with another content", where=str(target),
                                 hint="choose another folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.write_bytes(data)


def unpacked(path: Path) -> Path:
    """The folder with an archive's files: ``DATA/.unpacked/SHA256``, or one for this process where that cannot be made.

    Raises:
        DataError: the archive is damaged.
    """
    archive = open_archive(path)
    home = data_root() / COPIES
    target = home / sha256_file(path)[:32]
    if _is_whole(archive, target):
        return target
    try:
        with storage_errors(home):
            home.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=home))
    except StorageError:
        folder = Path(tempfile.mkdtemp(prefix="pvdr-bench-runs-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        unpack(archive, folder / COPIES / target.name)
        return folder / COPIES / target.name
    try:
        unpack(archive, temporary)
        # Changed since; what another process just made is whole.
        if os.path.lexists(target) and not _is_whole(archive, target):
            _remove(target)
        with suppress(OSError):  # another process was faster, and its copy is as good
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not _is_whole(archive, target):
        raise DataError("its copy changes while it is read", where=str(target), hint="remove this folder")
    return target


def _remove(path: Path) -> None:
    """Remove what stands in a copy's place: a folder, a file, or a link, which is not followed."""
    with storage_errors(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _is_whole(archive: Archive, folder: Path) -> bool:
    """Whether a folder holds what the archive holds, and nothing else."""
    if folder.is_symlink():
        return False
    found = {(Path(base) / name).relative_to(folder).as_posix() for base, _, names in os.walk(folder) for name in names}
    return found == set(archive.members) and all(
        not (folder / name).is_symlink() and (folder / name).stat().st_size == member.size
        and sha256_file(folder / name) == member.sha256 for name, member in archive.members.items())


def archived_runs(root: Path) -> dict[str, Path]:
    """Name and folder of each run in the archive of a results folder; none where it has no archive.

    Raises:
        DataError: the archive is damaged, or something else stands in its place.
    """
    path = root / ARCHIVE
    if not os.path.lexists(path):
        return {}
    if not path.is_file():
        raise DataError("this is no file, and an archive of runs should be", where=str(path), hint=_HINT)
    folder = unpacked(path)
    return {name: folder / name for name in open_archive(path).runs()}


def run_name(run: Path, root: Path) -> str:
    """A run's path below its results folder, also of one that was read from the archive there."""
    parts = (run.relative_to(root) if run.is_relative_to(root) else run).parts
    if COPIES in parts:  # .unpacked/SHA256/NAME
        parts = parts[parts.index(COPIES) + 2:]
    return "/".join(parts)
