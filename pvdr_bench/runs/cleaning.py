"""What may go: broken runs, and old artefacts that nobody stands on. It goes into a trash folder, and can come back.

::

    RESULTS/.trash/DATE/method/task/corpus/scale/seed-N
    DATA/trash/DATE/STAGE/NAME-HASH

Nothing is deleted but by :func:`empty`. Links are never followed, shipped artefacts never looked at, and what a living
process has locked is left alone.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pvdr_bench.errors import DataError, LockedError, UnreadableError
from pvdr_bench.runs.artefacts import MANIFEST, ArtefactStore
from pvdr_bench.runs.directory import RunDir
from pvdr_bench.runs.files import storage_errors, sync_folder
from pvdr_bench.runs.folders import loose_runs
from pvdr_bench.runs.seal import Unread
from pvdr_bench.runs.standing import Standing, check, is_held
from pvdr_bench.runs.users import ARTEFACTS, digest_of, entries, registry, run_names, users_folder

RUN_TRASH, DATA_TRASH = ".trash", "trash"  # below the results folder; below the data folder
JOB, JOB_END = "job.json", "job_end.json"  # of a run that was handed to a scheduler
_DAY = 86400.0


@dataclass(frozen=True)
class Found:
    """A folder that may go, or one that has to stay.

    Attributes:
        place: where it goes below the trash folder's date.
        reason: why it may go, or why it stays.
    """

    path: Path
    place: Path
    reason: str
    size: int


def broken_runs(root: Path) -> list[Found]:
    """Runs that cannot be continued, failed, or are not what was finished; not those that a living process writes or a
    job will."""
    found = []
    for name, path in loose_runs(root):
        with suppress(OSError):  # what cannot be looked at is not known to be broken
            if not is_held(path) and not _awaited(path) and (reason := why_broken(RunDir(path))):
                found.append(Found(path, Path(name), reason, size_of(path)))
    return found


def why_broken(run_dir: RunDir) -> str | None:
    """Why a run that nobody writes is of no use; None where it is of some, or that cannot be read now. What is done is
    compared with its seal, as every command that shows it does; the lock is not looked at, which the caller may hold.
    """
    try:
        run_dir.read_run()
        failed = run_dir.failed()
        if failed is not None:
            return f"failed: {(str(failed.get('message') or '').splitlines() or ['without a message'])[0][:80]}"
        done = run_dir.done()
        if done is None:
            return None if run_dir.checkpoints.steps() else "stopped before its first checkpoint"
        changes = check(run_dir.path, done)
        if not changes or any(isinstance(change, Unread) for change in changes):
            return None
        return f"broken: {Standing('broken', changes=tuple(changes)).why}"
    except UnreadableError:  # what cannot be looked at is not known to be broken
        return None
    except DataError as error:
        return f"broken: {error.message}"


def _awaited(run: Path) -> bool:
    """Whether a run was handed to a scheduler, and no job has left it since."""
    return (run / JOB).exists() and not (run / JOB_END).exists() and not (run / "failed.json").exists()


def idle_artefacts(store: ArtefactStore, root: Path, days: float) -> tuple[list[Found], list[Found]]:
    """The user's own artefacts: those that nobody stands on and nobody asked for in the last ``days``, and the others.

    Args:
        root: a results folder whose runs count, though they may have been made before users were written down.
    """
    idle, kept = list[Found](), list[Found]()
    runs = _runs_with_artefacts(root)
    for path in own_artefacts(store):
        living = store.building_lock(path).is_held_by_living()
        reason = "a process makes it anew" if living else _why_used(path, runs, days)
        told = reason or f"no run stands on it, and nobody asked for it in the last {days:g} days"
        (kept if reason else idle).append(Found(path, Path(path.parent.name) / path.name, told, size_of(path)))
    return idle, kept


def own_artefacts(store: ArtefactStore) -> Iterator[Path]:
    """Folders of the user's own artefacts, by path; links lead elsewhere, and what they lead to is not ours."""
    shipped = [folder.resolve() for folder in store.shipped]
    if store.root.is_symlink() or not store.root.is_dir() or store.root.resolve() in shipped:
        return
    for path in sorted(store.root.glob(f"[!.]*/[!.]*/{MANIFEST}")):
        if not path.parent.is_symlink() and not path.parent.parent.is_symlink():
            yield path.parent


def _runs_with_artefacts(root: Path) -> list[Path]:
    return [path for _, path in loose_runs(root) if (path / ARTEFACTS).exists()]


def _why_used(artefact: Path, runs: list[Path], days: float) -> str | None:
    """Why an artefact stays; None where it may go."""
    reason, asked = _standing(artefact, runs)
    age = (time.time() - max(asked, (artefact / MANIFEST).stat().st_mtime)) / _DAY
    return reason or (f"made or asked for {max(0.0, age):.1f} days ago" if age < days else None)


def _standing(artefact: Path, runs: list[Path]) -> tuple[str | None, float]:
    """Who stands on the artefact of this path, which may have been moved; and when it was last asked for."""
    digest, asked = digest_of(artefact), 0.0
    try:
        for entry in entries(artefact):
            asked = max(asked, entry.time)
            if reason := entry.reason(digest):
                return reason, asked
    except (DataError, OSError) as error:  # no proof that nobody is there
        return f"its users cannot be read: {str(error).splitlines()[0]}", asked
    run = next((run for run in runs if run_names(run, digest)), None)
    return (f"{run} stands on it" if run else None), asked


def discard_run(found: Found, trash: Path) -> Path | None:
    """Move a run to the trash; None where it is no longer broken, or somebody else has it."""
    try:
        with RunDir(found.path).lock() as lock:
            if why_broken(RunDir(found.path)) is None:
                return None
            target = _move(found.path, trash / found.place)
            lock.path = target / lock.path.name  # it has moved with its run, and is released there
            return target
    except LockedError:
        return None


def discard_artefact(found: Found, store: ArtefactStore, root: Path, days: float, trash: Path) -> Path | None:
    """Move an artefact and the list of its users to the trash; None where somebody has come to stand on it."""
    lock, runs, users = store.building_lock(found.path), _runs_with_artefacts(root), users_folder(found.path)
    with storage_errors(lock.path):
        lock.path.parent.mkdir(exist_ok=True)
    try:
        with lock, registry(store.root):
            if _why_used(found.path, runs, days):
                return None
            target = _move(found.path, trash / found.place)
            if _standing(found.path, runs)[0]:  # there is no flock here, and a run came in between
                target.replace(found.path)
                return None
            if users.is_dir():
                _move(users, trash / "users" / found.place)
            return target
    except LockedError:
        return None


def fresh_trash(base: Path) -> Path:
    """A new folder in a trash folder, named by the time.

    Raises:
        DataError: the trash is a link that leads elsewhere.
    """
    _no_link(base)
    for attempt in range(1000):
        path = base / (time.strftime("%Y%m%d-%H%M%S") + (f"-{attempt}" if attempt else ""))
        with storage_errors(path), suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise DataError("no name is left", where=str(base))


def _no_link(base: Path) -> None:
    if base.is_symlink():
        raise DataError("the trash is a link that leads elsewhere", where=str(base), hint="remove the link")


def _move(path: Path, target: Path) -> Path:
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    sync_folder(path.parent)
    return target


def empty(base: Path) -> int:
    """Delete what is in a trash folder; returns its bytes. Links in it are removed, and not followed.

    Raises:
        DataError: the trash is a link that leads elsewhere.
    """
    size = trash_size(base)
    if base.is_dir():
        with storage_errors(base):
            shutil.rmtree(base)
    return size


def trash_size(base: Path) -> int:
    """Bytes in a trash folder.

    Raises:
        DataError: the trash is a link that leads elsewhere.
    """
    _no_link(base)
    return size_of(base)


def size_of(path: Path) -> int:
    """Bytes of all files below a folder, links not followed."""
    return sum((Path(folder) / name).lstat().st_size for folder, _, names in os.walk(path) for name in names)
