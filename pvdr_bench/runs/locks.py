"""Locks that name their holder and do not outlive it.

The lock is a file with host, process, start time, job and command. It appears with its whole content in one step
(``os.link``), so two processes cannot both make it. Its modification time is the heartbeat; ages are measured against
the clock of the file system that holds it, so clocks of hosts need not agree.

A lock is stale, and taken over, when its holder is certainly gone (see :mod:`pvdr_bench.runs.holders`); where that
cannot be known, when the heartbeat is older than ``stale_minutes``. Taking over is serialised by a short ``flock``
where the file system has one; without it, the taker checks that what it removed is the lock it judged.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Self, cast

from pvdr_bench.errors import DataError, Interrupted, LockedError, UnreadableError
from pvdr_bench.runs.faults import crash_point
from pvdr_bench.runs.files import encode, storage_errors, to_json, write_file
from pvdr_bench.runs.guard import guarded
from pvdr_bench.runs.holders import certainly_gone, describe, identity
from pvdr_bench.runs.schema import LockFile, read

STALE_MINUTES = 10.0
BEAT_SECONDS = 20.0
LOOK_SECONDS = 1.0  # between looks at the lock before small writes
SILENT_SECONDS = 3 * BEAT_SECONDS  # after which watchers no longer call a holder alive


class FileLock:
    """One writer at a time for whatever ``path`` stands beside.

    Use it as a context manager, or :meth:`acquire` and :meth:`release`. A thread beats while it is held.

    Args:
        path: the lock file; its folder must exist.
        what: how errors call the locked thing, for example ``run reach/pvdr/seed-0``.
        stale_minutes: heartbeat age after which a holder that cannot be looked up counts as dead.
        beat_seconds: time between heartbeats.
    """

    def __init__(self, path: Path, what: str = "", *, stale_minutes: float = STALE_MINUTES,
                 beat_seconds: float = BEAT_SECONDS) -> None:
        self.path, self.what = path, what or str(path.parent)
        self.stale_minutes, self.beat_seconds = stale_minutes, beat_seconds
        self.taken_over: dict[str, Any] | None = None  # the dead holder this lock was taken from
        self._me: dict[str, Any] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = False
        self._looked = -float("inf")  # when the file was last seen to be ours, by the wall clock

    @property
    def held(self) -> bool:
        """Whether this object, in this process, holds the lock."""
        return self._me is not None and self._me["pid"] == os.getpid() and not self._lost

    def holder(self) -> dict[str, Any] | None:
        """Who holds the lock now, dead or alive; None where nobody does."""
        try:
            return self._written()
        except DataError:  # published whole, so this was damaged from outside; its heartbeat still counts
            return {"host": "unknown", "pid": 0, "token": "damaged"}

    def _written(self) -> dict[str, Any] | None:
        """What the file says; None where there is none. DataError: it is damaged, or cannot be read now."""
        try:
            return cast("dict[str, Any]", read(LockFile, self.path))
        except FileNotFoundError:
            return None

    def _is_mine(self) -> bool:
        """Whether the file is this process's. UnreadableError: it cannot be read now, which says nothing."""
        try:
            holder = self._written()
        except UnreadableError:
            raise
        except DataError:
            return False
        return self._me is not None and holder is not None and holder.get("token") == self._me["token"]

    def silence(self) -> float:
        """Seconds since the holder was last heard of, by this host's clock; 0 where nobody holds the lock."""
        try:
            return max(0.0, time.time() - self.path.lstat().st_mtime)
        except OSError:
            return 0.0

    def is_held_by_living(self) -> bool:
        """Whether some process, perhaps this one, holds the lock and lives as far as can be told."""
        holder = self.holder()
        return holder is not None and not self._stale(holder, identity())

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LockedError: a living process holds it (or this one does already); says which.
            StorageError: the folder cannot be written.
        """
        if self.held:
            raise LockedError(f"{self.what} is already open in this process", where=str(self.path))
        me = identity()
        with self._guard():
            for _ in range(100):
                if self._publish(me):
                    break
                holder = self.holder()
                if holder is None:
                    continue
                if not self._stale(holder, me):
                    raise self._refusal(holder)
                if self._remove(holder):
                    self.taken_over = holder
            else:
                raise LockedError(f"{self.what} changes hands all the time", where=str(self.path),
                                  hint="several processes fight for it: start one")
            self._remove_old_temporaries()
        self._me, self._lost = me, False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_forever, name="lock-heartbeat", daemon=True)
        self._thread.start()

    def wait(self, stop: Callable[[], bool], poll_seconds: float, on_wait: Callable[[str], None] | None = None) -> None:
        """Take the lock once nobody else has it, perhaps in hours.

        Args:
            stop: asked at every look. on_wait: told once who is waited for.

        Raises:
            Interrupted: ``stop`` said so.
        """
        told = False
        while True:
            try:
                self.acquire()
                return
            except LockedError:
                if on_wait is not None and not told:
                    on_wait(f"waiting for {self.what}, made by {describe(self.holder())}")
                    told = True
            if stop():
                raise Interrupted(f"stopped while it waited for {self.what}", hint="the same command continues")
            time.sleep(poll_seconds)

    def release(self) -> None:
        """Give the lock back; does nothing in a forked child or where it was lost."""
        me, self._me, self._looked = self._me, None, -float("inf")
        if me is None or me["pid"] != os.getpid():
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._guard():
            if (holder := self.holder()) and holder.get("token") == me["token"]:
                self.path.unlink(missing_ok=True)

    def remove_dead(self, holder: Mapping[str, Any]) -> bool:
        """Take away the lock of a holder that is known to be dead in a way that this room cannot know; False if it
        has changed hands."""
        with self._guard():
            return self._remove(holder)

    def check(self, every_seconds: float = 0.0) -> None:
        """Call before publishing something, and with ``every_seconds`` before each of many small writes.

        Args:
            every_seconds: believe what was seen within this time. By the wall clock, which goes on while a machine
                sleeps: a process that wakes up looks before it writes.

        Raises:
            LockedError: another process took this lock over (this one was stopped for too long).
            UnreadableError: it cannot be read now, and something is to be published; it may still be this process's.
        """
        if not self._lost and 0 <= time.time() - self._looked < every_seconds:
            return
        try:
            mine = self._is_mine()
        except UnreadableError:
            if every_seconds:  # the next look, or that before publishing, decides
                return
            raise
        if not mine:
            self._lost = True
            raise LockedError(f"this process lost {self.what} to {describe(self.holder())}", where=str(self.path),
                              hint="it was silent for too long; nothing more is written here")
        self._looked = time.time()

    def beat(self) -> None:
        """Say that the holder lives."""
        if self._me is not None and not self._lost:
            try:
                if not self._is_mine():
                    self._lost = True
                    return
            except UnreadableError:
                return  # the next beat looks again
            with suppress(FileNotFoundError):
                os.utime(self.path)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat_forever(self) -> None:
        while not self._stop.wait(self.beat_seconds):
            with suppress(OSError):  # a network file system may be away for a while; the next beat tells
                self.beat()

    def _refusal(self, holder: Mapping[str, Any]) -> LockedError:
        return LockedError(f"{self.what} is being written by {describe(holder)}", where=str(self.path),
                           hint=f"wait for it or stop it; if its host is gone, the lock opens {self.stale_minutes:g} "
                                "minutes after its last heartbeat")

    def _stale(self, holder: Mapping[str, Any], me: Mapping[str, Any]) -> bool:
        gone = certainly_gone(holder, me)
        if gone is not None:
            return gone
        try:
            age = _filesystem_now(self.path.parent) - self.path.lstat().st_mtime
        except OSError:
            return False  # released meanwhile: the caller looks again
        return age > 60 * self.stale_minutes

    def _publish(self, me: Mapping[str, Any]) -> bool:
        """Make the lock file with its content in one step; False if there is one already."""
        temporary = self.path.with_name(f".{self.path.name}.{me['token']}.tmp")
        write_file(temporary, encode(to_json(me) + "\n"))
        try:
            os.link(temporary, self.path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EPERM):
                return self._publish_without_links(me)
            with storage_errors(self.path):
                raise
        finally:
            temporary.unlink(missing_ok=True)
        crash_point(f"lock/{self.path.name}/taken")
        return True

    def _publish_without_links(self, me: Mapping[str, Any]) -> bool:
        """The same where the file system has no hard links; a reader in between sees a damaged, fresh lock."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return False
        with storage_errors(self.path), os.fdopen(descriptor, "wb") as file:
            file.write(encode(to_json(me) + "\n"))
        return True

    def _remove(self, judged: Mapping[str, Any]) -> bool:
        """Take a stale lock away; False if it had changed hands since it was judged."""
        aside = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}.tmp")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return False
        crash_point(f"lock/{self.path.name}/removed")
        taken = FileLock(aside).holder() or {}
        if taken.get("token") == judged.get("token"):
            _discard(aside)
            return True
        with suppress(FileExistsError):  # a living lock was moved: put it back unless a third one came
            os.link(aside, self.path)
        aside.unlink(missing_ok=True)
        return False

    def _remove_old_temporaries(self) -> None:
        """Files of processes that died while asking for the lock; young ones may belong to a living one."""
        for path in (*self.path.parent.glob(f".{self.path.name}.*.tmp"), *self.path.parent.glob(".now.*.tmp")):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > 3600:
                    path.unlink()

    def _guard(self) -> AbstractContextManager[None]:
        """Serialise takers on file systems that have flock; held for milliseconds, never while running."""
        return guarded(self.path.with_name(f".{self.path.name}.guard"), self.what)


def _discard(aside: Path) -> None:
    """Delete what stood in the lock's place, even a folder."""
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink(missing_ok=True)


def _filesystem_now(folder: Path) -> float:
    """The time as the file system of ``folder`` sees it (a server's, on a network); ours where it is read-only."""
    probe = folder / f".now.{uuid.uuid4().hex}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
