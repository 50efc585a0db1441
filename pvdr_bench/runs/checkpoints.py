"""Checkpoints that are whole or not there.

``FOLDER/step-000000012345/`` holds ``state.json``, ``state.safetensors`` and ``manifest.json`` with the sha256 of
both. It is written in a hidden folder, flushed to the disk, and renamed, so a crash at any moment leaves the
checkpoints of before. Reading checks the checksums; a broken checkpoint is reported and the one before it is used. One
that cannot be read (no permission, a failing disk) is not broken for that: it is an error, and nothing older is used.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from pvdr_bench.errors import DataError, UnreadableError
from pvdr_bench.runs.faults import crash_point
from pvdr_bench.runs.files import encode, make_folder, remove_leftovers, sha256, storage_errors, sync_folder, write_file
from pvdr_bench.runs.intake import read_bytes
from pvdr_bench.runs.schema import CheckpointManifestFile, read
from pvdr_bench.runs.state import pack, unpack

FORMAT = 1
KEEP = 2  # checkpoints besides the newest
MANIFEST = "manifest.json"
LARGEST_STATE = 2**40  # bytes of one file
POLICY_ONLY = "policy_only"  # in `extra`: the learner's state is what acting needs, and no more
_STATE, _TENSORS = "state.json", "state.safetensors"
_NAME = re.compile(r"step-(\d{12,})|\.step-(\d{12,})\.old\.tmp")
_log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """A checkpoint as it was saved: ``step, state, extra``."""

    step: int
    state: dict[str, Any]
    extra: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run. One process writes (the holder of the run's lock); anybody may read.

    Args:
        folder: where they are; made at the first save.
        keep: how many to keep besides the newest.
    """

    def __init__(self, folder: Path | str, keep: int = KEEP) -> None:
        self.folder, self.keep = Path(folder), keep
        self.broken: list[dict[str, str]] = []  # what `latest` had to skip: {"checkpoint", "reason"}

    def path(self, step: int) -> Path:
        """Folder of the checkpoint at ``step``."""
        return self.folder / f"step-{step:012d}"

    def _aside(self, step: int) -> Path:
        """Where the checkpoint of this step waits for the moment in which it is replaced by another of the step."""
        return self.folder / f".{self.path(step).name}.old.tmp"

    def _existing(self, step: int) -> Path:
        aside = self._aside(step)
        return aside if aside.exists() and not self.path(step).exists() else self.path(step)

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, whole or broken, in order.

        Raises:
            UnreadableError: the folder cannot be read: whether there are any is not known.
        """
        try:
            matches = [_NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # there is no folder
                return []
            raise _unreadable(f"cannot be read: {error.strerror}", str(self.folder)) from error
        return sorted({int(match[1] or match[2]) for match in matches if match})

    def tidy(self) -> None:
        """Clear away what a killed writer left half done; only for the run's writer."""
        for step in self.steps():
            if self._existing(step) != self.path(step):  # killed in the middle of replacing it
                self._aside(step).replace(self.path(step))
        if self.folder.is_dir():
            remove_leftovers(self.folder)

    def save(self, step: int, state: dict[str, Any], extra: dict[str, Any] | None = None) -> Path:
        """Publish a checkpoint, then remove old ones and any of a later step (left by an abandoned future).

        Args:
            state: anything :mod:`pvdr_bench.runs.state` can store.
            extra: the same, small and without tensors: log offsets, counters.

        Raises:
            StorageError: the disk is full or cannot be written; the checkpoints of before are intact.
            TypeError: the state holds something that cannot be stored; says where.
        """
        make_folder(self.folder)
        self.tidy()
        tree, tensors = pack({"state": state, "extra": extra or {}})
        text = encode(json.dumps({"format": FORMAT, "step": step, **tree}, allow_nan=False, ensure_ascii=False))
        final = self.path(step)
        temporary = self.folder / f".{final.name}.{os.getpid()}.tmp"
        try:
            self._write(temporary, final, {_TENSORS: tensors, _STATE: text}, step)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        crash_point("checkpoint/published")
        sync_folder(self.folder)
        self._prune(step)
        return final

    def _write(self, temporary: Path, final: Path, files: dict[str, bytes], step: int) -> None:
        with storage_errors(temporary):
            temporary.mkdir()
        entries = {}
        for name, data in files.items():
            write_file(temporary / name, data)
            entries[name] = {"sha256": sha256(data), "bytes": len(data)}
        manifest = {"format": FORMAT, "step": step, "files": entries}
        write_file(temporary / MANIFEST, encode(json.dumps(manifest, indent=2) + "\n"))
        sync_folder(temporary)
        with storage_errors(final):
            if final.exists():  # a broken one, or the same step done again
                final.replace(self._aside(step))
                crash_point("checkpoint/moved-aside")
            temporary.replace(final)

    def _prune(self, newest: int) -> None:
        steps = self.steps()
        kept = [step for step in steps if step <= newest][-(self.keep + 1):]
        for step in steps:
            if step not in kept:
                # Renamed first: a crash in the middle of deleting must not leave half a checkpoint by its name.
                aside = self.folder / f".{self.path(step).name}.pruned.tmp"
                shutil.rmtree(aside, ignore_errors=True)
                self.path(step).replace(aside)
                crash_point("checkpoint/prune")
        remove_leftovers(self.folder)

    def load(self, step: int) -> Checkpoint:
        """Read one checkpoint and check it.

        Raises:
            DataError: it is missing or broken; says the file and what is wrong.
            UnreadableError: it cannot be read, and may be whole.
        """
        folder = self._existing(step)
        manifest = _read_manifest(folder)
        data = {name: _read_checked(folder / name, manifest) for name in (_STATE, _TENSORS)}
        try:
            tree = json.loads(data[_STATE])
            if tree["step"] != step:
                raise DataError(f"it is of step {tree['step']}", where=str(folder))
            value = unpack({"state": tree["state"], "extra": tree["extra"]}, data[_TENSORS])
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"state and tensors do not fit: {error}", where=str(folder)) from error
        return Checkpoint(step, value["state"], value["extra"])

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint; None if none was ever published.

        Broken ones are skipped, logged as warnings and listed in :attr:`broken`.

        Raises:
            DataError: there are checkpoints, and all are broken. Starting over silently would throw the logs away.
            UnreadableError: one cannot be read, and may be whole. Going on from an older one would throw it away.
        """
        self.broken = []
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except UnreadableError as error:
                raise _unreadable(error.message, error.where) from error
            except DataError as error:
                reason = str(error)
                self.broken.append({"checkpoint": self.path(step).name, "reason": reason})
                _log.warning("broken checkpoint skipped: %s", reason)
        if self.broken:
            raise DataError(f"all {len(self.broken)} checkpoints are broken; the newest: {self.broken[0]['reason']}",
                            where=str(self.folder), hint="remove this folder to start the run from its beginning")
        return None


def _unreadable(what: str, where: str | None) -> UnreadableError:
    return UnreadableError(f"a checkpoint {what}; it may be whole, so none before it is used", where=where,
                           hint="keep it; see to permissions, the disk or the network file system, then give the same "
                                "command again")


def _read_manifest(folder: Path) -> CheckpointManifestFile:
    try:
        manifest = read(CheckpointManifestFile, folder / MANIFEST)
    except FileNotFoundError as error:
        raise DataError("the file is missing", where=str(folder / MANIFEST)) from error
    if manifest["format"] != FORMAT:
        raise DataError(f"format {manifest['format']} is not known", where=str(folder),
                        hint=f"this version reads format {FORMAT}")
    return manifest


def _read_checked(path: Path, manifest: CheckpointManifestFile) -> bytes:
    """A file's bytes, compared with the manifest's length and sha256."""
    entry = manifest["files"].get(path.name)
    if entry is None:
        raise DataError("the manifest does not list it", where=str(path))
    try:
        data = read_bytes(path, LARGEST_STATE)
    except FileNotFoundError as error:
        raise DataError("the file is missing", where=str(path)) from error
    if len(data) != entry["bytes"]:
        raise DataError(f"it has {len(data)} bytes instead of {entry['bytes']}", where=str(path))
    if sha256(data) != entry["sha256"]:
        raise DataError("its checksum is wrong", where=str(path))
    return data
