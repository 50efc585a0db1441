"""Places where a test can make the process die, or the disk full, in the middle of a write.

Every write of this room passes such points. Without the environment variables below they cost one look-up.

- ``PVDR_BENCH_CRASH_AT=NAME`` or ``NAME:K``: die like ``kill -9`` when NAME is passed for the K-th time (K from 1).
- ``PVDR_BENCH_FULL_AT=NAME`` or ``NAME:K``: raise ``OSError(ENOSPC)`` there, once.
- ``PVDR_BENCH_CRASH_TRACE=FILE``: append each name passed to FILE, so that a test can visit them all.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path

CRASH_AT = "PVDR_BENCH_CRASH_AT"
FULL_AT = "PVDR_BENCH_FULL_AT"
TRACE = "PVDR_BENCH_CRASH_TRACE"
CRASH_CODE = 137  # what a shell shows for a process that was killed with signal 9

_passed: Counter[str] = Counter()


def armed(name: str) -> bool:
    """Whether a test asked for a fault at ``name``, at whichever pass (used to split a write only where it matters)."""
    return any(_target(variable)[0] == name for variable in (CRASH_AT, FULL_AT))


def crash_point(name: str) -> None:
    """Die or fail here if a test asked for it.

    Raises:
        OSError: ENOSPC, when PVDR_BENCH_FULL_AT names this pass.
    """
    if CRASH_AT not in os.environ and FULL_AT not in os.environ and TRACE not in os.environ:
        return
    _passed[name] += 1
    if trace := os.environ.get(TRACE):
        with Path(trace).open("a", encoding="utf-8") as file:
            file.write(name + "\n")
    if _target(CRASH_AT) == (name, _passed[name]):
        os._exit(CRASH_CODE)
    if _target(FULL_AT) == (name, _passed[name]):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _target(variable: str) -> tuple[str, int]:
    name, _, count = os.environ.get(variable, "").partition(":")
    return name, int(count or 1)
