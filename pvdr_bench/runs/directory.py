"""The run directory: one folder that says what a run is, how far it came, and how to go on.

::

    run.yaml          recipe (what determines results) and the full spec, budget included
    provenance.json   what it was first made with, and what differed in later starts
    train.jsonl       metrics of training             } append-only, cut back to
    episodes.jsonl    one line per evaluation episode } the checkpoint on resume;
    timing.jsonl      seconds, by part of each phase  } the last is never the same twice
    incidents.jsonl   simulators that died and were started again, if any; never cut back
    heartbeat.json    progress for watchers
    checkpoints/      videos/
    done.json or failed.json    done.json seals the others, see runs/seal.py
    lock              who writes it now
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import yaml

from pvdr_bench.errors import BenchError, ChangedError, DataError, UsageError
from pvdr_bench.runs import provenance
from pvdr_bench.runs.checkpoints import KEEP, Checkpoint, CheckpointStore
from pvdr_bench.runs.contents import RunContents
from pvdr_bench.runs.difference import difference
from pvdr_bench.runs.files import (
    atomic_write,
    canonical_json,
    content_hash,
    encode,
    make_folder,
    plain,
    remove_leftovers,
    to_json,
    write_json,
)
from pvdr_bench.runs.holders import place
from pvdr_bench.runs.locks import LOOK_SECONDS, STALE_MINUTES, FileLock
from pvdr_bench.runs.logs import JsonlLog
from pvdr_bench.runs.run_file import FORMAT
from pvdr_bench.runs.schema import DoneFile, HeartbeatFile, ProvenanceFile, read_if_any
from pvdr_bench.runs.seal import check_facts, make_seal, resealed
from pvdr_bench.runs.standing import REPAIR

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's, where PyYAML has it: ten times faster
_WITHOUT = "this run is done and has no checkpoint: it was published without its checkpoints, or they were removed"


class Spec(Protocol):
    """What a run directory needs of a run's specification; ``catalog`` has the real one."""

    def recipe(self) -> dict[str, Any]:
        """All that determines results; the budget is not part of it."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """The whole specification as JSON types."""


class RunDir(RunContents):
    """One run's folder. Writing methods belong to the holder of :meth:`lock`; see :class:`RunContents` for reading.

    Args:
        path: the folder; made by :meth:`open` or :meth:`lock`.
        keep: checkpoints to keep besides the newest.
    """

    def __init__(self, path: Path | str, *, keep: int = KEEP) -> None:
        super().__init__(path)
        self.checkpoints = CheckpointStore(self.path / "checkpoints", keep)
        self._logs = (self.train, self.episodes, self.timing)
        self._lock: FileLock | None = None
        self._last_beat = -float("inf")

    @contextmanager
    def lock(self, *, stale_minutes: float = STALE_MINUTES) -> Iterator[FileLock]:
        """Be the one writer of this run.

        Raises:
            LockedError: another living process is; says host, process and job.
        """
        make_folder(self.path)
        lock = FileLock(self.path / "lock", f"run {self.path}", stale_minutes=stale_minutes)
        with lock:
            self._lock = lock
            try:
                remove_leftovers(self.path)
                yield lock
            finally:
                self._lock = None
                for log in self._logs:
                    log.close()

    @property
    def locked(self) -> bool:
        """Whether this object holds the run's lock."""
        return self._lock is not None and self._lock.held

    def check_lock(self, every_seconds: float = 0.0) -> None:
        """Call before publishing something, and with ``every_seconds`` before each of many small writes.

        Args:
            every_seconds: see :meth:`pvdr_bench.runs.locks.FileLock.check`.

        Raises:
            LockedError: the lock was lost to another process.
        """
        if self._lock is not None:
            self._lock.check(every_seconds)

    def open(self, spec: Spec) -> None:
        """Make ``run.yaml``, or check that the one that is there has the same recipe; a changed budget is written down.

        Takes the lock for a moment if this object does not hold it and has to write.

        Raises:
            ChangedError: recipe, protocol or algorithm version differ; the message is the difference.
            LockedError: something must be written, and another process writes this run.
            DataError: ``run.yaml`` is broken.
        """
        recipe, whole = plain(spec.recipe()), plain(spec.model_dump(mode="json"))
        wanted = {"format": FORMAT, "recipe_hash": content_hash(recipe), "recipe": recipe, "spec": whole}
        found = self.read_run()
        if found is not None:
            self._compare(found, recipe, str(self.path))
            if canonical_json(found) == canonical_json(wanted):
                return
        if not self.locked:
            with self.lock():
                self.open(spec)
            return
        text = yaml.dump(wanted, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=120)
        self._replace("run.yaml", encode(text))  # the same run under another title, or about to be extended

    def _replace(self, name: str, data: bytes) -> None:
        """Replace a sealed file. What is done stays done, with a seal of what stands there now."""
        done = self.unseal()
        atomic_write(self.path / name, data)
        if done is not None:
            write_json(self.path / "done.json", resealed(done, name, data))

    def write_facts(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write ``provenance.json`` or ``artefacts.json``; a start of a done run that fails later leaves it done."""
        self._replace(name, encode(to_json(facts, indent=2) + "\n"))

    def check(self, spec: Spec, where: str) -> None:
        """Refuse as :meth:`open` would, and write nothing.

        Args:
            where: what an error calls this folder.

        Raises:
            ChangedError: recipe, protocol or algorithm version differ; the message is the difference.
        """
        if (found := self.read_run()) is not None:
            self._compare(found, plain(spec.recipe()), where)

    def _compare(self, found: dict[str, Any], recipe: dict[str, Any], where: str) -> None:
        lines = difference(found.get("recipe"), recipe)
        if lines:
            raise ChangedError(
                "this run was made with another recipe:\n" + "\n".join(f"    {line}" for line in lines),
                where=where, hint="give the old values, or choose another --results folder, or remove the run")

    def write_provenance(self) -> dict[str, Any]:
        """Record what this start runs with; returns it. Later starts keep the first and add what differs."""
        now = provenance.collect()
        first = cast("dict[str, Any] | None", read_if_any(ProvenanceFile, self.path / "provenance.json"))
        if first is None:
            self.write_facts("provenance.json", {**now, "resumes": []})
            return now
        changed = {key: value for key, value in now.items() if canonical_json(first.get(key)) != canonical_json(value)}
        first.setdefault("resumes", []).append(changed)
        self.write_facts("provenance.json", first)
        return now

    def save(self, step: int, state: dict[str, Any], extra: dict[str, Any] | None = None) -> Path:
        """Publish a checkpoint that knows the logs' offsets (``extra["offsets"]``); the logs reach the disk first.

        Raises:
            StorageError: the disk is full; everything of before is intact.
            LockedError: the lock was lost meanwhile.
        """
        self.check_lock()
        return self.checkpoints.save(step, state, {**(extra or {}), "offsets": self.offsets()})

    def newest(self) -> Checkpoint:
        """The newest whole checkpoint, for whoever wants to play with it.

        Raises:
            UsageError: there is none: not yet, or the run was published without.
            DataError: there are some, and all are broken, or the newest cannot be read.
        """
        if (found := self.checkpoints.latest()) is not None:
            return found
        if self.done() is None:
            raise UsageError("this run has no checkpoint yet", where=str(self.path), hint="let it run to its first one")
        raise UsageError(_WITHOUT, where=str(self.path),
                         hint="name the run in the results folder that it was made in, or make it anew in another one: "
                              "pvdr-bench run --results DIR")

    def resumable(self) -> Checkpoint | None:
        """The newest whole checkpoint, to train on from; None for a fresh run.

        Raises:
            DataError: every checkpoint is broken, or the newest cannot be read; or the run is done and has none: to
                begin anew would erase it.
        """
        found = self.checkpoints.latest()
        if found is None and self.done() is not None:
            raise self.no_way_on(str(self.path))
        return found

    @staticmethod
    def no_way_on(where: str) -> DataError:
        """What is said of a run that is done, and has no checkpoint to train on from."""
        return DataError(f"{_WITHOUT}; to train on would erase it", where=where,
                         hint="put its checkpoints back, or give --results the folder that it was made in, or "
                              "another one to make it anew")

    def restore(self) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """The newest whole checkpoint, with the run reopened and the logs cut back to it; None (and empty logs) for a
        fresh run.

        Raises:
            DataError: see :meth:`resumable`, nothing is changed then; or a log is shorter than its checkpoint says.
        """
        self.checkpoints.tidy()
        checkpoint = self.resumable()
        self.reopen()  # before the logs are cut: what is done has its final evaluation
        self.truncate_logs(checkpoint.extra["offsets"] if checkpoint else {})
        return checkpoint

    def append(self, log: JsonlLog, row: Mapping[str, Any]) -> None:
        """Add a row to one of the logs, unless this process slept for so long that another one took the run over.

        Raises:
            LockedError: it did.
        """
        self.check_lock(LOOK_SECONDS)
        log.append(row)

    def offsets(self) -> dict[str, int]:
        """Lengths of the logs in bytes, after bringing them to the disk."""
        return {log.path.name: log.sync() for log in self._logs}

    def truncate_logs(self, offsets: Mapping[str, int]) -> None:
        """Cut the logs back to ``offsets`` (by file name); a log without one is emptied."""
        for log in self._logs:
            log.truncate(offsets.get(log.path.name, 0))

    def heartbeat(self, *, every_seconds: float = 0.0, **progress: Any) -> None:
        """Tell watchers how far the run is, at most once in ``every_seconds``.

        Raises:
            LockedError: the lock was lost to another process; what it tells watchers stays.
        """
        if time.monotonic() - self._last_beat >= every_seconds:
            self.check_lock(LOOK_SECONDS)
            self._last_beat = time.monotonic()
            facts = {"time": time.time(), "pid": os.getpid(), **place(), **progress}
            write_json(self.path / "heartbeat.json", facts, durable=False)

    def last_beat(self) -> HeartbeatFile:
        """What the start before this one told of last; empty where a machine went down while it was written."""
        try:
            return self.read_heartbeat() or {}
        except DataError:
            return {}

    def mark_done(self, **facts: Any) -> None:
        """Write ``done.json``, and in it the seal of what is there now; put the reached ``env_steps`` into ``facts``.

        Raises:
            DataError: a file was damaged while the run was going on.
        """
        self.check_lock()
        self.offsets()  # what is sealed is on the disk
        facts = plain({"time": time.time(), **facts})
        seal = make_seal(self.path, facts)
        (self.path / "failed.json").unlink(missing_ok=True)
        write_json(self.path / "done.json", {**facts, "seal": seal})

    def unseal(self) -> DoneFile | None:
        """Take the seal off before a sealed file changes; ``done.json`` as it was, or None if there is no seal.

        A process that dies meanwhile leaves a run without a seal, which is whole.

        Raises:
            DataError: ``done.json`` is broken, or was changed.
        """
        done = self.done()
        if done is None or "seal" not in done:
            return None
        if change := check_facts(done):
            raise DataError(change.detail, where=str(self.path / change.file), hint=REPAIR)
        write_json(self.path / "done.json", {key: value for key, value in done.items() if key != "seal"})
        return done

    def mark_failed(self, error: BaseException, **facts: Any) -> None:
        """Write ``failed.json`` with message, exit code and traceback; not where the run is done.

        A start that was to extend it failed before it changed any result. The run is as good as before, and who
        started it is told the error.
        """
        self.check_lock()
        if os.path.lexists(self.path / "done.json"):
            return
        write_json(self.path / "failed.json", {
            "time": time.time(), "error": type(error).__name__, "message": str(error),
            "exit_code": error.exit_code if isinstance(error, BenchError) else 1,
            "traceback": "".join(traceback.format_exception(error)), **facts,
        })

    def reopen(self) -> None:
        """Forget that the run was done or failed: it continues."""
        for name in ("done.json", "failed.json"):
            (self.path / name).unlink(missing_ok=True)
