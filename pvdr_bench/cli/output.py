"""What every command prints goes through here: readers that go, full disks, closed streams, and text that acts.

Standard output and error are wrapped for the length of a command (:func:`run`). Output that cannot be written ends the
command with exit code 9 and one message, a reader that has gone (``| head``) ends it in silence with 0, and errors of
standard error are nobody's to tell. What a terminal would obey is written out (:mod:`pvdr_bench.plain_text`); rich's
own styles pass, through :func:`console`.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvdr_bench.errors import BenchError, StorageError
from pvdr_bench.plain_text import visible
from pvdr_bench.streams import STDOUT, Guarded, ReaderGone

if TYPE_CHECKING:
    from rich.console import Console

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Cleaned:
    """A guarded stream for plain text: what a terminal would obey is written out."""

    def __init__(self, guarded: Guarded) -> None:
        self.guarded = guarded

    def write(self, text: str) -> int:
        """Write the harmless form."""
        return self.guarded.write(visible(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guarded, name)


def run(command: Callable[[], Any]) -> int:
    """Call a command with its streams guarded; returns its exit code, after an expected error was told."""
    before = sys.stdout, sys.stderr
    out, err = _wrap()
    try:
        if out is None:
            raise StorageError("is closed, so nothing could be told", where=STDOUT,
                               hint="redirect it to a file, or to /dev/null if nobody is to read it")
        return _finished(command, out)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        for stream in filter(None, (out, err)):
            stream.fatal = False
            stream.flush()
        sys.stdout, sys.stderr = before


def _finished(command: Callable[[], Any], out: Guarded) -> int:
    """The command's exit code, once all that it said is out.

    Raises:
        BenchError: the command's own, or its output is lost.
    """
    code: int | str | None
    try:
        code = command()
    except ReaderGone:
        return 0
    except SystemExit as end:
        code = end.code
    except OSError as error:
        if error.errno not in _FULL:
            raise
        from pvdr_bench.runs.files import storage_errors  # it reads JSON, and no help needs it

        with storage_errors(Path(str(error.filename)) if error.filename else None):
            raise
    try:
        out.flush()
        out.check()
    except ReaderGone:
        return 0 if not code else int(code)
    return code if isinstance(code, int) else int(code is not None)


def _wrap() -> tuple[Guarded | None, Guarded]:
    """Guard the streams; a closed one is opened on nothing, so that no file gets its number and its text."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    closed = sys.stdout is None
    out = Guarded(_open(sys.stdout), fatal=True)
    err = Guarded(_open(sys.stderr), fatal=False)
    sys.stdout, sys.stderr = Cleaned(out), Cleaned(err)
    return None if closed else out, err


def _open(stream: Any) -> Any:
    """The stream, or nowhere; letters that its encoding lacks are written out (an ASCII one becomes UTF-8)."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
    if hasattr(stream, "reconfigure"):
        ascii_only = (stream.encoding or "ascii").lower() in ("ascii", "us-ascii", "ansi_x3.4-1968", "646")
        stream.reconfigure(errors="backslashreplace", **({"encoding": "utf-8"} if ascii_only else {}))
    return stream


def console(*, stderr: bool = False, **options: Any) -> Console:
    """A rich console on the guarded stream: its own styles pass, and texts given to it are cleaned."""
    from rich.console import Console
    from rich.text import Text

    class CleanConsole(Console):
        def render_str(self, text: str, **how: Any) -> Text:
            return super().render_str(visible(text), **how)

    stream: Any = sys.stderr if stderr else sys.stdout
    return CleanConsole(file=getattr(stream, "guarded", stream), **options)
