"""Streams of text that break once, and say so as the program's own error, or go on into nowhere.

Commands write through them (:mod:`pvdr_bench.cli.output`), and so do the processes that nobody watches, jobs and
workers: a log whose disk is full is no reason to lose a run.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pvdr_bench.errors import StorageError

STDOUT = "standard output"


class ReaderGone(SystemExit):
    """Whoever read our output has closed it: nothing is wrong, and nothing is left to say."""


class Guarded:
    """A text stream whose errors are told once, as the program's own; after the first all is dropped.

    Args:
        stream: the stream of before.
        fatal: raise in the main thread; else losing the output is of no matter.
    """

    def __init__(self, stream: Any, *, fatal: bool) -> None:
        self.stream, self.fatal = stream, fatal
        self.failed: OSError | None = None

    def write(self, text: str) -> int:
        """Write or drop all of it."""
        self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Bring it out.

        Raises:
            ReaderGone: nobody reads any more. StorageError: it cannot be written.
        """
        self._try(self.stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if self.failed is not None:
            return
        try:
            act()
        except OSError as error:
            self.failed = error
            self._abandon()
            if self.fatal and threading.current_thread() is threading.main_thread():
                self.check()

    def check(self) -> None:
        """Raise what was met before, also in another thread; see :meth:`flush`."""
        if isinstance(self.failed, BrokenPipeError):
            raise ReaderGone(0)
        if self.failed is not None:
            raise StorageError(f"cannot be written: {self.failed.strerror}", where=STDOUT,
                               hint="make room, or send the output elsewhere; what the command saved in files is there")

    def _abandon(self) -> None:
        """Let what is left in buffers go nowhere, so that the interpreter's last flush has nothing to complain of."""
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def of_no_matter() -> Iterator[None]:
    """Within this block standard output and error may get lost without anybody being told."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Guarded(stream, fatal=False) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
