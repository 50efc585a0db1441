"""What is true of a run now, as far as its files tell: the one judgement that every command shares.

In this order: a living process holds its lock (``running``), ``failed.json`` (``failed``), ``done.json`` (``done``, or
``broken`` if the run is not what was finished), ``run.yaml`` (``stopped``), nothing (``new``). ``broken`` is also a
run of which one of these files cannot be read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pvdr_bench.errors import DataError
from pvdr_bench.runs.locks import FileLock
from pvdr_bench.runs.schema import DoneFile, FailedFile, read_if_any
from pvdr_bench.runs.seal import SEALED, Change, check_seal, check_unsealed, unreadable

State = Literal["new", "running", "stopped", "failed", "done", "broken"]
Signature = tuple[int, ...]  # size, mtime_ns and inode of each of WATCHED in turn; -1 where there is none
WATCHED = ("done.json", *SEALED)
REPAIR = "restore the file, or remove the run's folder and give its command again"


class Known(Protocol):
    """What remembers runs that were found intact; :class:`pvdr_bench.runs.known.KnownRuns`."""

    def intact(self, folder: Path, now: Signature) -> bool:
        """Whether the run was intact when its files were as they are now."""

    def remember(self, folder: Path, before: Signature, after: Signature) -> None:
        """The run is intact; its files' signatures before and after it was looked at."""


@dataclass(frozen=True)
class Standing:
    """A run's state and what it was read from.

    Attributes:
        sealed: whether ``done.json`` has a seal.
        changes: why it is broken.
    """

    state: State
    done: DoneFile | None = None
    failed: FailedFile | None = None
    sealed: bool = False
    changes: tuple[Change, ...] = ()

    @property
    def why(self) -> str:
        """Why it is broken, in a line; empty if it is not."""
        more = f" (and {len(self.changes) - 1} more: pvdr-bench verify)" if len(self.changes) > 1 else ""
        return f"{self.changes[0]}{more}" if self.changes else ""

    def error(self, folder: Path) -> DataError:
        """The same as an error."""
        return DataError(self.why, where=str(folder), hint=REPAIR)


def signature(folder: Path, names: tuple[str, ...] = WATCHED) -> Signature:
    """What tells that files are as they were."""
    found: list[int] = []
    for name in names:
        try:
            stat = (folder / name).stat()
        except OSError:
            found += [-1, -1, -1]
        else:
            found += [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    return tuple(found)


def judge(folder: Path, known: Known | None = None) -> Standing:
    """The run's state. A done run is checked against its seal, unless ``known`` says that nothing changed since."""
    for _ in range(3):  # a writer may extend the run while its files are compared
        before = signature(folder)
        found = _judge(folder, before, known)
        if found.state != "broken" or before == signature(folder):
            break
    return found


def _judge(folder: Path, before: Signature, known: Known | None) -> Standing:
    if is_held(folder):
        return Standing("running")
    done, failed, changes = None, None, list[Change]()
    try:
        failed = read_if_any(FailedFile, folder / "failed.json")
    except DataError as error:
        changes.append(unreadable("failed.json", error))
    try:
        done = read_if_any(DoneFile, folder / "done.json")
    except DataError as error:
        changes.append(unreadable("done.json", error))
    sealed = done is not None and "seal" in done
    if changes:
        return Standing("broken", done, failed, sealed, tuple(changes))
    if failed is not None:
        return Standing("failed", done, failed, sealed)
    if done is None:
        return Standing("stopped" if os.path.lexists(folder / "run.yaml") else "new")
    if known is None or not known.intact(folder, before):
        changes = check(folder, done)
        if changes:
            return Standing("broken", done, None, sealed, tuple(changes))
        if known is not None:
            known.remember(folder, before, signature(folder))
    return Standing("done", done, None, sealed)


def check(folder: Path, done: DoneFile) -> list[Change]:
    """Why a done run is not what was finished."""
    try:
        return check_seal(folder, done) if "seal" in done else check_unsealed(folder, done)
    except DataError as error:
        where = (error.where or "").removeprefix(f"{folder}/")
        return [unreadable(where or "a file", error)]


def is_held(folder: Path) -> bool:
    """Whether a process that lives, as far as can be told, writes the run."""
    lock = folder / "lock"
    return os.path.lexists(lock) and FileLock(lock).is_held_by_living()
