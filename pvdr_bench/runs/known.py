"""Which finished runs were found intact, and what their files looked like: ``RESULTS/.aggregate/intact.json``.

Hashing every file of a thousand runs takes seconds, so a run whose files have the size, modification time and inode
that they had then is not hashed again. Safe to delete. Files that changed in the last :data:`SETTLED_SECONDS` are not
trusted, since a second change within the clock's grain would not show. Runs that are not intact are not kept.
"""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from pvdr_bench.errors import DataError, StorageError
from pvdr_bench.runs.archive import run_name
from pvdr_bench.runs.files import atomic_write, read_json
from pvdr_bench.runs.standing import Signature

FOLDER = ".aggregate"
SETTLED_SECONDS = 2.0  # the coarsest clock of a file system in use
SCHEMA = 1  # raise it when what is checked changes
_NAME = "intact.json"
_IGNORE = "*\n"  # git adds nothing of this folder


class KnownRuns:
    """Runs below a results folder that were intact when they were last looked at.

    Args:
        root: the results folder; nothing is written before :meth:`store`.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / FOLDER / _NAME
        self._before = self._load()
        self._kept: dict[str, list[int]] = {}
        self._new = False
        self._now: int | None = None

    def intact(self, folder: Path, now: Signature) -> bool:
        """Whether the run was intact when its files were as they are now."""
        name = run_name(folder, self.root)
        if self._before.get(name) != list(now):
            return False
        self._kept[name] = list(now)
        return True

    def remember(self, folder: Path, before: Signature, after: Signature) -> None:
        """The run is intact; it is remembered if its files were at rest meanwhile, and for a while before."""
        if self._now is None:
            self._now = file_system_time(self.root)
        if before == after and max(after[1::3]) < self._now - int(SETTLED_SECONDS * 1e9):
            self._kept[run_name(folder, self.root)] = list(after)
            self._new = True

    def store(self, *, whole: bool = False) -> None:
        """Write down what is known; a folder that cannot be written costs time only.

        Args:
            whole: all runs were asked for, so what was not is gone.
        """
        kept = self._kept if whole else {**self._before, **self._kept}
        if not self._new and len(kept) == len(self._before):
            return
        with suppress(StorageError):
            ignore_in_git(self.root)
            atomic_write(self.path, json.dumps({"schema": SCHEMA, "runs": kept}).encode(), durable=False)

    def _load(self) -> dict[str, Any]:
        try:
            found = read_json(self.path)
        except (FileNotFoundError, DataError):  # damaged from outside: made anew
            return {}
        runs = found.get("runs") if found.get("schema") == SCHEMA else None
        return runs if isinstance(runs, dict) else {}


def ignore_in_git(root: Path) -> None:
    """Let git add nothing of ``ROOT/.aggregate``."""
    if not (root / FOLDER / ".gitignore").exists():
        atomic_write(root / FOLDER / ".gitignore", _IGNORE.encode(), durable=False)


def file_system_time(root: Path) -> int:
    """Nanoseconds, as a file made below ``root`` now is dated, so clocks of hosts need not agree; 0 (nothing is
    at rest) where none can be made."""
    probe = root / FOLDER / f".now.{uuid.uuid4().hex}.tmp"
    try:
        probe.parent.mkdir(exist_ok=True)
        probe.touch()
        return probe.stat().st_mtime_ns
    except OSError:
        return 0
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
